"""How much memory a training step takes at its peak, without taking it.

The very step that `train` takes is run on fake tensors, which have shapes but no contents, while a list is kept of
every storage that comes and goes; the peak of their sum is what tensors need. What a process takes on top of its
tensors was measured (benchmarks/memory.py) and is counted as overhead.
"""

import functools
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..config import Config, ModelConfig, TrainingConfig
from ..dataset import Batch
from ..embed import BATCH_SIZE
from ..model import CellTransformer
from ..runtime.threads import threads_for
from ..train import new_state, training_step
from .workload import Shape, parameters

try:
    from torch._subclasses.fake_tensor import FakeTensorMode  # a private path: the formula below stands in for it
except ImportError:
    FakeTensorMode = None

CUDA_BLOCK = 512  # bytes: torch's CUDA allocator rounds every tensor up to a multiple
CUDA_CONTEXT = 500e6  # bytes: kernels and handles on the card; the hardware guide's figure, not measured by us
# What a process takes beyond its tensors, by benchmarks/resident.py on Linux with glibc 2.36, torch 2.13.0, 2 threads:
FRAMEWORK = {"fp32": 60e6, "bf16": 520e6, "fp16": 520e6}  # bytes: what torch loads at its first step, compiled kernels
# Between kept blocks there are holes, as a share of the tensors that come and go; more where oneDNN keeps kernels among
# them, none where freed memory returns at once.
HOLES = {"fp32": 0.45, "bf16": 0.9, "fp16": 0.9}
STARTED = {"train": 167e6, "embed": 18e6, "evaluate": 265e6}  # bytes that libraries take, loaded by each command
READ = {"embed": 45, "evaluate": 55}  # bytes for each expressed gene of a cell that is read, copies included


@dataclass(frozen=True)
class Trace:
    """What a training step does to memory: its passes forth and back, and then the optimizer."""

    peak: int  # bytes of all live tensors at the peak
    operations: int  # of the passes: those that read or write memory
    traffic: int  # bytes they read and write
    update_operations: int  # of the optimizer, once in a step
    update_traffic: int


