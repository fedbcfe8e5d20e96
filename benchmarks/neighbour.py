"""Training speed of this version and of another, alone and beside a busy neighbour, taking turns.

    SCFM_DATA_DIR=... python benchmarks/neighbour.py --other FOLDER [--rounds 5]

FOLDER holds another version's `scfm_lib`, such as `git worktree add FOLDER COMMIT` makes. Each timing is a process of
its own: MINIMAL's steps with their loader for some seconds, after some that are not counted. The neighbour is a loop in
Python that keeps one core busy. Prints medians with their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

SECONDS = 10.0
ONCE = """
import sys, time
import scfm_lib as scfm
store, seconds = sys.argv[1], float(sys.argv[2])
times = []
from scfm_lib.runtime.logger import Logger
step = Logger.step
def watched(self, number, *rest, **more):
    times.append((time.perf_counter(), number))
    if time.perf_counter() - times[0][0] > 1.5 * seconds:
        raise KeyboardInterrupt
    return step(self, number, *rest, **more)
Logger.step = watched
config = scfm.load_config("minimal", {"training.num_epochs": 1000, "data.validation_fraction": 0.0})
try:
    scfm.train(config, store, run_dir=sys.argv[3], verbose=False, tensorboard=False)
except KeyboardInterrupt:
    pass
counted = [pair for pair in times if pair[0] > times[0][0] + 0.5 * seconds]
print((counted[-1][1] - counted[0][1]) * 32 / (counted[-1][0] - counted[0][0]))
"""
PREPARE = """
import sys
import scfm_lib as scfm
config = scfm.load_config("minimal", {"data.validation_fraction": 0.0})
scfm.prepare([scfm.find_data("zheng_pbmc_facs")], config, sys.argv[1])
"""


def called(library: Path, code: str, *arguments: object) -> str:
    """What a process with that version of the library prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    versions = {"other": arguments.other.resolve(), "this": Path(__file__).resolve().parents[1]}
    found: dict[tuple[str, bool], list[float]] = {}
    with TemporaryDirectory() as folder:
        for name, library in versions.items():
            called(library, PREPARE, Path(folder) / name)
        for number in range(arguments.rounds):
            for busy in (False, True):
                for name, library in versions.items():
                    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
                    try:
                        run = Path(folder) / f"{name} {number} {busy} {time.time()}"
                        cells = float(called(library, ONCE, Path(folder) / name, SECONDS, run))
                    finally:
                        if neighbour:
                            neighbour.kill()
                    found.setdefault((name, busy), []).append(cells)
                    print(
                        json.dumps({"version": name, "neighbour": busy, "cells_per_second": round(cells)}), flush=True
                    )
    for busy in (False, True):
        middle = {name: statistics.median(found[name, busy]) for name in versions}
        ranges = {name: f"{min(found[name, busy]):.0f}-{max(found[name, busy]):.0f}" for name in versions}
        told = ", ".join(f"{name} {middle[name]:.0f} ({ranges[name]})" for name in versions)
        where = "beside a busy neighbour" if busy else "alone"
        print(f"{where:24} cells/s: {told}; {middle['this'] / middle['other']:.2f} times")


if __name__ == "__main__":
    main()
