"""Asks torch what it is and what it can do, in a process of its own: prints one JSON object.

`python -P probe.py` imports nothing of this package. A real kernel is run on every card, since a card can answer
"available" and have no code in this build of torch (Kaggle's P100), and since MPS can be built in but not work.
"""

import json
import time
from typing import Any

import torch

MATRIX, SECONDS = 2048, 0.3  # of the matrix products that tell the CPU's speed


def kernel_problem(device: str) -> str | None:
    """The first line of what goes wrong when a kernel runs, if something does."""
    try:
        (torch.ones(8, device=device) * 2).sum().item()
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:120]
    return None


def card(number: int) -> dict[str, Any]:
    """What torch says of one CUDA card, memory in bytes."""
    major, minor = torch.cuda.get_device_capability(number)
    problem = kernel_problem(f"cuda:{number}")
    # a binary for 8.0 runs on 8.6 and 8.9 too; one for compute_80 (PTX) on everything later
    built = [arch.split("_") for arch in torch.cuda.get_arch_list()]
    numbers = [(kind, int("".join(filter(str.isdigit, code)))) for kind, code in built]
    code = any(
        (kind == "sm" and n // 10 == major and n % 10 <= minor) or (kind == "compute" and n <= 10 * major + minor)
        for kind, n in numbers
    )
    free, total = torch.cuda.mem_get_info(number) if problem is None else (None, None)
    return {
        "name": torch.cuda.get_device_name(number),
        "compute_capability": f"{major}.{minor}",
        "kernel": problem,
        "code": code,
        "bf16": "native" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated",
        "memory_total": total,
        "memory_free": free,
    }


def cpu_flops() -> float:
    """fp32 operations per second of a matrix product, a multiply and an add being two."""
    a, b = torch.ones(MATRIX, MATRIX), torch.ones(MATRIX, MATRIX)
    a @ b
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - before)
    return 2 * MATRIX**3 / best


def main() -> None:
    """Prints the answer."""
    mps = torch.backends.mps.is_available()
    answer = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "mps": mps,
        "mps_kernel": kernel_problem("mps") if mps else None,
        "devices": [card(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "fp32_flops": cpu_flops(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
