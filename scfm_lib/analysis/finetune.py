"""A cell-type head on the encoder, learned from few labels: first the head alone, then head and encoder together.

In this order, since a head of random numbers would first pull the encoder anywhere (Kumar et al., ICLR 2022). The model
that was given is copied and left as it is, and no cell is read but those with a label.
"""

import copy
from collections.abc import Sequence

import anndata as ad
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..embed import token_batches
from ..errors import InputError
from ..model import CellTransformer

HEAD_STEPS, HEAD_RATE, DECAY = 200, 1e-2, 0.01  # of the head alone, on vectors that are computed once


class CellTypeHead(nn.Module):
    """The encoder and one linear layer: a log-odds per cell type."""

    def __init__(self, encoder: CellTransformer, types: Sequence[str]):
        super().__init__()
        self.encoder, self.types = copy.deepcopy(encoder), np.array(types, dtype=object)
        self.to_types = nn.Linear(encoder.config.gene_embedding_dim, len(types))

    def forward(self, genes: Tensor, values: Tensor) -> Tensor:
        """(B, T), (B, T) -> log-odds (B, types)."""
        return self.to_types(self.encoder.encode(genes, values))


def few_labels(labels: np.ndarray, allowed: np.ndarray, per_type: int, seed: int) -> np.ndarray:
    """Numbers of at most `per_type` cells of each type, drawn from the cells in `allowed` (cells,) bool.

    A type with fewer such cells gives all it has.
    """
    rng = np.random.default_rng(seed)
    there = [np.flatnonzero(allowed & (labels == label)) for label in np.unique(labels[allowed])]
    return np.sort(np.concatenate([rng.permutation(cells)[:per_type] for cells in there]))


def fine_tune(
    model: CellTransformer,
    adata: ad.AnnData,
    labels: Sequence[str],
    *,
    epochs: int = 10,
    learning_rate: float = 2e-4,
    batch_size: int = 32,
    seed: int = 0,
    layer: str | None = None,
) -> CellTypeHead:
    """Learns a head, and the encoder with it, from labelled cells. The global random state is left as it was.

    Args:
        model: a trained model; a copy of it is changed.
        adata: the labelled cells, and only those.
        labels: their types (cells,).
        epochs: passes over them with the encoder free; 0 leaves the encoder frozen.
        learning_rate: of encoder and head then, falling linearly to 0.
        batch_size: cells per step, those of similar length together, as in training.
        seed: of the head's first weights and the order of cells.
        layer: where the counts are.

    Raises:
        InputError: not a label for each cell, or all of one type; or as `embed`.
    """
    types, wanted = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(wanted) != adata.n_obs or len(types) < 2:
        raise InputError(
            f"{len(wanted):,} labels of {len(types)} types for {adata.n_obs:,} cells: give a label for each, two types"
        )
    device = next(model.parameters()).device
    y = torch.from_numpy(wanted).to(device)
    batches = [(*batch, y[rows]) for rows, *batch in token_batches(model, adata, layer=layer, batch_size=batch_size)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = CellTypeHead(model, types).to(device).eval()  # no dropout: so few cells are better read whole
        with torch.no_grad():
            vectors = torch.cat([head.encoder.encode(genes, values) for genes, values, _ in batches])
        all_y = torch.cat([y for _, _, y in batches])
        alone = torch.optim.AdamW(head.to_types.parameters(), lr=HEAD_RATE, weight_decay=DECAY)
        for _ in range(HEAD_STEPS):
            _step(alone, F.cross_entropy(head.to_types(vectors), all_y))
        together = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=DECAY)
        for epoch in range(epochs):
            together.param_groups[0]["lr"] = learning_rate * (1 - epoch / epochs)
            for number in torch.randperm(len(batches)).tolist():
                genes, values, y = batches[number]
                _step(together, F.cross_entropy(head(genes, values), y))
    return head


def predict(head: CellTypeHead, adata: ad.AnnData, *, layer: str | None = None) -> np.ndarray:
    """The type of each cell (cells,), as the head guesses it."""
    out = np.empty(adata.n_obs, dtype=object)
    with torch.inference_mode():
        for rows, genes, values in token_batches(head.encoder, adata, layer=layer):
            out[rows] = head.types[head(genes, values).argmax(1).cpu().numpy()]
    return out.astype(str)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
