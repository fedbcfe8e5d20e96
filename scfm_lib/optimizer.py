"""The optimizers: Muon for the blocks' matrices, AdamW for everything else.

AdamW scales each weight's step by its own history. Muon (Jordan et al. 2024) looks at a matrix as a whole: its update
is turned into the nearest one whose singular values are all about one, so that rare directions move as far as common
ones. torch has a Muon too, from 2.9 on, but it computes in bfloat16, which took 64 times as long on a CPU without
bfloat16 (CONTRIBUTING.md).
"""

import torch
from torch import Tensor

from .config import TrainingConfig
from .model import CellTransformer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # from the Muon post: the steepest at 0, so that five rounds are enough
ROUNDS = 5
MUON_RATE = 10.0  # Muon's learning rate over AdamW's: 0.02 at 0.002
BAG_RATE = 0.1  # the bag's vectors start as the PCA's and should stay close to it


def orthogonalise(matrix: Tensor) -> Tensor:
    """(..., rows, columns) -> the nearest matrix whose singular values are all 1, roughly.

    Newton and Schulz's iteration: X <- a X + b (X X') X + c (X X')^2 X, which acts on singular values alone. They come
    out at 0.7 to 1.2, but for those below a 500th of the largest: five rounds lift a value 480 times and no more.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix  # the product X X' is then the smaller one
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices inside a network; torch.optim.Muon's rule in the gradients' precision."""

    def __init__(self, params: list[dict], lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step along the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(momentum, group["momentum"]))  # Nesterov's look ahead
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def new_optimizers(
    model: CellTransformer, settings: TrainingConfig, device: torch.device
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW. Each group's `lr_scale` is its rate over `settings.learning_rate`.

    Biases, norms and the [CELL] token are not decayed (nanoGPT's rule: fewer than two dimensions).
    """
    inside = [p for p in model.blocks.parameters() if p.dim() == 2]
    bag = model.bag_embedding
    others = [p for p in model.parameters() if p.dim() >= 2 and p is not bag and all(p is not q for q in inside)]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decay = settings.weight_decay
    groups = [
        {"params": others, "weight_decay": decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": [bag], "weight_decay": decay, "lr_scale": BAG_RATE},
    ]
    fused = device.type in {"cpu", "cuda"}  # one kernel for all parameters instead of hundreds
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=fused)
    muon = Muon([{"params": inside, "weight_decay": decay, "lr_scale": MUON_RATE}], lr=settings.learning_rate)
    return [muon, adamw]
