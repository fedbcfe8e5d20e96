"""What the model looks at: which genes [CELL] attends to, and which genes have similar embeddings.

Attention says where a block reads, not why, nor what would change without it (Jain & Wallace, NAACL 2019), and a gene's
neighbours may come from the PCA that the embeddings started with. So `without_each_gene` takes genes away and looks.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..embed import token_batches
from ..errors import InputError
from ..model import CellTransformer


@torch.inference_mode()
def cell_attention(model: CellTransformer, genes: Tensor, values: Tensor) -> Tensor:
    """[CELL]'s attention in the last block: (B, heads, 1 + S); each row adds up to 1; padding and no tokens get 0.

    Softmax of q k / sqrt(H / heads), with q of [CELL] alone and k of all tokens; the first column is [CELL] itself.
    """
    x, attend = model.read(genes, values, genes.shape[1])
    for block in model.blocks[:-1]:
        x = block(x, attend)
    last = model.blocks[-1]
    q, k, _ = last.qkv(last.attention_norm(x)).chunk(3, dim=-1)
    q, k = (t.unflatten(-1, (last.num_heads, -1)).transpose(1, 2) for t in (q[:, :1], k))  # (B, heads, 1 or T, width)
    scores = (q @ k.transpose(-1, -2)).squeeze(2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~attend[:, :, 0], -torch.inf).softmax(-1)


def attention_matrix(
    model: CellTransformer, source: ad.AnnData | str | Path, *, layer: str | None = None, batch_size: int = 128
) -> sp.csr_matrix:
    """[CELL]'s attention to every token gene, mean of the heads: (cells, `n_genes`), 0 where it is not expressed.

    A row adds up to a little less than 1, since [CELL] attends to itself too.
    """
    rows, columns, shares, n_cells = [], [], [], 0
    training = model.training
    model.eval()
    for cells, genes, values in token_batches(model, source, layer=layer, batch_size=batch_size):
        weights = cell_attention(model, genes, values).mean(1)[:, 1:].cpu().numpy()
        cell, position = np.nonzero(((values > 0) & (genes < model.config.n_genes)).cpu().numpy())
        rows.append(cells[cell])
        columns.append(genes.cpu().numpy()[cell, position])
        shares.append(weights[cell, position])
        n_cells = max(n_cells, int(cells.max()) + 1)
    model.train(training)
    coordinates = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix((np.concatenate(shares), coordinates), (n_cells, model.config.n_genes))


def attention_table(model: CellTransformer, attention: sp.csr_matrix, least: int = 5) -> pd.DataFrame:
    """Genes by how much of [CELL]'s attention they draw where they are expressed, the most first.

    Args:
        model: knows the genes' names.
        attention: (cells, G) from `attention_matrix`, or rows of it.
        least: genes expressed in fewer of these cells are left out.

    Returns:
        A row per gene: `cells` that express it, and `times_even`: its attention over what it would get if all tokens
        of a cell got the same, mean over those cells.
    """
    relative = sp.diags(np.diff(attention.indptr) + 1.0) @ attention  # times its cell's tokens, with [CELL]
    cells = np.asarray((attention > 0).sum(0)).ravel()
    mean = np.asarray(relative.sum(0)).ravel() / np.maximum(cells, 1)
    names = pd.Index(model.symbols[: attention.shape[1]], name="gene")
    table = pd.DataFrame({"cells": cells, "times_even": mean}, index=names)
    return table[table["cells"] >= least].sort_values("times_even", ascending=False)


@torch.inference_mode()
def without_each_gene(model: CellTransformer, genes: Tensor, values: Tensor) -> np.ndarray:
    """How far a cell's vector moves if one of its genes is taken away: (T,), Euclidean, one number per gene.

    Args:
        model: in evaluation mode.
        genes: (T,) of one cell.
        values: (T,), all above 0.
    """
    one_less = values.repeat(len(values), 1).fill_diagonal_(0)  # a value of 0 is padding: nobody reads it
    whole = model.encode(genes[None], values[None])
    return (model.encode(genes.repeat(len(genes), 1), one_less) - whole).norm(dim=1).cpu().numpy()


def gene_vectors(model: CellTransformer) -> pd.DataFrame:
    """The learned embeddings of the token genes (`n_genes`, E), rows named by symbol, less their mean."""
    vectors = model.gene_embedding.detach().cpu().numpy()
    return pd.DataFrame(vectors - vectors.mean(0), index=pd.Index(model.symbols[: len(vectors)], name="gene"))


def neighbours(vectors: pd.DataFrame, gene: str, n: int = 8) -> pd.Series:
    """The n genes nearest to a gene by cosine similarity (1: the same direction), the nearest first.

    Args:
        vectors: genes by anything, such as `gene_vectors`.
        gene: a row's name.
        n: how many.

    Raises:
        InputError: the gene is not there.
    """
    if gene not in vectors.index:
        raise InputError(f"gene {gene!r} is not among the {len(vectors):,} of the model; try model.symbols")
    directions = vectors.to_numpy()
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    cosine = pd.Series(directions @ directions[vectors.index.get_loc(gene)], index=vectors.index, name=gene)
    return cosine.drop(gene).nlargest(n)
