"""What this machine can do: the device, the precision and the threads a run uses."""

import contextlib
import os

import torch

from ..config import TrainingConfig
from ..errors import InputError
from .torch_probe import kernel_problem


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name, or with "auto" the best whose kernels really run: CUDA, then MPS, then the CPU.

    Raises:
        InputError: unknown name, or a device that is not there or cannot run this torch build's kernels.
    """
    if name not in {"auto", "cpu", "cuda", "mps"}:
        raise InputError(f"device {name!r} is not known; choose auto, cpu, cuda or mps")
    if name in {"auto", "cuda"} and torch.cuda.is_available():
        _take_own_card()
        problem = kernel_problem("cuda")
        if problem is None:
            return torch.device("cuda")
        if name == "cuda":
            raise InputError(
                f"{torch.cuda.get_device_name()} answers, but a kernel fails on it ({problem}): this build of torch "
                "has no code for it; choose another GPU (on Kaggle T4 x2) or --device cpu"
            )
    elif name == "cuda":
        build = "is a CPU-only build" if torch.version.cuda is None else "sees no CUDA device"
        raise InputError(
            f"torch {torch.__version__} {build}; use --device cpu, or install a CUDA build: "
            "pip install torch --index-url https://download.pytorch.org/whl/cu128"
        )
    if name in {"auto", "mps"} and torch.backends.mps.is_available():
        return torch.device("mps")
    if name == "mps":
        raise InputError("device 'mps' needs a Mac with Apple silicon; use --device cpu or auto")
    return torch.device("cpu")


def _take_own_card() -> None:
    """Of several processes that a launcher started on this machine, each takes the card of its number."""
    if not os.environ.get("LOCAL_RANK"):
        return
    number = int(os.environ["LOCAL_RANK"])
    if number >= torch.cuda.device_count():
        raise InputError(
            f"process {number} of this machine has no card: there are {torch.cuda.device_count()}; start as many "
            "processes as cards (--nproc_per_node)"
        )
    torch.cuda.set_device(number)


def choose_precision(training: TrainingConfig, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16": what the config says, else what the hardware does well.

    bf16 where CUDA has it in hardware (compute capability 8.0), fp16 with a scaler on older cards, fp32 elsewhere. On
    CPUs with native bf16, autocast was measured at these sizes and brought nothing (CONTRIBUTING.md).

    Raises:
        InputError: fp16 or bf16 on a device without it.
    """
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision_rule(training, device.type, native)


def precision_rule(training: TrainingConfig, kind: str, bf16: bool) -> str:
    """`choose_precision` for a cpu, cuda or mps device that has bf16 in hardware or not."""
    if training.fp16:
        if kind == "cpu":
            raise InputError("training.fp16 needs a GPU; on the CPU leave it unset, or set training.bf16")
        return "fp16"
    if training.bf16:
        if kind == "cuda" and not bf16:  # imitated, many times slower
            raise InputError("training.bf16 needs a GPU of compute capability 8.0 or later; here, set training.fp16")
        return "bf16"
    if kind != "cuda":
        return "fp32"
    if training.bf16 is None and bf16:
        return "bf16"
    return "fp32" if training.fp16 is False else "fp16"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for the forward pass; does nothing in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def describe_device(device: torch.device, precision: str) -> str:
    """One line, the first a run prints: never be silently on the CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = "Apple GPU"
    else:
        name = f"{torch.get_num_threads()} threads"
    return f"device {device.type} ({name}), {precision}"