class Storages(TorchDispatchMode):
    """Sees every operation and notes the storages it makes."""

    def __init__(self, block: int = 1):
        super().__init__()
        self.block, self.live, self.peak, self.operations, self.traffic = block, 0, 0, 0, 0
        self._seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        made = [self._note(tensor) for tensor in tree_iter(out) if isinstance(tensor, torch.Tensor)]
        if any(made) or operation.__name__.split(".")[0].endswith("_"):  # not a view: it makes or changes something
            read = [t.untyped_storage().nbytes() for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
            self.operations += 1
            self.traffic += sum(made) + sum(read)
        return out

    def _note(self, tensor: torch.Tensor) -> int:
        """Bytes of a storage not seen before, else 0."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return 0
        self._seen.add(storage)
        size = -(-storage.nbytes() // self.block) * self.block
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, size)
        return size

    def _gone(self, size: int) -> None:
        self.live -= size


class Fp32Norm(nn.LayerNorm):
    """LayerNorm as autocast has it on a card: in fp32 whatever comes in. On a CPU it stays in bf16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., H) in any precision -> (..., H) in fp32."""
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def trace(config: Config, shape: Shape, precision: str, device: str = "cpu") -> Trace:
    """A training step's memory, from the step itself on fake tensors; by formula where torch has none.

    Args:
        config: with its accumulation steps.
        shape: of the longest half cells in a forward pass, 2 * `training.batch_size` at most.
        precision: fp32, bf16 or fp16.
        device: cpu or cuda, whose autocast and allocator are others.
    """
    model, training = config.model.model_dump_json(), config.training.model_dump_json()
    return _trace(model, training, shape, "fp32" if precision == "fp32" else "bf16", device == "cuda")


@functools.lru_cache(maxsize=256)
def _trace(model_json: str, training_json: str, shape: Shape, precision: str, cuda: bool) -> Trace:
    dimensions = ModelConfig.model_validate_json(model_json)
    settings, device = TrainingConfig.model_validate_json(training_json), torch.device("cpu")
    if FakeTensorMode is None:
        return formula(dimensions, settings, shape, precision, cuda)
    rows = shape.rows
    with FakeTensorMode(), Storages(CUDA_BLOCK if cuda else 1) as storages:
        model = CellTransformer(dimensions, shape.genes)
        for module in model.modules() if cuda else ():
            if isinstance(module, nn.LayerNorm):
                module.__class__ = Fp32Norm
        state = new_state(model, settings, device, precision)
        for parameter in state.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(2):  # the optimizer makes its states in the first step; the peak is in later ones
            storages.operations = storages.traffic = 0
            state.optimizer.step()
        update = storages.operations, storages.traffic
        state.model.zero_grad(set_to_none=True)
        storages.operations = storages.traffic = 0
        part = Batch(
            torch.zeros(rows, shape.expressed, dtype=torch.int64),
            torch.zeros(rows, shape.expressed),
            torch.zeros(rows, shape.targets, dtype=torch.int64),
            torch.zeros(rows, shape.targets),
            torch.zeros(rows, dtype=torch.int64),
            torch.zeros(rows, dtype=torch.int64),
            np.full(rows, shape.tokens),
        )
        parts = [part] * min(2, settings.gradient_accumulation_steps)  # from the second on, gradients are there too
        training_step(state, parts, settings.learning_rate)
    return Trace(storages.peak, storages.operations - update[0], storages.traffic - update[1], *update)


def formula(model: ModelConfig, settings: TrainingConfig, shape: Shape, precision: str, cuda: bool = False) -> Trace:
    """The same by counting what is kept for the backward pass; within a tenth of the trace (tests).

    A token keeps 8 vectors of `hidden_dim` (two norms and their inputs, q, k, v, what attention gives) and 2 of
    `ff_dim` in each block but the last, which works on [CELL] alone, 3 from its embedding, and needs one of `ff_dim` on
    the way back. A checkpointed block keeps its input. A half cell has three rows of all genes, in the bag and in the
    decoder. The gradient of the bag comes last, when the rest is gone. On a card norms keep their inputs in fp32.
    """
    tokens, hidden = shape.rows * (shape.tokens + 1), model.hidden_dim
    width = 4 if precision == "fp32" else 2  # bytes
    block = (8 * hidden + 2 * model.ff_dim) * width + (4 * hidden if cuda and width == 2 else 0)
    blocks, embedding = (model.num_layers - 1) * block, (3 * hidden + 64) * width
    per_token = embedding + blocks + model.ff_dim * width
    traffic = int(9 * per_token * tokens)
    operations = 100 + (60 if precision == "fp32" else 80) * model.num_layers
    if settings.gradient_checkpointing:
        per_token = embedding + block + hidden * width * (model.num_layers - 1)
        operations, traffic = operations + 12 * model.num_layers, int(1.2 * traffic)
    count = sum(parameters(model, shape.genes).values())
    bag = 4 * shape.genes * model.gene_embedding_dim
    kept = int(per_token * tokens + 12 * shape.rows * shape.genes)
    update = 6, 16 * count  # a count and a fused update for each of AdamW's three groups
    return Trace(16 * count + max(0, kept - bag), operations, traffic, *update)


def memory(
    config: Config, shape: Shape, precision: str = "fp32", device: str = "cpu", exact: bool = True
) -> dict[str, int]:
    """Peak memory of training in bytes, by what holds it; `total` is the sum of the others.

    `activations` is all that live tensors need beyond the parameters (4 bytes each), their gradients (4) and the
    optimizer's states (AdamW: 8). `overhead` is what the process takes beyond its tensors. Arguments as in
    `trace`; without `exact` the formula is used, which is instant.
    """
    count = sum(parameters(config.model, shape.genes).values())
    on_cpu, training = device == "cpu", config.training
    threads = threads_for(torch.device("cpu" if on_cpu else "cuda"), config.model.dropout, training.threads)
    accumulated = 0
    if threads > 1:  # each takes a part of the half cells, and makes gradients of its own, which are then added up
        shape = replace(shape, rows=-(-shape.rows // threads))
        accumulated = 4 * count if training.gradient_accumulation_steps > 1 else 0
        training = training.model_copy(update={"gradient_accumulation_steps": 1})
        config = config.model_copy(update={"training": training})
    if exact:
        step = trace(config, shape, precision, device)
    else:
        step = formula(config.model, training, shape, precision, not on_cpu)
    held = 12 * count + accumulated  # weights, the optimizer's states, gradients from before
    peak = held + threads * (step.peak - 12 * count)
    holes = HOLES[precision] * (peak - held) if on_cpu and not training.gradient_checkpointing else 0
    parts = {
        "parameters": 4 * count,
        "gradients": 4 * count,
        "optimizer": 8 * count,
        "activations": peak - 16 * count,
        "overhead": int(FRAMEWORK[precision] + holes if on_cpu else CUDA_CONTEXT),
    }
    return parts | {"total": sum(parts.values())}


def command_bytes(command: str, config: Config, genes: int, tokens: int, expressed: float) -> int:
    """Bytes that `embed` or `evaluate` takes on a CPU beyond Python and the package, at the peak.

    Args:
        command: embed or evaluate.
        config: of the model.
        genes: that it hears.
        tokens: of the longest cell.
        expressed: genes of all cells that are in memory at a time: a chunk of the file, or all of it.
    """
    model = config.model
    models = {"embed": 4, "evaluate": 6}[command]  # copies of the weights: the model, its checkpoint with the optimizer
    threads = threads_for(torch.device("cpu"), wanted=config.training.threads)
    forward = 4 * BATCH_SIZE * (tokens + 1) * 2 * (model.hidden_dim + model.ff_dim)  # bytes, at the feed-forward layer
    weights = 4 * models * sum(parameters(model, genes).values())
    return int(STARTED[command] + READ[command] * expressed + weights + threads * forward)
