"""What a model starts from: random weights, the PCA of the training cells, or another model that was trained before."""

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .checkpoint import load_model
from .config import ModelConfig
from .data.genes import match_genes, match_report
from .data.store import Store
from .dataset import log_normalise
from .errors import InputError
from .model import CellTransformer

PCA_CELLS = 10_000  # cells for the PCA start: the leading components of more look the same


def pca_start(store: Store, cells: np.ndarray, width: int, seed: int) -> dict[str, Tensor]:
    """What `new_model` starts from, found in the training cells alone: the PCA of all genes, and mean expression.

    It is stored in each checkpoint, so that the model before training can be rebuilt and judged beside the trained one.
    Where the store names batches, the directions in which their mean cells differ are taken out of the PCA, so that
    the bag does not tell the batches apart, whatever else differs along them.

    Returns:
        `components` (genes, components <= width), orthonormal; `spread` (components,), the cells' standard deviation
        along each; `centre` (components,), the mean cell; `log_share` (genes,), the log of each gene's share of all
        molecules; and `batch_offset` (batches, genes), what to add to it in each batch.
    """
    from sklearn.decomposition import PCA  # here: it takes most of a second, and an estimate needs no PCA

    rng = np.random.default_rng([seed, 1])
    sample = np.sort(rng.choice(cells, PCA_CELLS, replace=False)) if len(cells) > PCA_CELLS else cells
    counts = store.matrix(sample)
    values = log_normalise(counts, store.library_size[sample])
    n_components = min(width, min(values.shape) - 1)
    components, spread = np.zeros((values.shape[1], 0)), np.zeros(0)
    if n_components > 0:
        pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(values)
        components, spread = pca.components_.T, np.sqrt(pca.explained_variance_)
    per_batch = [np.flatnonzero(store.batch[sample] == number) for number in range(len(store.batches))]
    seen = [here for here in per_batch if len(here)]  # a small batch may be held out whole
    if len(seen) > 1:
        means = np.stack([np.asarray(values[here].mean(0)).ravel() for here in seen])
        apart, _ = np.linalg.qr((means[1:] - means[0]).T)  # (genes, batches - 1)
        scaled = components * spread
        components, spread, _ = np.linalg.svd(scaled - apart @ (apart.T @ scaled), full_matrices=False)
        spread = np.maximum(spread, 1e-3 * spread[0])
    shares = [_log_share(counts[here] if len(here) else counts) for here in per_batch]
    found = {"components": components, "spread": spread, "log_share": _log_share(counts)}
    found["centre"] = np.asarray(values.mean(0)).ravel() @ components
    found["batch_offset"] = np.stack(shares) - found["log_share"] if shares else np.zeros((0, values.shape[1]))
    return {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in found.items()}


def _log_share(counts: sp.csr_matrix) -> np.ndarray:
    """The log of each gene's share of the molecules (genes,); a pseudo-count keeps unseen genes finite."""
    totals = np.asarray(counts.sum(0)).ravel() + 1
    return np.log(totals / totals.sum())


def new_model(
    config: ModelConfig, seed: int, start: dict[str, Tensor] | None = None, genes: int | None = None
) -> CellTransformer:
    """A model with random weights from `seed`, and with `start` from `dataset.pca_start` put in, if given.

    The global random state of torch is left as it was.

    Args:
        config: its dimensions.
        seed: of the weights.
        start: directions of the gene vectors, and shares of the molecules.
        genes: all genes that are read and predicted; those of `start`, else `n_genes`, when unset.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batches, known = start["batch_offset"].shape if start else (0, None)
        model = CellTransformer(config, genes or known, batches)
    if start is not None and start["components"].shape[1]:
        components, spread = start["components"], start["spread"]
        here, loadings = slice(components.shape[1]), components * spread
        loadings = loadings / loadings[: config.n_genes].std().clamp(min=1e-12)
        with torch.no_grad():
            model.bag_embedding[:, here] = components / spread[0]  # [CELL] starts at the cell's scores in the PCA
            model.bag_centre[here] = start["centre"] / spread[0]
            # the same spread as the random start, so that only the directions differ
            model.gene_embedding[:, here] = loadings[: config.n_genes] / 8
            model.output_embedding[:, here] = loadings / 10
    if start is not None:
        with torch.no_grad():
            model.output_bias.copy_(start["log_share"])
            if model.batch_offset is not None:
                model.batch_offset.copy_(start["batch_offset"])
    return model


def trained_model(path: str | Path, config: ModelConfig) -> CellTransformer:
    """A trained model from which one of this config can start: it has the same dimensions, if not the same genes.

    Raises:
        InputError: as `load_model`, or naming the first dimension that differs.
    """
    trained = load_model(path)
    for key, there in trained.config.model_dump(exclude={"n_genes", "dropout"}).items():
        if (here := getattr(config, key)) != there:
            raise InputError(
                f"the config has model.{key} = {here}, the model of --init has {there}; leave out --preset and "
                f"--config, or --set model.{key}={there}"
            )
    return trained


@torch.no_grad()
def start_from(model: CellTransformer, trained: CellTransformer) -> str:
    """Puts a trained model's weights into one for other cells, and returns a line that counts the genes they share.

    What the trained model does not know of a gene starts from the new cells' PCA, turned into the trained model's
    directions by least squares over the genes that both know.

    Args:
        model: of the new cells' genes, with their PCA start; its names are set. Changed.
        trained: the model to start from.

    Raises:
        InputError: fewer than a tenth of the genes that both could share are known.
    """
    places = torch.from_numpy(match_genes(model.symbols, model.ensembl, trained))
    line = match_report(places.numpy(), model.symbols, "the model of --init", len(trained.symbols))
    fresh = model.state_dict()
    weights = {key: weight for key, weight in trained.state_dict().items() if not key.startswith("batch_")}
    for key in ("bag_embedding", "output_embedding", "gene_embedding"):
        weights[key] = _carried(fresh[key], weights[key], places[: len(fresh[key])])
    known = places >= 0
    bias = fresh["output_bias"].clone()
    bias[known] = weights["output_bias"][places[known]]
    weights["output_bias"] = bias
    model.load_state_dict(fresh | weights)
    return line


def _carried(fresh: Tensor, trained: Tensor, places: Tensor) -> Tensor:
    """Rows of `trained` (G', E) for the genes it has, given by `places` (G,); the others' from `fresh` (G, E)."""
    known = (places >= 0) & (places < len(trained))
    turn = torch.linalg.lstsq(fresh[known], trained[places[known]], driver="gelsd").solution  # (E, E)
    carried = fresh @ turn
    carried[known] = trained[places[known]]
    return carried
