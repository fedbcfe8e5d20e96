"""What grows with the number of cells: seconds and peak memory of `prepare`, 200 steps of `train`, and `embed`.

    python benchmarks/scale.py --folder FOLDER [--cells 10_000 ...] [--commands prepare train embed]

FOLDER, outside the project, gets a .h5ad of each size, written once: rows drawn from a pool of simulated cells, so
that writing ten million takes minutes. Each command is a process of its own. Peak memory is told twice: all that was
resident (the store's pages among them, which the system may drop at any time) and what is the process's own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import psutil
from rows import Rows

import scfm_lib as scfm
from scfm_lib.versions import versions

POOL = {"n_cells": 20_000, "n_genes": 5_000, "n_types": 12, "depth": 600, "seed": 0}
BLOCK = 50_000  # rows written at a time
STEPS = 200


def write_cells(path: Path, cells: int) -> None:
    """A .h5ad of so many cells, counts in X as CSR, by blocks of rows."""
    pool = scfm.simulate(**POOL)
    counts, rng = pool.X.tocsr(), np.random.default_rng(1)
    temporary = path.with_suffix(".part")
    with h5py.File(temporary, "w") as file:
        obs = pd.DataFrame(index=pd.Index([f"cell{number}" for number in range(cells)]))
        for name, table in (("obs", obs), ("var", pool.var)):
            ad.io.write_elem(file, name, table)
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([cells, pool.n_vars])
        data = group.create_dataset("data", (0,), "u2", maxshape=(None,), chunks=(2**20,))
        indices = group.create_dataset("indices", (0,), "i4", maxshape=(None,), chunks=(2**20,))
        lengths, done = np.zeros(cells, dtype=np.int64), 0
        for start in range(0, cells, BLOCK):
            block = counts[rng.integers(pool.n_obs, size=min(BLOCK, cells - start))]
            lengths[start : start + block.shape[0]] = np.diff(block.indptr)
            for stored, values in ((data, block.data), (indices, block.indices)):
                stored.resize((done + block.nnz,))
                stored[done:] = values
            done += block.nnz
        group.create_dataset("indptr", data=np.concatenate([[0], np.cumsum(lengths)]))
    temporary.rename(path)


def watched(command: list[str]) -> dict[str, float]:
    """Seconds and peak memory (bytes) of a process, looked at ten times a second."""
    started, resident, own = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            memory = seen.memory_info()
            resident, own = max(resident, memory.rss), max(own, memory.rss - memory.shared)
        except psutil.Error:
            break
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(process.stderr.read())
    return {"seconds": round(time.perf_counter() - started, 1), "peak_bytes": resident, "own_bytes": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--commands", nargs="+", default=["prepare", "train", "embed"])
    parser.add_argument("--out", type=Path, default=Path("scale.jsonl"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = Rows(arguments.out, ("cells", "command"))
    scfm_command = [sys.executable, "-m", "scfm_lib"]
    for cells in arguments.cells:
        file, store = arguments.folder / f"{cells}.h5ad", arguments.folder / f"{cells}.store"
        run, vectors = arguments.folder / f"{cells}.run", arguments.folder / f"{cells}.vectors.h5ad"
        if not file.exists():
            write_cells(file, cells)
        if "prepare" in arguments.commands:
            shutil.rmtree(store, ignore_errors=True)
        if "train" in arguments.commands:
            shutil.rmtree(run, ignore_errors=True)
        vectors.unlink(missing_ok=True)
        commands = {
            "prepare": [*scfm_command, "prepare", str(file), "--out", str(store)],
            "train": [*scfm_command, "train", "--data_path", str(store), "--run-dir", str(run)],
            "embed": [*scfm_command, "embed", str(run), str(file), "--out", str(vectors), "--vectors-only"],
        }
        commands["train"] += ["--max-steps", str(STEPS)]
        for name, command in ((name, commands[name]) for name in arguments.commands):
            row = {"cells": cells, "command": name, "file_bytes": os.path.getsize(file)} | watched(command)
            row["cells_per_second"] = round((STEPS * 32 if name == "train" else cells) / row["seconds"])
            rows.add(row | {"versions": versions()})
            print(json.dumps({key: value for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
