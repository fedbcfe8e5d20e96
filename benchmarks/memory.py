"""The memory estimate against the peak of real training steps, each configuration in a fresh process.

    python benchmarks/memory.py [--device cuda]

On the CPU the peak is the high-water mark of resident memory after a reset, less what was resident after the imports;
on CUDA it is `max_memory_allocated` after `reset_peak_memory_stats`. Every step is the longest batch. The median of
three processes counts. Prints JSON lines and a summary, with and without the framework's constant in both;
`framework_bytes` is what a step of a tiny model was seen to take.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import scfm_lib as scfm
from scfm_lib.dataset import Batch
from scfm_lib.estimator.memory import FRAMEWORK, memory
from scfm_lib.estimator.workload import NOMINAL_GENES, Shape
from scfm_lib.hardware.threads import return_freed_memory, without_onednn
from scfm_lib.runtime.threads import Threads, threads_for
from scfm_lib.train import new_state, training_step
from scfm_lib.versions import versions

STEPS = 4
PROCESSES = 3
TINY = {"model.n_genes": 20, "model.gene_embedding_dim": 8, "model.hidden_dim": 16, "model.ff_dim": 32}
EXPRESSED = 5  # times as many expressed genes as tokens in the longest half
CONFIGURATIONS = [  # preset, batch size in cells, tokens of the longest half, precision, checkpointing
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


def longest(config: scfm.Config, tokens: int, genes: int) -> Shape:
    """Of a batch whose longest half has so many tokens."""
    return Shape(2 * config.training.batch_size, tokens, EXPRESSED * tokens, EXPRESSED * tokens, genes)


def steps(config: scfm.Config, shape: Shape, precision: str, device: torch.device) -> None:
    """Real training steps on the longest batch."""
    rows, n_genes, others = shape.rows, config.model.n_genes, shape.expressed - shape.tokens
    tokens = torch.randint(0, n_genes, (rows, shape.tokens))
    numbers = torch.cat([tokens, torch.randint(n_genes, shape.genes, (rows, others))], dim=1)
    values, counts = torch.rand(numbers.shape) + 0.1, torch.ones(numbers.shape)
    batch = Batch(numbers, values, numbers, counts, torch.arange(rows), numbers[:, 0], np.full(rows, shape.tokens))
    state = new_state(scfm.CellTransformer(config.model, shape.genes).to(device), config.training, device, precision)
    with Threads(threads_for(device)) as state.threads, without_onednn(precision == "fp32"):
        for _ in range(STEPS):
            training_step(state, [batch], config.training.learning_rate)


def measure(preset: str, batch_size: int, tokens: int, precision: str, checkpointing: bool, name: str) -> list[int]:
    """Peak bytes of real steps in this process, and how many of them the framework takes before the first tensor."""
    device = torch.device(name)
    config = configuration(preset, batch_size, checkpointing)
    shape = longest(config, tokens, NOMINAL_GENES)
    return_freed_memory(checkpointing and name == "cpu")
    tiny = scfm.load_config("minimal", TINY | {"training.batch_size": 2})
    if name == "cuda":
        steps(tiny, longest(tiny, 5, 40), precision, device)
        torch.cuda.reset_peak_memory_stats()
        steps(config, shape, precision, device)
        return [torch.cuda.max_memory_allocated(), 0]
    imported = resident("VmRSS")
    steps(tiny, longest(tiny, 5, 40), precision, device)
    framework = resident("VmRSS") - imported
    Path("/proc/self/clear_refs").write_text("5")
    steps(config, shape, precision, device)
    return [resident("VmHWM") - imported, framework]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", help="measure this configuration (JSON) here and print its bytes")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one), options.device)))
        return
    errors, without = [], []
    for preset, batch_size, tokens, precision, checkpointing in CONFIGURATIONS:
        if options.device == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(False):
            precision = "fp16"
        one = json.dumps([preset, batch_size, tokens, precision, checkpointing])
        command = [sys.executable, __file__, "--device", options.device, "--one", one]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(PROCESSES)]
        peaks, frameworks = zip(*map(json.loads, runs), strict=True)
        peak, framework = statistics.median(peaks), statistics.median(frameworks)
        config = configuration(preset, batch_size, checkpointing)
        parts = memory(config, longest(config, tokens, NOMINAL_GENES), precision, options.device)
        constant = FRAMEWORK[precision] if options.device == "cpu" else parts["overhead"]
        estimated = parts["total"] if options.device == "cpu" else parts["total"] - constant
        errors.append((estimated - peak) / peak)
        without.append((estimated - peak) / (peak - (constant if options.device == "cpu" else 0)))
        row = {
            "preset": preset,
            "batch_size": batch_size,
            "tokens": tokens,
            "precision": precision,
            "gradient_checkpointing": checkpointing,
            "estimated_bytes": estimated,
            "peak_bytes": peak,
            "peaks": peaks,
            "framework_bytes": framework,
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
