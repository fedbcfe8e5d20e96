"""What a model must beat: methods that people use already, fitted on the same cells without labels.

A baseline takes the cells, which of them it may fit on, and the model's config, and gives vectors for all cells:
(AnnData with `layers["counts"]`, (cells,) bool, Config) -> (cells, dimensions) float32. `BASELINES` names them.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd

from .config import Config
from .data.genes import variable_genes
from .dataset import log_normalise

PCA_COMPONENTS = 50
SCVI = {"n_latent": 30, "n_layers": 2, "gene_likelihood": "nb"}
SCVI_EPOCHS = 100

Baseline = Callable[[ad.AnnData, np.ndarray, Config], np.ndarray]


def pca_embedding(adata: ad.AnnData, fit: np.ndarray, config: Config) -> np.ndarray:
    """scanpy's standard start, fitted on the cells in `fit`: log1p of counts per 10,000, 50 components (cells, 50)."""
    from sklearn.decomposition import PCA

    counts = adata.layers["counts"]
    genes = _genes(adata, fit, config)
    values = log_normalise(counts[:, genes], np.asarray(counts.sum(1)).ravel())
    components = min(PCA_COMPONENTS, min(int(fit.sum()), len(genes)) - 1)
    pca = PCA(components, svd_solver="arpack", random_state=config.training.seed).fit(values[fit])
    return pca.transform(values).astype(np.float32)


def scvi_embedding(adata: ad.AnnData, fit: np.ndarray, config: Config, epochs: int | None = SCVI_EPOCHS) -> np.ndarray:
    """scVI's latent means (cells, 30), fitted on the cells in `fit`; `epochs` None takes scVI's own default."""
    import scvi

    for name in ("lightning.pytorch", "lightning.fabric"):  # which say on standard error that a seed was set
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.seed = config.training.seed
    scvi.settings.verbosity = logging.ERROR
    genes = _genes(adata, fit, config)
    data = ad.AnnData(adata.layers["counts"][:, genes].copy(), obs=pd.DataFrame(index=adata.obs_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = data[fit].copy()
        scvi.model.SCVI.setup_anndata(part)
        model = scvi.model.SCVI(part, **SCVI)
        model.train(epochs, enable_progress_bar=False, accelerator="cpu")
        return np.asarray(model.get_latent_representation(data), dtype=np.float32)


def scvi_is_installed() -> bool:
    """Whether `scvi_embedding` can run."""
    return importlib.util.find_spec("scvi") is not None


def _genes(adata: ad.AnnData, fit: np.ndarray, config: Config) -> np.ndarray:
    """As many variable genes as the model reads, by the model's own recipe, chosen on the cells in `fit`."""
    counts, min_cells = adata.layers["counts"][fit], config.data.preprocessing.min_cells
    return variable_genes(counts, config.model.n_genes, min_cells=min_cells)[0]


BASELINES: dict[str, Baseline] = {"pca": pca_embedding, "scvi": scvi_embedding}
