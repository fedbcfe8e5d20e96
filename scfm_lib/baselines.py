"""What a model must beat: methods that people use already, fitted on the same cells without labels.

`BASELINES` names them. Each takes the cells (`layers["counts"]`), which of them it may fit on (cells,), the model's
config and, if there are any, the batches (cells,), and gives every cell's vector: (cells, dimensions).
"""

from collections.abc import Callable
from dataclasses import dataclass

import anndata as ad
import numpy as np
import scipy.sparse as sp

from .config import Config
from .data.genes import variable_genes
from .dataset import log_normalise
from .scores.scvi import scvi_is_installed, scvi_vectors

PCA_COMPONENTS = 50
ALL = 10**9  # more genes than any data have

Vectors = np.ndarray | sp.csr_matrix
Batches = np.ndarray | None


@dataclass(frozen=True)
class Baseline:
    """A method (counts, genes, fit, seed, batches) -> vectors, and how many of the most variable genes it reads."""

    method: Callable[..., Vectors]
    n_genes: int | None = None  # None: as many as the model has tokens

    def __call__(self, adata: ad.AnnData, fit: np.ndarray, config: Config, batches: Batches = None) -> Vectors:
        """The cells' vectors, with genes chosen on the cells in `fit` by the model's own recipe."""
        counts, least = adata.layers["counts"], config.data.preprocessing.min_cells
        genes, _ = variable_genes(counts[fit], self.n_genes or config.model.n_genes, min_cells=least)
        return self.method(counts, genes, fit, config.training.seed, batches)


def expression(counts: sp.csr_matrix, genes: np.ndarray, *_: object) -> sp.csr_matrix:
    """log1p of counts per 10,000 of these genes (cells, genes), sparse: nothing is fitted."""
    return log_normalise(counts[:, genes], np.asarray(counts.sum(1)).ravel())


def pca_vectors(counts: sp.csr_matrix, genes: np.ndarray, fit: np.ndarray, seed: int, *_: object) -> np.ndarray:
    """scanpy's standard start, fitted on the cells in `fit`: log1p of counts per 10,000, 50 components (cells, 50)."""
    from sklearn.decomposition import PCA

    values = expression(counts, genes)
    components = min(PCA_COMPONENTS, min(int(fit.sum()), len(genes)) - 1)
    pca = PCA(components, svd_solver="arpack", random_state=seed).fit(values[fit])
    return pca.transform(values).astype(np.float32)


BASELINES = {
    "pca": Baseline(pca_vectors, ALL),
    "pca_1000": Baseline(pca_vectors, 1000),
    "pca_3000": Baseline(pca_vectors, 3000),
    "raw": Baseline(expression, ALL),
    "scvi": Baseline(scvi_vectors),
    "scvi_3000": Baseline(scvi_vectors, 3000),
    "scvi_all": Baseline(scvi_vectors, ALL),
}


def baselines_for(
    counts: sp.csr_matrix, config: Config, *, scvi: bool, full: bool, say: Callable[[str], None]
) -> dict[str, Baseline]:
    """`BASELINES` without those that cannot be had, were not asked for or would equal another; `say` is told why.

    Args:
        counts: of the cells to fit on (cells, genes).
        config: of the model.
        scvi: fit scVI too, if it is installed.
        full: also scVI on all genes, which takes minutes.
        say: told a line for each reason.
    """
    genes = int((counts.getnnz(axis=0) >= max(1, config.data.preprocessing.min_cells)).sum())
    can_scvi, wanted = scvi and scvi_is_installed(), {}
    if not can_scvi:
        say(f"scVI is not {'installed' if scvi else 'asked for'}: left out")
    for name, baseline in BASELINES.items():
        is_scvi = baseline.method is scvi_vectors
        if is_scvi and not can_scvi:
            continue
        if genes <= (baseline.n_genes or 0) < ALL:
            say(f"{name} is left out: the data have {genes:,} genes, so it would equal {'scvi' if is_scvi else 'pca'}")
        elif name == "scvi_all" and not full:
            say("scvi_all is left out: scVI on all genes takes minutes (--full adds it)")
        else:
            wanted[name] = baseline
    return wanted
