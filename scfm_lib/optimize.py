"""How a step is taken: the learning rate's course, AdamW, and the precision of the forward pass."""

import contextlib
import math

import torch
from torch import Tensor

from .batches import Batch
from .config import TrainingConfig
from .model import CellTransformer, prediction_loss
from .processes import ALONE, Processes


def learning_rate(step: int, total_steps: int, settings: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the highest rate."""
    warmup = max(1, round(settings.warmup_fraction * total_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def adamw(model: CellTransformer, settings: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW; biases, norms and the [CELL] token are not decayed (nanoGPT's rule: fewer than two dimensions)."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    fused = device.type in {"cpu", "cuda"}  # one kernel for all parameters instead of hundreds
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=fused)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for the forward pass; does nothing in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def training_step(
    model: CellTransformer,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parts: list[Batch],
    settings: TrainingConfig,
    device: torch.device,
    precision: str,
    processes: Processes = ALONE,
    molecules: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One optimizer step: nats per molecule (a scalar) and the gradients' norm before clipping.

    Args:
        parts: the step's batch, or what it was split into for gradient accumulation; their gradients add up to that
            of the whole.
        processes: the others that work on the same step; the loss that is returned is then this one's share.
        molecules: to predict in this step in all processes; those of `parts` when unset.
    """
    loss = torch.zeros((), device=device)
    molecules = sum(part.molecules for part in parts) if molecules is None else molecules
    for number, part in enumerate(parts, start=1):
        part = part.to(device)
        with contextlib.nullcontext() if number == len(parts) else processes.without_averaging(model):
            with autocast(device, precision):
                logits = model(part.genes, part.values)
            part_loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules
            # gradients are averaged over processes: make that a sum
            scaler.scale(part_loss if processes.count == 1 else part_loss * processes.count).backward()
        loss += part_loss.detach()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm
