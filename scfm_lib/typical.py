"""Cells that stand for yours while there are no data: as many expressed genes as the cells of PBMC3k, or as you say."""

from pathlib import Path

import numpy as np

from .config import DataConfig
from .store import Store

# Expressed vocabulary genes of a cell of PBMC3k (10x Genomics, 2,638 cells), on average, after `prepare` with so many
# highly variable genes; the last is all of its genes.
PBMC3K = {1000: 112, 2000: 198, 5000: 298, 13714: 847}
SPREAD = 0.36  # standard deviation of the log of that number (0.32 to 0.37)
COUNT_SHARES = {1: 0.70, 2: 0.13, 3: 0.04, 4: 0.02, 5: 0.015, 10: 0.095}  # of its nonzero counts, larger ones as 10


def genes_per_cell(n_genes: int) -> float:
    """Expressed genes of a typical cell, out of a vocabulary of `n_genes`; between the measured points by power law."""
    sizes, means = np.log(list(PBMC3K)), np.log(list(PBMC3K.values()))
    wanted = np.log(n_genes)
    if wanted < sizes[0]:
        return PBMC3K[1000] * n_genes / 1000
    return float(np.exp(np.interp(wanted, sizes, means)))


def typical_store(n_genes: int, mean_genes: float | None = None, cells: int = 2048, seed: int = 0) -> Store:
    """A store in memory whose cells express `mean_genes` of `n_genes` on average; which ones is random.

    Args:
        n_genes: of the vocabulary.
        mean_genes: per cell; as in PBMC3k when unset.
        cells: how many.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    mean = mean_genes or genes_per_cell(n_genes)
    lengths = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, cells).round().clip(1, n_genes).astype(np.int64)
    genes = np.concatenate([np.sort(rng.choice(n_genes, length, replace=False)) for length in lengths])
    counts = rng.choice(list(COUNT_SHARES), size=len(genes), p=list(COUNT_SHARES.values()))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    names = np.array([f"gene {number}" for number in range(n_genes)], dtype=object)
    return Store(
        dir=Path(),
        symbols=names,
        ensembl=np.full(n_genes, "", dtype=object),
        report=[],
        data_config=DataConfig(validation_fraction=0.0),
        indptr=indptr,
        genes=genes.astype(np.uint16),
        counts=counts.astype(np.uint32),
        library_size=np.add.reduceat(counts, indptr[:-1]).astype(np.float32) * 2,
        held_out=np.zeros(cells, dtype=bool),
        dataset=np.zeros(cells, dtype=np.uint16),
    )
