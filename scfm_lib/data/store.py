"""The store: counts of all genes on disk, memory-mapped, ready to be read at random.

A folder with `store.json` (vocabulary, sources, config, versions) and flat arrays in CSR form. A cell takes 6 bytes per
expressed gene: 5 kB at PBMC3k's 847, so a million such cells are 5 GB and need no more memory than the operating system
likes to give. Cells held out of training touch neither which genes are known nor which become tokens.
"""

import json
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..config import Config, DataConfig
from ..errors import InputError
from ..files import new_folder
from ..hardware.system import memory
from ..versions import versions
from .genes import find_genes, match_genes, match_report, mitochondrial, variable_genes
from .read import Cells, name_hashes, open_cells

SAMPLE = 50_000  # cells from which the highly variable genes are chosen: more changes little and costs memory
MOST_GENES = 2**16 - 1  # a gene's number takes two bytes
ARRAYS = {"indptr": "<i8", "genes": "<u2", "counts": "<u4"}
ARRAYS |= {"tokens": "<u2", "molecules": "<u4", "library_size": "<f4"}
ARRAYS |= {"held_out": "|b1", "dataset": "<u2", "batch": "<u2", "names": "<u8"}
LOOKED_THROUGH = 10**9  # bytes of an array that opening reads whole for its checksum: 0.25 s, if the disk is as fast


@dataclass
class Store:
    """Cells in CSR form over the vocabulary; every array is memory-mapped and read-only."""

    dir: Path
    symbols: np.ndarray  # (genes,) the genes that become tokens first, then all others that are read and predicted
    ensembl: np.ndarray  # (genes,)
    n_tokens: int  # how many come first
    batches: list[str]  # names of the batches; none without `data.batch_key`
    report: list[str]  # what preparation kept and left out, in sentences
    data_config: DataConfig  # how it was made: which cells are held out follows from it
    indptr: np.ndarray  # (cells + 1,)
    genes: np.ndarray  # (nonzeros,) vocabulary numbers
    counts: np.ndarray  # (nonzeros,)
    tokens: np.ndarray  # (cells,) how many of a cell's genes become tokens
    molecules: np.ndarray  # (cells,) of the vocabulary's genes
    library_size: np.ndarray  # (cells,) molecules over all genes, not only the vocabulary's
    held_out: np.ndarray  # (cells,) bool
    dataset: np.ndarray  # (cells,) which source a cell came from
    batch: np.ndarray  # (cells,) which batch, 0 where there are none
    names: np.ndarray  # (cells,) hashes of their names

    def __len__(self) -> int:
        return len(self.library_size)

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that is sent a store opens it itself: gigabytes need not be copied."""
        return open_store, (self.dir, False)

    def rows(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genes (nonzeros,), counts (nonzeros,) and how many of them each cell has (cells,), in the order asked."""
        index, lengths = ragged(self.indptr, cells)
        return self.genes[index], self.counts[index], lengths

    def matrix(self, cells: np.ndarray) -> sp.csr_matrix:
        """Counts (cells, genes) as float32 CSR."""
        parts = []
        for start in range(0, max(1, len(cells)), 1000):
            genes, counts, lengths = self.rows(cells[start : start + 1000])
            indptr = np.concatenate([[0], np.cumsum(lengths)])
            shape = len(lengths), len(self.symbols)
            parts.append(sp.csr_matrix((counts.astype(np.float32), genes.astype(np.int32), indptr), shape))
            self.let_go()
        return sp.vstack(parts, format="csr")

    def let_go(self) -> None:
        """Gives back the pages of the counts that were read; the system keeps them cached as long as it likes.

        Else they count as this process's memory, 64 kB and more for each cell, until the whole store does.
        """
        for array in (self.genes, self.counts):
            _advise(array, "MADV_DONTNEED")


def _advise(array: np.ndarray, advice: str) -> None:
    """Tells the system how a mapped array is read; nothing for one in memory, or on Windows, which cannot be told."""
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice))


