"""A rival from another package: scVI (Lopez et al. 2018), which every new embedding of cells is compared with."""

import importlib.util
import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

SETTINGS = {"n_latent": 30, "n_layers": 2, "gene_likelihood": "nb"}
EPOCHS = 100


def scvi_is_installed() -> bool:
    """Whether `scvi_vectors` can run."""
    return importlib.util.find_spec("scvi") is not None


def scvi_vectors(
    counts: sp.csr_matrix, genes: np.ndarray, fit: np.ndarray, seed: int, batches: np.ndarray | None = None
) -> np.ndarray:
    """scVI's latent means of all cells (cells, 30) float32.

    Args:
        counts: (cells, genes).
        genes: numbers of the genes that it reads.
        fit: the cells that it is fitted on (cells,) bool.
        seed: of its weights and batches.
        batches: (cells,) str, which it is told.
    """
    import scvi

    for name in ("lightning.pytorch", "lightning.fabric"):  # which say on standard error that a seed was set
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    batches = np.full(len(fit), "one") if batches is None else batches
    # scVI refuses a batch that it was not fitted on. Its encoder is not told the batch, so any name gives that vector.
    batches = np.where(np.isin(batches, batches[fit]), batches, batches[fit][0])
    obs = pd.DataFrame({"batch": batches}, index=pd.RangeIndex(len(fit)).astype(str))
    data = ad.AnnData(counts[:, genes].copy(), obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = data[fit].copy()
        scvi.model.SCVI.setup_anndata(part, batch_key="batch")
        model = scvi.model.SCVI(part, **SETTINGS)
        model.train(EPOCHS, enable_progress_bar=False, accelerator="cpu")
        return np.asarray(model.get_latent_representation(data), dtype=np.float32)
