"""The time estimate against the next minute of real training.

    python benchmarks/speed.py [--data zheng_pbmc_facs] [--seconds 60] [--rounds 3]

For each of five configurations, in turn and three rounds: calibrate as `scfm estimate` does, then train for a minute
with the real loader and the library's step, and compare the seconds that those steps were estimated to take with what
they took.
Run it alone on the machine. Prints JSON lines and a summary; exits with 1 above a median of 10 % or a worst of 20 %.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import scfm_lib as scfm
from scfm_lib.data.store import Store
from scfm_lib.dataset import HalfCells
from scfm_lib.estimator.speed import calibrate
from scfm_lib.estimator.workload import padded_flops, workload
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.hardware.torch_probe import cpu_flops
from scfm_lib.start import new_model
from scfm_lib.train import new_state, training_step
from scfm_lib.versions import versions

CONFIGURATIONS = {
    "minimal": ("minimal", {}),
    "minimal, 8 cells": ("minimal", {"training.batch_size": 8}),
    "minimal, checkpointing": ("minimal", {"training.gradient_checkpointing": True}),
    "default": ("default", {}),
    "large, 4 x 8 cells": ("large", {"training.batch_size": 8, "training.gradient_accumulation_steps": 4}),
}


def train_for(config: scfm.Config, store: Store, seconds: float) -> tuple[float, float, int]:
    """Seconds that were trained for, floating-point operations of those steps and their number."""
    device, settings = torch.device("cpu"), config.training
    parts = settings.gradient_accumulation_steps
    cells = np.flatnonzero(~store.held_out)
    halves = HalfCells(store, cells, settings.batch_size * parts, settings.seed + 1)
    genes = len(store.symbols)
    state = new_state(new_model(config.model, 1, genes=genes), settings, device)
    flops, step, started = 0.0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        split = halves[step].split(parts)
        training_step(state, split, settings.learning_rate)
        flops += padded_flops(config.model, split, genes)
        step += 1
    return time.perf_counter() - started, flops, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="zheng_pbmc_facs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    use_all_cores()
    ratios: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    shares: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for preset in ("minimal", "default", "large"):
            config = scfm.load_config(preset)
            stores[preset] = scfm.prepare([scfm.find_data(options.data)], config, Path(folder) / preset)
        for _ in range(options.rounds):
            for name, (preset, changes) in CONFIGURATIONS.items():
                config, store = scfm.load_config(preset, changes), stores[preset]
                work, batches = workload(config, store, len(store))
                began = time.perf_counter()
                speed = calibrate(config, batches, work.longest.genes, torch.device("cpu"), "fp32")
                calibrated = time.perf_counter() - began
                matrix = cpu_flops()
                took, flops, steps = train_for(config, store, options.seconds)
                estimated = steps * (speed.per_step + work.loader_seconds) + speed.per_flop * flops
                ratios[name].append(estimated / took)
                shares[name].append(1 / speed.per_flop / matrix)
                row = {
                    "configuration": name,
                    "calibrated_seconds": round(calibrated, 1),
                    "estimated_seconds": round(estimated, 2),
                    "seconds": round(took, 2),
                    "steps": steps,
                    "cells_per_second": round(
                        steps * config.training.batch_size * config.training.gradient_accumulation_steps / took, 1
                    ),
                    "share_of_matrix_product": round(shares[name][-1], 3),
                }
                print(json.dumps(row), flush=True)
    errors = {name: statistics.median(values) - 1 for name, values in ratios.items()}
    sizes = [abs(error) for error in errors.values()]
    median, worst = statistics.median(sizes), max(sizes)
    summary = {
        "benchmark": "time",
        "errors": {name: round(error, 4) for name, error in errors.items()},
        "share_of_matrix_product": {name: round(statistics.median(values), 2) for name, values in shares.items()},
        "median": round(median, 4),
        "worst": round(worst, 4),
        "versions": versions(),
    }
    print(json.dumps(summary))
    holds = median <= 0.10 and worst <= 0.20
    print(f"median {median:.1%}, worst {worst:.1%}; median <= 10 %, worst <= 20 %: {holds}", file=sys.stderr)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
