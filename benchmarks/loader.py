"""Loading speed: random cells/s from the memory-mapped store, and training batches of half cells, on one core.

    python benchmarks/loader.py [--cells 100000]

Cells are simulated with about as many expressed genes as real ones. Published on one core: 60,571 cells/s from a
memory-mapped CSR, 68,867 annbatch, 2,550 scDataset, 251 AnnLoader (on an M1 Max).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import scfm_lib as scfm
from scfm_lib.dataset import HalfCells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = scfm.load_config("minimal", {"data.preprocessing.min_genes": 10})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        adata = scfm.simulate(arguments.cells, 1200, depth=200, n_types=10)
        adata.write_h5ad(Path(folder) / "cells.h5ad")
        made = time.perf_counter()
        store = scfm.prepare([Path(folder) / "cells.h5ad"], config, Path(folder) / "store")
        prepared = time.perf_counter() - made
        order = np.random.default_rng(0).permutation(len(store))
        started = time.perf_counter()
        for start in range(0, len(order), 64):
            store.rows(order[start : start + 64])
        rows = len(order) / (time.perf_counter() - started)
        batches = HalfCells(store, np.arange(len(store)), config.training.batch_size, 0)
        started = time.perf_counter()
        for step in range(len(batches)):
            batches[step]
        halves = len(store) / (time.perf_counter() - started)
        size = sum(file.stat().st_size for file in store.dir.iterdir())
        result = {
            "cells": len(store),
            "expressed": round(len(store.genes) / len(store), 1),
            "prepare_cells_per_second": round(len(store) / prepared),
            "random_cells_per_second": round(rows),
            "training_cells_per_second": round(halves),
            "bytes_per_cell": round(size / len(store)),
        }
    print(json.dumps(result))
    for name, value in result.items():
        print(f"{name.replace('_', ' '):26}{value:>12,}")


if __name__ == "__main__":
    main()