def ragged(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the nonzeros of some CSR rows, concatenated, and the number in each row."""
    starts = indptr[rows]
    lengths = indptr[rows + 1] - starts
    ends = np.cumsum(lengths)
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return index, lengths


def open_store(path: str | Path, check: bool = True) -> Store:
    """Opens a prepared store, and compares arrays of up to a GB with the CRC-32 that was written beside them.

    Args:
        path: its folder.
        check: False where the arrays were compared a moment ago.

    Raises:
        InputError: not a store, or damaged.
    """
    path = Path(path)
    try:
        meta = json.loads((path / "store.json").read_text(encoding="utf-8"))
        if older := {"n_tokens", "checksums"} - meta.keys() | ARRAYS.keys() - meta["lengths"].keys():
            missing = ", ".join(sorted(older))
            raise InputError(f"store {path} is of an older format, without {missing}; prepare it again")
        arrays = {}
        for name, dtype in ARRAYS.items():
            file, length = path / f"{name}.bin", meta["lengths"][name]
            size = file.stat().st_size
            if size != length * np.dtype(dtype).itemsize:
                raise InputError(f"store {path} is damaged: {file.name} has the wrong size; prepare it again")
            if check and size <= LOOKED_THROUGH and _checksum(file) != meta["checksums"][name]:
                raise InputError(f"store {path} is damaged: {file.name} is not what was written; prepare it again")
            arrays[name] = np.memmap(file, dtype=dtype, mode="r", shape=(length,)) if length else np.empty(0, dtype)
    except (OSError, KeyError, json.JSONDecodeError):
        raise InputError(f"{path} is not a store made by `scfm prepare`; prepare one from your .h5ad") from None
    counts = arrays["genes"], arrays["counts"]
    if sum(array.nbytes for array in counts) > memory()["available"]:
        for array in counts:  # else the system reads 128 kB for every cell, and forgets them before they are used
            _advise(array, "MADV_RANDOM")
    symbols, ensembl = (np.array(meta[key], dtype=object) for key in ("symbols", "ensembl"))
    data_config = DataConfig.model_validate(meta["config"]["data"])
    return Store(path, symbols, ensembl, meta["n_tokens"], meta["batches"], meta["report"], data_config, **arrays)


def _checksum(file: Path) -> int:
    """CRC-32, read by blocks: pages read through a map would count as this process's memory."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            value = zlib.crc32(block, value)
    return value


def prepare(sources: str | Path | ad.AnnData | list[str | Path | ad.AnnData], config: Config, out: str | Path) -> Store:
    """Quality control, choice of genes, and a store written to `out` (a folder that must not exist).

    The files are read twice in chunks of rows, so memory stays bounded: once to judge cells and sample them, once to
    write. Several sources are aligned by Ensembl id or symbol; genes found in all of them can enter the vocabulary.

    Raises:
        InputError: bad input as in `cells.py`, `out` exists, or nothing is left to learn from.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists and is left as it is; choose another --out or remove it")
    sources = sources if isinstance(sources, list) else [sources]
    if not sources:
        raise InputError("there is no data set to prepare; give at least one")
    paths = [str(Path(source).resolve()) for source in sources if not isinstance(source, ad.AnnData)]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise InputError(f"{twice[0]} is given twice, so its cells would be learned from twice; give each file once")
    opened = [open_cells(source, config.data.layer) for source in sources]
    in_memory = [cells for cells, source in zip(opened, sources, strict=True) if isinstance(source, ad.AnnData)]
    for number, cells in enumerate(in_memory, start=1):
        cells.name = f"adata {number}" if len(in_memory) > 1 else cells.name
    report = [f"{c.name}: {c.shape[0]:,} cells x {c.shape[1]:,} genes, counts found in {c.where}" for c in opened]
    first = opened[0]
    columns = [match_genes(first.symbols, first.ensembl, cells) for cells in opened]
    report += [
        match_report(c, first.symbols, cells.name, cells.shape[1])
        for c, cells in zip(columns[1:], opened[1:], strict=True)
    ]
    shared = np.flatnonzero(np.all([c >= 0 for c in columns], axis=0))
    columns = [c[shared] for c in columns]

    batches, batch_names = _batches(opened, config.data.batch_key)
    kept = _judge(opened, config, report)
    names = first.symbols[shared], first.ensembl[shared]
    vocabulary, n_tokens = _choose_genes(opened, columns, names, kept, config, report)
    columns = [c[vocabulary] for c in columns]
    meta = {
        "symbols": first.symbols[shared][vocabulary].tolist(),
        "ensembl": first.ensembl[shared][vocabulary].tolist(),
        "n_tokens": n_tokens,
        "batches": batch_names,
        "sources": [c.name if isinstance(s, ad.AnnData) else str(s) for s, c in zip(sources, opened, strict=True)],
        "config": config.model_dump(),
        "versions": versions(),
    }
    with new_folder(out) as temporary:
        _write(temporary, opened, columns, kept, batches, config, meta, report)
    return open_store(out)


def _batches(opened: list[Cells], key: str | None) -> tuple[list[np.ndarray], list[str]]:
    """The batch of each cell of each source, as numbers (cells,), and the batches' names.

    Raises:
        InputError: a source has no such column, or there is one batch.
    """
    if key is None:
        return [np.zeros(cells.shape[0], dtype=np.int64) for cells in opened], []
    for cells in opened:
        if key not in cells.obs:
            there = ", ".join(map(str, cells.obs.columns)) or "none"
            raise InputError(f"{cells.name}: obs has no column {key!r}; choose data.batch_key from: {there}")
    values = pd.Categorical(pd.concat([cells.obs[key].astype(str) for cells in opened]))
    names, codes = values.categories, values.codes.astype(np.int64)
    if len(names) < 2:
        raise InputError(f"obs[{key!r}] has one batch ({names[0]}), so nothing sets it apart; leave out data.batch_key")
    return np.split(codes, np.cumsum([cells.shape[0] for cells in opened])[:-1]), names.tolist()


def _judge(opened: list[Cells], config: Config, report: list[str]) -> list[np.ndarray]:
    """Which cells of each source to keep, after quality control and subsampling: a (cells,) bool for each."""
    rules = config.data.preprocessing
    kept = []
    for cells in opened:
        mito, most = mitochondrial(cells), rules.max_mito_percent
        if most is not None and not mito.any():
            report.append(f"{cells.name}: NO MITOCHONDRIAL GENES were found by name, so max_mito_percent does nothing")
        few, mitochondria = np.zeros(cells.shape[0], dtype=bool), np.zeros(cells.shape[0], dtype=bool)
        for start, rows in cells.chunks():
            here = slice(start, start + rows.shape[0])
            few[here] = np.diff(rows.indptr) < rules.min_genes
            if most is not None:
                molecules = np.maximum(1, np.asarray(rows.sum(1)).ravel())
                mitochondria[here] = 100 * np.asarray(rows[:, mito].sum(1)).ravel() > most * molecules
        for count, why in (
            (few.sum(), f"fewer than {rules.min_genes} genes (min_genes)"),
            ((mitochondria & ~few).sum(), f"more than {most or 0:g} % mitochondrial (max_mito_percent)"),
        ):
            if count:
                report.append(f"{cells.name}: {count:,} cells left out: {why}")
        keep = ~(few | mitochondria)
        kept.append(keep)
    total = sum(int(k.sum()) for k in kept)
    if not total and any("mitochondrial" in line for line in report):
        raise InputError(
            f"no cell is left: {report[-1]}; raise data.preprocessing.max_mito_percent or look at the cells"
        )
    if not total:
        raise InputError(
            f"no cell expresses {rules.min_genes} genes, so none is left; lower data.preprocessing.min_genes "
            f"(for example --set data.preprocessing.min_genes={max(1, rules.min_genes // 4)})"
        )
    n_obs = config.data.n_obs
    if n_obs and n_obs < total:
        chosen = np.random.default_rng(config.data.split_seed).choice(total, n_obs, replace=False)
        mask = np.zeros(total, dtype=bool)
        mask[chosen] = True
        parts = np.split(mask, np.cumsum([k.sum() for k in kept])[:-1])
        for keep, part in zip(kept, parts, strict=True):
            keep[keep] = part
        report.append(f"{n_obs:,} of {total:,} cells taken at random (data.n_obs)")
    elif n_obs:
        report.append(f"data.n_obs = {n_obs:,} is not fewer than the {total:,} cells there are: all are kept")
    return kept


def _choose_genes(
    opened: list[Cells],
    columns: list[np.ndarray],
    names: tuple[np.ndarray, np.ndarray],
    kept: list[np.ndarray],
    config: Config,
    report: list[str],
) -> tuple[np.ndarray, int]:
    """Numbers of the vocabulary's genes among the shared ones, and how many of them, the first, become tokens.

    Both are decided on training cells only: all genes seen in enough of them, and the most variable (seurat_v3).
    """
    rng = np.random.default_rng(config.data.split_seed)
    total = sum(int(k.sum()) for k in kept)
    parts, batches = [], []
    n_cells = np.zeros(len(columns[0]), dtype=np.int64)
    for number, (cells, column, keep) in enumerate(zip(opened, columns, kept, strict=True)):
        use = keep & ~cells.held_out(config.data.validation_fraction, config.data.split_seed)
        sampled = use & (rng.random(len(use)) < SAMPLE / total)
        for start, rows in cells.chunks():
            here = slice(start, start + rows.shape[0])
            n_cells += np.bincount(rows[use[here]][:, column].indices, minlength=len(column))
            parts.append(rows[sampled[here]][:, column])
        batches += [number] * int(sampled.sum())
    counts = sp.vstack(parts, format="csr")
    if counts.shape[0] < 2:
        raise InputError(
            "fewer than two cells are left to learn from; give more cells or lower data.validation_fraction"
        )
    wanted, min_cells = config.vocabulary_size, config.data.preprocessing.min_cells
    forced = find_genes(config.data.preprocessing.must_include, *names)
    by = np.array(batches) if len(opened) > 1 else None
    rules: dict[str, Any] = {"min_cells": min_cells, "seen_in": n_cells, "batches": by}
    tokens, candidates = variable_genes(counts, wanted, **rules)
    if candidates < 2:
        raise InputError(
            f"only {candidates} genes are in {min_cells} training cells or more; "
            "give more cells or lower data.preprocessing.min_cells"
        )
    if candidates < wanted:
        fewer = f"the config asks for {wanted:,}, the data have {candidates:,} genes; all become tokens"
        report.append(f"FEWER TOKENS: {fewer}")
    elif candidates > wanted:
        report.append(
            f"{candidates:,} genes are read and predicted; tokens are the {wanted:,} most variable on "
            f"{counts.shape[0]:,} training cells"
        )
    missing = np.setdiff1d(forced, tokens)
    if len(missing) and len(tokens) + len(missing) > wanted:  # they take the places of the least variable
        fewer = max(0, wanted - len(missing))
        tokens = variable_genes(counts, fewer, **rules)[0] if fewer else missing
    tokens = np.union1d(tokens, forced)
    others = np.setdiff1d(np.flatnonzero(n_cells >= max(1, min_cells)), tokens)
    if candidates > MOST_GENES:
        others = np.sort(others[np.argsort(-n_cells[others], kind="stable")][: MOST_GENES - len(tokens)])
        report.append(f"{candidates - MOST_GENES:,} of the genes seen in fewest cells are left out")
    return np.concatenate([tokens, others]), len(tokens)


def _write(
    folder: Path,
    opened: list[Cells],
    columns: list[np.ndarray],
    kept: list[np.ndarray],
    batches: list[np.ndarray],
    config: Config,
    meta: dict,
    report: list[str],
) -> None:
    """Streams the arrays to plain files: writing through a memory map would crash, not fail, on a full disk."""
    lengths, checksums = dict.fromkeys(ARRAYS, 0), dict.fromkeys(ARRAYS, 0)
    files = {name: (folder / f"{name}.bin").open("wb") for name in ARRAYS}

    def append(name: str, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, dtype=ARRAYS[name]).tobytes()
        files[name].write(data)
        lengths[name] += len(values)
        checksums[name] = zlib.crc32(data, checksums[name])

    try:
        append("indptr", np.zeros(1))
        total, without = 0, 0
        for number, (cells, column, keep, batch) in enumerate(zip(opened, columns, kept, batches, strict=True)):
            out = cells.held_out(config.data.validation_fraction, config.data.split_seed)
            for start, rows in cells.chunks():
                all_here = slice(start, start + rows.shape[0])
                here = keep[all_here]
                chosen = rows[here][:, column].tocsr()
                chosen.sort_indices()
                some = np.diff(chosen.indptr) > 0
                without += int((~some).sum())
                chosen = chosen[some]
                append("indptr", total + chosen.indptr[1:].astype(np.int64))
                append("genes", chosen.indices)
                append("counts", chosen.data)
                append("tokens", np.diff(chosen[:, : meta["n_tokens"]].indptr))
                append("molecules", np.asarray(chosen.sum(1)).ravel())
                append("library_size", np.asarray(rows[here].sum(1)).ravel()[some])
                append("held_out", out[all_here][here][some])
                append("dataset", np.full(int(some.sum()), number))
                append("batch", batch[all_here][here][some])
                append("names", name_hashes(cells.names[all_here])[here][some])
                total += chosen.nnz
    finally:
        for file in files.values():
            file.close()
    if without:
        report.append(f"{without:,} cells express no gene of the vocabulary and are left out")
    report.append(f"store: {lengths['library_size']:,} cells x {len(meta['symbols']):,} genes, {total:,} expressed")
    if lengths["library_size"] < 2:
        raise InputError("fewer than two cells are left to learn from; check the species and the filters")
    text = json.dumps(meta | {"lengths": lengths, "checksums": checksums, "report": report}, indent=1)
    (folder / "store.json").write_text(text, encoding="utf-8")
