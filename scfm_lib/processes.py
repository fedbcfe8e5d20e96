"""One run in several processes: `torchrun`, `accelerate launch` and `notebook_launcher` all set the same variables.

Every process makes the same batches and takes its share of each, so the order of cells does not depend on how many
there are. Gradients are averaged by torch's DistributedDataParallel; the first process alone writes.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .batches import Batch
from .config import InputError

PATIENCE = datetime.timedelta(minutes=60)  # how long a process waits for the others: the first one prepares the data


@dataclass(frozen=True)
class Processes:
    """Which of how many this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def share(self, batch: Batch, parts: int) -> list[Batch]:
        """This process's parts of a step's batch; together the processes have every half cell once.

        A process for which nothing is left gets a part without molecules, so that it keeps step with the others.
        """
        pieces = batch.split(self.count * parts)
        if mine := pieces[self.rank :: self.count]:
            return mine
        spare = pieces[0]
        return [
            Batch(spare.genes, spare.values, spare.target_genes, torch.zeros_like(spare.target_counts), spare.cells)
        ]

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose gradients are averaged over the processes; itself, if there is one."""
        if self.count == 1:
            return model
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def without_averaging(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """For all parts of a step but the last: their gradients are added up here, and sent once."""
        return contextlib.nullcontext() if self.count == 1 else model.no_sync()

    def summed(self, *values: Tensor | float) -> list[float]:
        """Sums over all processes."""
        total = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(total)
        return total.tolist()

    def any(self, *wishes: bool) -> list[bool]:
        """What at least one process wishes."""
        return [bool(wish) for wish in self.summed(*wishes)] if self.count > 1 else list(wishes)

    def once(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them.

        Raises:
            InputError: in every process, if it did in the first.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except InputError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise InputError(box[1])
        return box[0]


ALONE = Processes()


def is_first() -> bool:
    """Whether this is the process that writes and prints, asked before they are joined."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run, in touch with each other until the end of the block.

    Raises:
        InputError: the launcher's variables are wrong, or another process ended.
    """
    try:
        count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    except ValueError:
        told = f"WORLD_SIZE={os.environ.get('WORLD_SIZE')!r}, RANK={os.environ.get('RANK')!r}"
        raise InputError(
            f"{told} are not numbers; start with torchrun --nproc_per_node=2 -m scfm_lib train ..."
        ) from None
    if count == 1:
        yield ALONE
        return
    already = dist.is_initialized()
    try:
        if not already:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        yield Processes(rank, count)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError) or not _is_about_the_others(error):
            raise
        reason = str(error).strip().splitlines()[0][-80:]
        raise InputError(
            f"process {rank} of {count} lost touch with the others ({reason}): one of them ended or was never started; "
            "go on from the last checkpoint with --resume RUN, with any number of processes"
        ) from None
    finally:
        if not already and dist.is_initialized():
            dist.destroy_process_group()


def _is_about_the_others(error: Exception) -> bool:
    words = ("peer", "connect", "gloo", "nccl", "broken pipe", "timed out", "timeout", "environment variable")
    return any(word in str(error).lower() for word in words)
