"""Coarse threads: each takes a whole part of the work, forward and backward, with one-threaded operations inside.

A training step is some two hundred small operations. Torch's own threads share each of them and wait for each other
behind each, which is dear where another program needs a core. Threads that share the step's cells wait once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor, nn


class Threads:
    """So many threads, from entering a `with` block to its end; one means that the caller does the work itself."""

    def __init__(self, count: int = 1):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count > 1:  # torch's own are one meanwhile, also for the caller, who would wait for theirs
            self._torchs_own = torch.get_num_threads()
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(self.count, "scfm", torch.set_num_threads, (1,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._torchs_own)

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """What `work` makes of each item, in their order. Items are taken as needed: two for each thread.

        An exception of an item's, or Ctrl-C, is raised when all threads have ended what they had begun.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        begun: deque[Future] = deque()
        more = iter(items)
        try:
            begun.extend(self._pool.submit(work, item) for item in islice(more, 2 * self.count))
            while begun:
                begun[0].result()  # it stays in `begun` while it is waited for: Ctrl-C has to wait for it too
                yield begun.popleft().result()
                begun.extend(self._pool.submit(work, item) for item in islice(more, 1))
        finally:
            for future in begun:
                future.cancel()
            wait(begun)

    def backward(
        self,
        loss_of: Callable[[Any], Tensor],
        parts: list[Any],
        weights: list[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Adds the gradients of all parts' losses to the weights', and returns the sum of the losses, a scalar.

        The losses are scaled before their gradients are taken, which fp16 needs; what is returned is not.

        With several threads gradients are added in the order of the parts, whichever is ready first: for a given
        number of parts the sum is the same to the bit.
        """
        if self._pool is None:
            losses = []
            for part in parts:
                loss = loss_of(part)
                scale(loss).backward()
                losses.append(loss.detach())
            return torch.stack(losses).sum()
        weights = [weight for weight in weights if weight.requires_grad]

        def part_of_it(part: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss = loss_of(part)
            return loss.detach(), torch.autograd.grad(scale(loss), weights, allow_unused=True)

        losses = []
        for loss, gradients in self.map(part_of_it, parts):
            losses.append(loss)
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return torch.stack(losses).sum()


ONE_THREAD = Threads()


def threads_for(device: torch.device, dropout: float = 0.0, wanted: int | None = None) -> int:
    """How many threads share a step: those wanted, else as many as torch has.

    One on a card, which does the work itself, and with dropout, whose random numbers would fall to the threads in
    whichever order they come.
    """
    return 1 if device.type != "cpu" or dropout else wanted or torch.get_num_threads()
