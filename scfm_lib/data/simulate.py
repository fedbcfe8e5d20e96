"""Simulated cells with known types, batches and depth, for lessons and scale tests."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import softmax


def simulate(
    n_cells: int = 1000,
    n_genes: int = 2000,
    *,
    n_types: int = 5,
    n_batches: int = 1,
    depth: float = 2000,
    type_effect: float = 1.0,
    batch_effect: float = 0.3,
    seed: int = 0,
) -> ad.AnnData:
    """Counts drawn as Poisson around known profiles: an `AnnData` (cells, genes) with `obs` `cell_type` and `batch`.

    A type changes one gene in ten by a log-normal factor, a batch changes all genes a little, and a cell's depth
    (library size) is log-normal, independent of both; so what an embedding should find, and what not, is known.

    Args:
        n_cells: cells.
        n_genes: genes.
        n_types: cell types.
        n_batches: batches.
        depth: median molecules per cell.
        type_effect: standard deviation of the log factor of a type's marker genes.
        batch_effect: the same for batches, on all genes.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1.5, n_genes)
    markers = rng.random((n_types, n_genes)) < 0.1
    types = np.where(markers, rng.normal(0, 2 * type_effect, (n_types, n_genes)), 0)
    batches = rng.normal(0, batch_effect, (n_batches, n_genes)) if n_batches > 1 else np.zeros((1, n_genes))
    cell_type = rng.integers(n_types, size=n_cells)
    batch = rng.integers(n_batches, size=n_cells)
    size = depth * rng.lognormal(0, 0.4, n_cells)
    parts = []
    for start in range(0, n_cells, 4096):  # dense only a part at a time
        here = slice(start, start + 4096)
        share = softmax(base + types[cell_type[here]] + batches[batch[here]], axis=1)
        parts.append(sp.csr_matrix(rng.poisson(share * size[here, None]).astype(np.float32)))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {t}" for t in cell_type]),
            "batch": pd.Categorical([f"batch {b}" for b in batch]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{g}" for g in range(n_genes)])
    return ad.AnnData(sp.vstack(parts, format="csr"), obs=obs, var=var)
