"""A cell's vector: what the trained model makes of the whole cell."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .checkpoint import load_model
from .data.genes import match_genes, match_report
from .data.read import CHUNK, Cells, open_cells
from .data.store import ragged
from .data.write import check_new_h5ad, copied_h5ad
from .dataset import log_normalise, pad
from .errors import InputError
from .hardware.threads import without_onednn
from .model import CellTransformer
from .runtime.threads import Threads, threads_for

BATCH_SIZE = 32  # cells in a forward pass on a CPU, whose caches hold as much; 128 took 15 % longer
CARD_BATCH_SIZE = 512


def token_batches(
    model: CellTransformer,
    source: ad.AnnData | str | Path | Cells,
    *,
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """The cells as the model reads them: rows (B,), genes (B, S) and values (B, S), those with as many tokens together.

    Genes and values are where the model is.

    Raises:
        InputError: as `embed`.
    """
    cells, device = open_cells(source, layer), next(model.parameters()).device
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
            there = (torch.from_numpy(a).to(device) for a in (genes, pad(values.data[index], lengths)))
            yield start + rows, *there


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
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Embeds cells: (cells, gene_embedding_dim) float32, in the order of the data.

    A cell's vector depends on that cell alone. Genes are matched to the model's by Ensembl id or symbol; genes the
    model does not know count only towards the library size.

    Args:
        model: from `load_model` or a run.
        source: an `AnnData` with counts or a path, as `open_cells` takes.
        layer: where the counts are; looked for when unset.
        batch_size: cells at a time; 32 on a CPU, 512 on a card when unset.
        device: where to compute; where the model is, when unset.

    Raises:
        InputError: no counts, or fewer than a tenth of the genes that the model and the cells could share.
    """
    cells = open_cells(source, layer)
    out = np.zeros((cells.shape[0], model.config.gene_embedding_dim), dtype=np.float32)
    _embed_into(out, model, cells, batch_size, device)
    return out


def _embed_into(
    out: np.ndarray | h5py.Dataset, model: CellTransformer, cells: Cells, batch_size: int | None, device: Any
) -> None:
    """Writes the vectors to `out` (cells, gene_embedding_dim), in memory or in a file, chunk by chunk."""
    home, was_training = next(model.parameters()).device, model.training
    device = torch.device(device or home)
    batch_size = batch_size or (BATCH_SIZE if device.type == "cpu" else CARD_BATCH_SIZE)
    model.to(device).eval()

    @torch.inference_mode()
    def vectors(batch: tuple[np.ndarray, Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        rows, genes, values = batch
        return rows, model.encode(genes, values).float().cpu().numpy()

    try:
        with Threads(threads_for(device)) as threads, without_onednn(True):
            encoded = threads.map(vectors, token_batches(model, cells, batch_size=batch_size))
            for number, batches in itertools.groupby(encoded, lambda batch: batch[0][0] // CHUNK):
                here = slice(number * CHUNK, min((number + 1) * CHUNK, len(out)))
                chunk = np.empty((here.stop - here.start, out.shape[1]), dtype=np.float32)
                for rows, found in batches:
                    chunk[rows - here.start] = found
                out[here] = chunk
    finally:
        model.to(home).train(was_training)


def embed_file(
    checkpoint: str | Path,
    source: ad.AnnData | str | Path,
    out: Path,
    *,
    layer: str | None = None,
    device: str | torch.device | None = None,
    vectors_only: bool = False,
) -> tuple[tuple[int, int], str]:
    """Writes the cells with `obsm["X_scfm"]` to `out`, a new `.h5ad`; X, layers and obs are untouched.

    A `.h5ad` is never in memory as a whole: the file is copied, and vectors are added to it chunk by chunk.

    Args:
        checkpoint: a checkpoint, run or shared model.
        source: the cells.
        out: the file to write.
        layer: where the counts are; looked for when unset.
        device: where to compute.
        vectors_only: leave out everything but obs and the vectors; a copy of the counts may be many GB.

    Returns:
        The vectors' shape, and one line that says how many of the model's genes the cells have.

    Raises:
        InputError: as `embed`, or `out` exists.
        OSError: no space; nothing is left behind.
    """
    check_new_h5ad(out)
    model = load_model(checkpoint)
    cells = open_cells(source, layer)
    _, match = match_model(model, cells)
    shape = (cells.shape[0], model.config.gene_embedding_dim)
    with copied_h5ad(source, out, vectors_only, 4 * shape[0] * shape[1]) as file:
        obsm = file["obsm"]
        if "X_scfm" in obsm:
            del obsm["X_scfm"]
        dataset = obsm.create_dataset("X_scfm", shape, "f4")
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        _embed_into(dataset, model, cells, None, device)
    return shape, match
