"""The memory estimate against the peak of real training steps, each configuration in a fresh process.

    python benchmarks/memory.py [--device cuda]

On the CPU the peak is the high-water mark of resident memory after a reset, less what was resident after the imports;
on CUDA it is `max_memory_allocated` after `reset_peak_memory_stats`. Every step is the longest batch. Prints JSON lines
and a summary, with and without the framework's constant.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

import scfm_lib as scfm
from scfm_lib.batches import Batch
from scfm_lib.hardware import return_freed_memory
from scfm_lib.memory import FRAMEWORK, memory
from scfm_lib.optimize import adamw, training_step
from scfm_lib.versions import versions

STEPS = 4
CONFIGURATIONS = [  # preset, batch size in cells, genes of the longest half, precision, checkpointing
    *(("minimal", size, genes, "fp32", False) for size in (8, 32, 64) for genes in (90, 150)),
    *(("minimal", size, 150, "fp32", True) for size in (32, 128)),
    *(("minimal", size, 150, "bf16", False) for size in (16, 64)),
    *(("default", size, genes, "fp32", False) for size in (8, 32) for genes in (140, 300)),
    *(("default", size, 300, "fp32", True) for size in (16, 32)),
    *(("default", size, 300, "bf16", False) for size in (8, 32)),
    *(("large", size, 350, "fp32", False) for size in (4, 8)),
    ("large", 16, 200, "fp32", False),
    ("large", 8, 350, "fp32", True),
]


def resident(key: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since the reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def configuration(preset: str, batch_size: int, checkpointing: bool) -> scfm.Config:
    return scfm.load_config(
        preset, {"training.batch_size": batch_size, "training.gradient_checkpointing": checkpointing}
    )


def measure(preset: str, batch_size: int, genes: int, precision: str, checkpointing: bool, device_name: str) -> int:
    """Peak bytes of real steps in this process."""
    device = torch.device(device_name)
    config = configuration(preset, batch_size, checkpointing)
    return_freed_memory(checkpointing and device_name == "cpu")
    if device_name == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats()
    rows = 2 * batch_size
    numbers = torch.randint(0, config.model.n_genes, (rows, genes))
    batch = Batch(numbers, torch.rand(rows, genes) + 0.1, numbers, torch.ones(rows, genes), torch.arange(rows))
    model = scfm.CellTransformer(config.model).to(device)
    model.gradient_checkpointing = checkpointing
    optimizer = adamw(model, config.training, device)
    scaler = torch.amp.GradScaler(device_name, enabled=precision == "fp16")
    for _ in range(STEPS):
        training_step(model, optimizer, scaler, [batch], config.training, device, precision)
    return resident("VmHWM") - before if device_name == "cpu" else torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", help="measure this configuration (JSON) here and print its bytes")
    options = parser.parse_args()
    if options.one:
        print(measure(*json.loads(options.one), options.device))
        return
    errors, without = [], []
    for preset, batch_size, genes, precision, checkpointing in CONFIGURATIONS:
        if options.device == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(False):
            precision = "fp16"
        one = json.dumps([preset, batch_size, genes, precision, checkpointing])
        command = [sys.executable, __file__, "--device", options.device, "--one", one]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        config = configuration(preset, batch_size, checkpointing)
        parts = memory(config, 2 * batch_size, genes, genes, precision, options.device)
        constant = FRAMEWORK[precision] if options.device == "cpu" else 0
        estimated = parts["total"] if options.device == "cpu" else parts["total"] - parts["overhead"]
        errors.append((estimated - peak) / peak)
        without.append((estimated - peak) / (peak - constant))
        row = {
            "preset": preset,
            "batch_size": batch_size,
            "genes": genes,
            "precision": precision,
            "gradient_checkpointing": checkpointing,
            "estimated_bytes": estimated,
            "peak_bytes": peak,
            "error": round(errors[-1], 4),
            "error_without_constant": round(without[-1], 4),
        }
        print(json.dumps(row), flush=True)
    summary = {"benchmark": "memory", "device": options.device, "configurations": len(errors), "versions": versions()}
    for name, values in (("with constant", errors), ("without constant", without)):
        sizes = [abs(value) for value in values]
        median, worst = statistics.median(sizes), max(sizes)
        summary[name] = {"median": round(median, 4), "worst": round(worst, 4)}
        holds = "holds" if median <= 0.05 and worst <= 0.10 else "does not hold"
        print(f"{name}: median {median:.1%}, worst {worst:.1%}; median <= 5 %, worst <= 10 %: {holds}", file=sys.stderr)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
