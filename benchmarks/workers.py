"""Does loading overlap with computing, and do processes share it?

    python benchmarks/workers.py [--steps 60] [--out FILE]

A store of simulated cells. Making a batch of 32 cells is slowed to 31 ms and computing a step is a pause of 30 ms, so
that the answer does not depend on the number of cores: with a loader in the way a step takes both, with one that
overlaps the longer of the two. And what one of several processes spends on its 32 cells of a larger step, not slowed:
eight times as long as alone, if each of eight made the whole batch.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rows import Rows
from torch.utils.data import DataLoader

import scfm_lib as scfm
from scfm_lib.dataset import Batch, HalfCells
from scfm_lib.runtime.distributed import Distributed
from scfm_lib.versions import versions

LOADING, COMPUTING = 0.031, 0.030  # s


class SlowHalfCells(HalfCells):
    def __getitem__(self, step: int) -> Batch:
        started = time.perf_counter()
        batch = super().__getitem__(step)
        time.sleep(max(0.0, LOADING - (time.perf_counter() - started)))
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("workers.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(arguments.out, ("workers", "processes"))
    with TemporaryDirectory() as folder:
        store = scfm.prepare(scfm.simulate(20_000, 3000, depth=1500), scfm.load_config("minimal"), Path(folder) / "s")
        slow = SlowHalfCells(store, None, 32, seed=0)
        for workers in (0, 1, 2, 4):
            times = []
            for _ in range(arguments.rounds):
                batches = iter(DataLoader(slow, None, sampler=range(arguments.steps + 5), num_workers=workers))
                for _ in range(5):  # until the workers have started
                    next(batches)
                started = time.perf_counter()
                for _ in batches:
                    time.sleep(COMPUTING)
                times.append(1000 * (time.perf_counter() - started) / arguments.steps)
            row = {"workers": workers, "milliseconds": [round(ms, 1) for ms in sorted(times)]}
            rows.add(row | {"median": round(statistics.median(times), 1), "versions": versions()})
            print(json.dumps(row), flush=True)
        for count in (1, 2, 4, 8):
            data = HalfCells(store, None, 32 * count, seed=0, distributed=Distributed(count - 1, count))
            times = []
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                for step in range(arguments.steps):
                    data[step]
                times.append(1000 * (time.perf_counter() - started) / arguments.steps)
            row = {"processes": count, "milliseconds": [round(ms, 2) for ms in sorted(times)]}
            rows.add(row | {"median": round(statistics.median(times), 2), "versions": versions()})
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
