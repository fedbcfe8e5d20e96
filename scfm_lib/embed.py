"""A cell's vector: what the trained model makes of the whole cell."""

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .checkpoint import load_model
from .data.genes import match_genes, match_report
from .data.read import Cells, open_cells, read_any
from .data.store import ragged
from .data.write import check_new_h5ad, write_h5ad
from .dataset import log_normalise, pad
from .errors import InputError
from .model import CellTransformer
from .runtime.threads import Threads, threads_for


def token_batches(
    model: CellTransformer, source: ad.AnnData | str | Path | Cells, *, layer: str | None = None, batch_size: int = 128
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """The cells as the model reads them: rows (B,), genes (B, S) and values (B, S), those with as many tokens together.

    Raises:
        InputError: as `embed`.
    """
    cells = open_cells(source, layer)
    columns, _ = match_model(model, cells)
    known = np.flatnonzero(columns >= 0)
    for start, counts in cells.chunks():
        chosen = sp.csr_matrix(counts[:, columns[known]])
        chosen.sort_indices()  # tokens first
        values = log_normalise(chosen, np.asarray(counts.sum(1)).ravel())
        n_tokens = int((known < model.config.n_genes).sum())
        by_length = np.argsort(np.diff(chosen[:, :n_tokens].indptr), kind="stable")
        for first in range(0, len(by_length), batch_size):
            rows = by_length[first : first + batch_size]
            index, lengths = ragged(chosen.indptr, rows)
            genes = pad(known[chosen.indices[index]].astype(np.int64), lengths)
            yield start + rows, torch.from_numpy(genes), torch.from_numpy(pad(values.data[index], lengths))


def match_model(model: CellTransformer, cells: Cells) -> tuple[np.ndarray, str]:
    """For each of the model's genes its column in the cells, -1 where it is not there, and a line that counts them.

    Raises:
        InputError: as `embed`.
    """
    if model.symbols is None or model.ensembl is None:
        raise InputError("this model has no gene names; load it with load_model, or set model.symbols, model.ensembl")
    columns = match_genes(model.symbols, model.ensembl, cells)
    return columns, match_report(columns, model.symbols, cells.name, cells.shape[1])


def embed(
    model: CellTransformer,
    source: ad.AnnData | str | Path,
    *,
    layer: str | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Embeds cells: (cells, gene_embedding_dim) float32, in the order of the data.

    A cell's vector depends on that cell alone. Genes are matched to the model's by Ensembl id or symbol; genes the
    model does not know count only towards the library size.

    Args:
        model: from `load_model` or a run.
        source: an `AnnData` with counts or a path, as `open_cells` takes.
        layer: where the counts are; looked for when unset.
        batch_size: cells at a time.
        device: where to compute; where the model is, when unset.

    Raises:
        InputError: no counts, or fewer than a tenth of the genes that the model and the cells could share.
    """
    cells = open_cells(source, layer)
    out = np.zeros((cells.shape[0], model.config.gene_embedding_dim), dtype=np.float32)
    home = next(model.parameters()).device
    device = torch.device(device or home)
    was_training = model.training
    model.to(device).eval()

    @torch.inference_mode()
    def vectors(batch: tuple[np.ndarray, Tensor, Tensor]) -> tuple[np.ndarray, Tensor]:
        rows, genes, values = batch
        return rows, model.encode(genes.to(device), values.to(device)).float().cpu()

    try:
        with Threads(threads_for(device)) as threads:
            for rows, encoded in threads.map(vectors, token_batches(model, cells, batch_size=batch_size)):
                out[rows] = encoded.numpy()
    finally:
        model.to(home).train(was_training)
    return out


def embed_file(
    checkpoint: str | Path,
    source: ad.AnnData | str | Path,
    out: Path,
    *,
    layer: str | None = None,
    device: str | torch.device | None = None,
) -> tuple[ad.AnnData, str]:
    """Writes the cells with `obsm["X_scfm"]` to `out`, a new `.h5ad`; X, layers and obs are untouched.

    Returns:
        The cells, and one line that says how many of the model's genes they have.

    Raises:
        InputError: as `embed`, or `out` exists.
        OSError: no space; nothing is left behind.
    """
    check_new_h5ad(out)
    model = load_model(checkpoint)
    adata = read_any(source, layer)
    _, match = match_model(model, open_cells(source, layer))
    adata.obsm["X_scfm"] = embed(model, adata, layer=layer, device=device)
    write_h5ad(adata, out)
    return adata, match
