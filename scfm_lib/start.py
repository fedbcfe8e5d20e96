"""A good start: gene embeddings from a PCA of the training cells, and the output bias at the mean expression.

Held-out cells are never used. The loadings are stored in each checkpoint, so that the model before training can be
rebuilt and judged beside the trained one.
"""

import numpy as np
import torch
from torch import Tensor

from .batches import log_normalise
from .config import ModelConfig
from .model import CellTransformer
from .store import Store

SAMPLE = 10_000  # cells for the PCA: the leading components of more look the same


def pca_start(store: Store, cells: np.ndarray, width: int, seed: int) -> dict[str, Tensor]:
    """`loadings` (genes, components <= width), scaled by their spread, and `log_share` (genes,)."""
    from sklearn.decomposition import PCA  # here: it takes most of a second, and an estimate needs no PCA

    rng = np.random.default_rng([seed, 1])
    sample = np.sort(rng.choice(cells, SAMPLE, replace=False)) if len(cells) > SAMPLE else cells
    counts = store.matrix(sample)
    totals = np.asarray(counts.sum(0)).ravel() + 1  # a pseudo-count keeps unseen genes finite
    values = log_normalise(counts, store.library_size[sample])
    components = min(width, min(values.shape) - 1)
    if components < 1:
        loadings = np.zeros((values.shape[1], 0), dtype=np.float32)
    else:
        pca = PCA(components, svd_solver="arpack", random_state=seed).fit(values)
        loadings = (pca.components_.T * pca.singular_values_).astype(np.float32)
        loadings /= max(float(loadings.std()), 1e-12)
    share = np.log(totals / totals.sum()).astype(np.float32)
    return {"loadings": torch.from_numpy(loadings.copy()), "log_share": torch.from_numpy(share)}


def new_model(config: ModelConfig, seed: int, start: dict[str, Tensor] | None = None) -> CellTransformer:
    """A model with random weights from `seed`, and with `start` from `pca_start` put in, if given.

    The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CellTransformer(config)
    if start is not None:
        loadings = start["loadings"]
        with torch.no_grad():  # the same spread as the random start, so that only the directions differ
            model.gene_embedding[:, : loadings.shape[1]] = loadings / 8
            model.output_embedding[:, : loadings.shape[1]] = loadings / 10
            model.output_bias.copy_(start["log_share"])
    return model
