"""Loading: random batches of cells from one file, by us and by others, on one core.

    python benchmarks/loader.py --file CELLS.h5ad [--store STORE] [--collection FOLDER] [--rounds 5] [--out FILE]

CELLS.h5ad is one of `scale.py`'s, such as a million cells; the store is prepared if it is not there. Compared are
batches of 64 cells, taking turns, each for some seconds a round: `rows` reads random cells from the store; `training
batches` tosses their coins and pads them as tensors; anndata's AnnLoader on the backed file; scDataset, cell by
cell and by blocks of 16 with 256 batches fetched at once, its authors' setting; annbatch, from its own shuffled zarr
collection (made in FOLDER if it is not there), 256 blocks of 32 at once. Blocks are not as random as cells. Others are
left out where they are not installed (annbatch wants Python 3.12). What fits is in the system's cache after a while.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from rows import Rows

import scfm_lib as scfm
from scfm_lib.data.store import Store, open_store
from scfm_lib.dataset import LET_GO, HalfCells
from scfm_lib.versions import versions

BATCH, BLOCK, AT_ONCE = 64, 16, 256
LEAST = 3  # batches, however long they take


def rows(store: Store) -> Iterator[object]:
    order = np.random.default_rng(0)
    for number in itertools.count():
        if number % LET_GO == 0:  # as training does
            store.let_go()
        yield store.rows(order.integers(len(store), size=BATCH))


def halves(store: Store) -> Iterator[object]:
    data = HalfCells(store, None, BATCH, seed=0)
    return (data[step] for step in itertools.count())


def ann_loader(file: Path) -> Iterator[object]:
    from anndata.experimental import AnnLoader

    while True:
        for batch in AnnLoader(ad.read_h5ad(file, backed="r"), batch_size=BATCH, shuffle=True):
            yield batch.X  # which is read when asked for


class Sized:
    """A matrix on disk that knows how many cells it has, which scDataset asks."""

    def __init__(self, matrix: Any):
        self.matrix = matrix

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __getitem__(self, cells: np.ndarray) -> Any:
        return self.matrix[cells]


def sc_dataset(file: Path, block: int, at_once: int) -> Iterator[object]:
    import h5py
    from scdataset import BlockShuffling, scDataset

    counts = Sized(ad.io.sparse_dataset(h5py.File(file)["X"]))
    while True:
        yield from scDataset(counts, BlockShuffling(block_size=block), batch_size=BATCH, fetch_factor=at_once)


def annbatch(file: Path, folder: Path) -> Iterator[object]:
    import zarr
    from annbatch import DatasetCollection, Loader

    if find_spec("zarrs"):
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    collection = DatasetCollection(folder)
    if collection.is_empty:
        collection.add_adatas(adata_paths=[str(file)], shuffle=True)
    while True:
        loader = Loader(batch_size=BATCH, chunk_size=32, preload_nchunks=AT_ONCE, to="torch", preload_to_gpu=False)
        yield from loader.use_collection(
            collection, load_adata=lambda group: ad.AnnData(X=ad.io.sparse_dataset(group["X"]))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("loader.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    place = arguments.store or arguments.file.with_suffix(".store")
    store = open_store(place) if place.exists() else scfm.prepare(arguments.file, scfm.load_config("minimal"), place)
    makers: dict[str, Callable[[], Iterator[object]]] = {
        "scfm, rows": lambda: rows(store),
        "scfm, training batches": lambda: halves(store),
        "AnnLoader": lambda: ann_loader(arguments.file),
    }
    if find_spec("scdataset"):
        makers["scDataset, cells"] = lambda: sc_dataset(arguments.file, 1, 1)
        makers["scDataset, blocks"] = lambda: sc_dataset(arguments.file, BLOCK, AT_ONCE)
    if find_spec("annbatch"):
        folder = arguments.collection or arguments.file.with_suffix(".zarr")
        makers["annbatch, blocks"] = lambda: annbatch(arguments.file, folder)
    running = {name: make() for name, make in makers.items()}
    for batches in running.values():
        next(batches)
    found: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(arguments.rounds):
        for name, batches in running.items():
            started, count = time.perf_counter(), 0
            while count < LEAST or time.perf_counter() - started < arguments.seconds:
                next(batches)
                count += 1
            found[name].append(count * BATCH / (time.perf_counter() - started))
    kept, expressed = Rows(arguments.out, ("what", "cells")), len(store.genes) / len(store)
    others = {name: version(name) for name in ("scdataset", "annbatch") if find_spec(name)}
    for name, rates in found.items():
        rates = sorted(map(round, rates))
        row = {"what": name, "cells": len(store), "expressed": round(expressed), "cells_per_second": rates}
        kept.add(row | {"median": round(statistics.median(rates)), "versions": versions() | others})
        print(f"| {name} | {statistics.median(rates):,.0f} ({rates[0]:,}-{rates[-1]:,}) |", flush=True)
    print(json.dumps({"expressed": expressed, "file": str(arguments.file)}))


if __name__ == "__main__":
    main()
