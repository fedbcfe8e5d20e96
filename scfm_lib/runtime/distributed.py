"""One run in several processes: `torchrun`, `accelerate launch` and `notebook_launcher` all set the same variables.

Every process makes the same batches and takes its share of each, so the order of cells does not depend on how many
there are. Gradients are summed once a step; the first process alone writes.
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

from ..errors import InputError

PATIENCE = datetime.timedelta(minutes=60)  # how long a process waits for the others: the first one prepares the data


@dataclass(frozen=True)
class Distributed:
    """Which process this is (`rank`) of how many (`world_size`)."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def shard(self, micro_batches: list[Any]) -> list[Any]:
        """This process's micro-batches of a step; together the processes have each of them once."""
        return micro_batches[self.rank :: self.world_size]

    def same_weights(self, model: nn.Module) -> None:
        """Gives every process the first one's weights."""
        if self.world_size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def sum_gradients(self, weights: list[nn.Parameter]) -> None:
        """Sums each weight's gradient over all processes: one message for all of them, at the end of a step."""
        if self.world_size == 1:
            return
        with_gradient = [weight for weight in weights if weight.grad is not None]
        together = torch.cat([weight.grad.flatten() for weight in with_gradient])
        dist.all_reduce(together)
        parts = together.split([weight.numel() for weight in with_gradient])
        for weight, part in zip(with_gradient, parts, strict=True):
            weight.grad.copy_(part.view_as(weight))

    def all_reduce_sum(self, *values: Tensor | float) -> list[float]:
        """Sums over all processes."""
        total = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def any(self, *wishes: bool) -> list[bool]:
        """For each wish, whether at least one process has it."""
        return [bool(count) for count in self.all_reduce_sum(*wishes)] if self.world_size > 1 else list(wishes)

    def rank_zero_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them; the others wait for it.

        Raises:
            InputError: in every process, if it did in the first.
        """
        if self.world_size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = make()
            except InputError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise InputError(box[1])
        return box[0]


ALONE = Distributed()


def is_first() -> bool:
    """Whether this is the process that writes and prints, asked before they are joined."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def join_processes() -> Iterator[Distributed]:
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
        yield Distributed(rank, count)
        dist.barrier()  # the first one may still write; one that leaves early takes its connections with it
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
    """Whether torch's way of reaching other processes raised it: an error of our own may speak of connections too."""
    words = ("/gloo/", "nccl", "torch.distributed", "rendezvous")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
