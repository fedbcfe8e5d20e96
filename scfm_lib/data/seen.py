"""Which cells a model has seen, told by their counts and by their names, whatever file they are in now.

Names change: files are joined, barcodes get a `-1`. Counts do not, so a cell is known again by either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

from ..config import DataConfig
from ..errors import InputError
from .genes import match_genes
from .read import held_out, name_hashes, open_cells
from .store import Store, open_store

AT_A_TIME = 8192  # cells
LEAST_CELLS = 20  # known by their counts: fewer may be chance, and nothing can be fitted on them
LEAST_GENES = 20  # cells that express fewer of the genes compared may have equal counts by chance


@dataclass(frozen=True)
class Seen:
    """Cells that a model learned from: arrays are (cells,) bool, over the cells that were asked about."""

    by_counts: np.ndarray  # they have the counts of a cell it learned from
    by_names: np.ndarray  # they have its name
    learned: int  # how many cells it learned from in all, in these data or elsewhere

    @property
    def either(self) -> np.ndarray:
        """(cells,) bool."""
        return self.by_counts | self.by_names

    @property
    def told(self) -> str:
        """In a sentence."""
        cells, seen, named = len(self.by_counts), int(self.either.sum()), int((~self.by_counts & self.by_names).sum())
        how = f" ({seen - named:,} by their counts, {named:,} by their names alone)" if named else ""
        elsewhere = f", and from {self.learned - seen:,} others" if self.learned > seen else ""
        return f"The model learned from {seen:,} of these {cells:,} cells{how}{elsewhere}."


def split_cells(
    stores: Sequence[str | Path], adata: ad.AnnData, rules: DataConfig
) -> tuple[np.ndarray, np.ndarray, int | None, str]:
    """Which cells baselines are fitted on, and which neither they nor the model learned from.

    Where the model learned from these cells, the baselines are given the same; else four fifths of them.

    Args:
        stores: as `seen_cells`.
        adata: the cells, with `layers["counts"]`.
        rules: how the model's cells were chosen.

    Returns:
        to fit on (cells,) bool, unseen (cells,) bool, how many the model learned from (None where that cannot be
        known: then none is unseen), and all this in words.
    """
    unseen = held_out(adata.obs_names, rules.validation_fraction, rules.split_seed)
    fit = ~unseen & (np.diff(adata.layers["counts"].indptr) >= rules.preprocessing.min_genes)
    try:
        seen = seen_cells(stores, adata)
    except InputError as error:
        why = f"Which of these cells the model learned from cannot be known, so none counts as held out: {error}."
        return fit, np.zeros_like(fit), None, why
    either, count = seen.either, int(seen.either.sum())
    if seen.by_counts.sum() >= LEAST_CELLS:
        return either, ~either, count, f"{seen.told} The baselines are fitted on those."
    return fit, unseen & ~either, count, f"{seen.told} The baselines are fitted on {fit.sum():,} of the {len(fit):,}."


def seen_cells(stores: Sequence[str | Path], adata: ad.AnnData) -> Seen:
    """Which of these cells a model learned from.

    Args:
        stores: all that it was trained on, one after the other.
        adata: the cells, with `layers["counts"]`. Genes that a store and these cells share are compared.

    Raises:
        InputError: a store is not there any more, or was made before names were kept.
    """
    cells, counts = open_cells(adata, "counts"), adata.layers["counts"]
    names, opened = name_hashes(adata.obs_names), [open_store(path) for path in stores]
    by_counts, learned = np.zeros(len(names), bool), []
    for store in opened:
        columns = match_genes(store.symbols, store.ensembl, cells)
        known = columns >= 0
        factors = np.random.default_rng(0).integers(1, 2**64, len(columns), dtype=np.uint64) * known
        of_column = np.zeros(adata.n_vars, dtype=np.uint64)
        of_column[columns[known]] = factors[known]
        ours, expressed = _sums(counts.indptr, counts.indices, counts.data, of_column)
        rows = np.flatnonzero(~store.held_out)
        by_counts |= np.isin(ours, _sums_of(store, rows, factors)) & (expressed >= LEAST_GENES)
        learned.append(store.names[rows])
    every = np.unique(np.concatenate(learned))  # a run may go on with the cells of the model it began from
    return Seen(by_counts, np.isin(names, every), len(every))


def _sums_of(store: Store, rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """`_sums` of a store's cells, read a part at a time."""
    found = []
    for start in range(0, len(rows), AT_A_TIME):
        genes, counts, lengths = store.rows(rows[start : start + AT_A_TIME])
        found.append(_sums(np.concatenate([[0], np.cumsum(lengths)]), genes, counts, factors)[0])
        store.let_go()
    return np.concatenate(found)


def _sums(
    indptr: np.ndarray, genes: np.ndarray, counts: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A number for each row (cells,), and how many genes went into it: the sum of count x random factor of the gene.

    Modulo 2**64, as unsigned numbers wrap around: rows with other counts agree by chance once in 1.8e19.
    """
    shape = len(indptr) - 1, len(factors)
    matrix = sp.csr_matrix((counts.astype(np.uint64), genes.astype(np.int32), indptr), shape)
    return matrix @ factors, (matrix != 0) @ (factors != 0).astype(np.int64)
