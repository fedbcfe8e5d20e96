"""How much memory a training step takes at its peak, without taking it.

The very step that `train` takes is run twice on fake tensors, which have shapes but no contents, while a list is kept
of every storage that comes and goes; the peak of their sum is what tensors need. What a process takes on top of its
tensors was measured (benchmarks/memory.py) and is counted as overhead.
"""

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .batches import Batch
from .config import Config
from .estimate import parameters
from .model import CellTransformer
from .optimize import adamw, training_step

CUDA_BLOCK = 512  # bytes: torch's CUDA allocator rounds every tensor up to a multiple
# What a process takes beyond its tensors, by benchmarks/memory.py on Linux with glibc 2.36, torch 2.13.0, 2 threads:
FRAMEWORK = {"fp32": 100e6, "bf16": 132e6, "fp16": 132e6}  # bytes: what torch loads at its first step, and buffers
# Between kept blocks there are holes, as a share of the tensors' peak: 0.13 and, since fewer, larger tensors fit the
# holes worse, 0.56 by number of layers. None if freed memory returns at once, as it does with checkpointing.
HOLES, HOLES_BY_LAYER = 0.13, 0.56


class Storages(TorchDispatchMode):
    """Sees every operation and notes the storages it makes: `live` bytes now, `peak` bytes at most."""

    def __init__(self, block: int = 1):
        super().__init__()
        self.block, self.live, self.peak, self.operations = block, 0, 0, 0
        self._seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                size = -(-storage.nbytes() // self.block) * self.block
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, size)
        return out

    def _gone(self, size: int) -> None:
        self.live -= size


def tensor_peak(config: Config, rows: int, genes: int, target_genes: int, precision: str, block: int = 1) -> int:
    """Bytes of all live tensors at the peak of a training step.

    Args:
        config: with its batch size and accumulation steps.
        rows: half cells in a forward pass: 2 * `training.batch_size` at most.
        genes: expressed genes of the longest half cell in it.
        target_genes: the same for the halves to predict.
        precision: fp32, bf16 or fp16.
        block: bytes that every tensor is rounded up to (512 on CUDA).
    """
    settings, device = config.training, torch.device("cpu")
    with FakeTensorMode(), Storages(block) as storages:
        model = CellTransformer(config.model)
        model.gradient_checkpointing = settings.gradient_checkpointing
        optimizer = adamw(model, settings, device)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        part = Batch(
            torch.zeros(rows, genes, dtype=torch.int64),
            torch.zeros(rows, genes),
            torch.zeros(rows, target_genes, dtype=torch.int64),
            torch.zeros(rows, target_genes),
            torch.zeros(rows, dtype=torch.int64),
        )
        parts = [part] * min(2, settings.gradient_accumulation_steps)  # from the second on, gradients are there too
        for _ in range(2):  # AdamW makes its states in the first step
            training_step(model, optimizer, scaler, parts, settings, device, "fp32" if precision == "fp32" else "bf16")
    return storages.peak


def memory(
    config: Config, rows: int, genes: int, target_genes: int, precision: str = "fp32", device: str = "cpu"
) -> dict[str, int]:
    """Peak memory of training in bytes, by what holds it; `total` is the sum of the others.

    `activations` is all that live tensors need beyond the parameters (4 bytes each), their gradients (4) and AdamW's
    two states (8). `overhead` is what the process takes beyond its tensors. Arguments as in `tensor_peak`.
    """
    count = sum(parameters(config.model).values())
    on_cpu = device == "cpu"
    tensors = tensor_peak(config, rows, genes, target_genes, precision, 1 if on_cpu else CUDA_BLOCK)
    kept = on_cpu and not config.training.gradient_checkpointing
    holes = tensors * (HOLES + HOLES_BY_LAYER / config.model.num_layers) if kept else 0
    parts = {
        "parameters": 4 * count,
        "gradients": 4 * count,
        "optimizer": 8 * count,
        "activations": tensors - 16 * count,
        "overhead": int(holes + FRAMEWORK[precision]),
    }
    return parts | {"total": sum(parts.values())}
