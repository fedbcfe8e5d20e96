"""How many cores torch uses, and what becomes of the memory it frees."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch

from .system import usable_cores


def use_all_cores() -> None:
    """Sets torch's threads to the usable cores, unless `OMP_NUM_THREADS` says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """For code of scanpy's that runs numba in parallel: torch has as many threads afterwards as before.

    When numba starts its threads it sets OpenMP's number for the whole process, torch's with it, to all the cores it
    sees, against `OMP_NUM_THREADS` and the limits of a container. A training beside another process then cost two and
    a half times the CPU time (CONTRIBUTING.md).
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def without_onednn(wanted: bool) -> Iterator[None]:
    """Computes without oneDNN, torch's second library of CPU kernels, if `wanted`.

    It compiles a kernel for every length of batch that it meets and keeps up to a thousand of them, a quarter of a
    megabyte each, between the tensors. In fp32 torch's own kernels are as fast; in bf16 they are not (CONTRIBUTING.md).
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and not wanted
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def return_freed_memory(at_once: bool) -> None:
    """Whether freed tensors go back to the system at once (Linux with glibc; elsewhere nothing happens).

    By default the C library keeps blocks of up to 32 MB for reuse, and holes between them make a process larger than
    its tensors: by a quarter, or twofold with gradient checkpointing, which was then measured to save little. Returned
    at once, peak memory is that of the tensors; steps of small tensors get up to a third slower (CONTRIBUTING.md). So
    it is for those who asked for less memory at the price of time. Holds for the whole process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(-3, 2**20 if at_once else 2**25)  # M_MMAP_THRESHOLD; 32 MiB is where glibc's own rule ends
