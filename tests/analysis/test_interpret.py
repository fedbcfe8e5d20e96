"""What [CELL] attends to is what the block computes, and neighbours are near."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scfm_lib as scfm
from scfm_lib.analysis.interpret import (
    attention_matrix,
    attention_table,
    cell_attention,
    gene_vectors,
    neighbours,
    without_each_gene,
)
from scfm_lib.embed import token_batches


def test_tokens_are_those_that_embed_reads(trained, cells) -> None:
    expected = scfm.embed(trained.model, cells)
    for rows, genes, values in token_batches(trained.model, cells, batch_size=64):
        with torch.inference_mode():
            np.testing.assert_allclose(trained.model.encode(genes, values).numpy(), expected[rows], atol=1e-5)


def test_attention_gives_the_blocks_own_output(trained, cells) -> None:
    model = trained.model
    _, genes, values = next(token_batches(model, cells, batch_size=16))
    weights = cell_attention(model, genes, values)
    assert weights.shape == (16, 2, 1 + genes.shape[1])
    torch.testing.assert_close(weights.sum(-1), torch.ones(16, 2))
    is_token = (values > 0) & (genes < model.config.n_genes)
    assert 0 < is_token.sum() < (values > 0).sum()
    assert (weights[:, :, 1:].masked_select(~is_token[:, None].expand(-1, 2, -1)) == 0).all()
    with torch.inference_mode():  # the last block by these weights
        attend = torch.nn.functional.pad(is_token, (1, 0), value=True)[:, None, None, :]
        x = torch.cat([model.cell_start(genes, values)[:, None], model.tokens(genes * is_token, values)], dim=1)
        for block in model.blocks[:-1]:
            x = block(x, attend)
        last = model.blocks[-1]
        v = last.qkv(last.attention_norm(x)).chunk(3, dim=-1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = (weights[:, :, None] @ v).transpose(1, 2).flatten(2)
        x = x[:, :1] + last.attention_out(mixed)
        x = x + last.ff_out(torch.nn.functional.gelu(last.ff_in(last.ff_norm(x))))
        torch.testing.assert_close(
            model.to_latent(model.norm(x[:, 0])), model.encode(genes, values), atol=1e-5, rtol=1e-4
        )


def test_the_matrix_has_the_expressed_genes_in_their_places(trained, cells) -> None:
    model = trained.model
    attention = attention_matrix(model, cells, batch_size=50)
    assert attention.shape == (300, model.config.n_genes)
    columns = [cells.var_names.get_loc(symbol) for symbol in model.symbols[:60]]
    placed = sp.csr_matrix((np.ones_like(attention.data), attention.indices, attention.indptr), attention.shape)
    np.testing.assert_array_equal(placed.toarray() > 0, cells.X[:, columns].toarray() > 0)
    totals = np.asarray(attention.sum(1)).ravel()
    assert (totals < 1 + 1e-5).all()
    assert totals.min() < 0.99  # [CELL] attends to itself too
    assert (totals > 0).all()
    table = attention_table(model, attention)
    assert table["times_even"].is_monotonic_decreasing
    assert (table["cells"] >= 5).all()
    gene = table.index[0]
    column = list(model.symbols).index(gene)
    by_hand = [row[column] * (1 + (row > 0).sum()) for row in attention.toarray() if row[column] > 0]
    assert table.loc[gene, "times_even"] == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_taking_a_gene_away_is_embedding_the_cell_without_it(trained, cells) -> None:
    _, genes, values = next(token_batches(trained.model, cells, batch_size=1))
    moved = without_each_gene(trained.model, genes[0], values[0])
    assert moved.shape == (genes.shape[1],)
    assert genes[0, 2] < trained.model.config.n_genes <= genes[0, -1]
    for place in (2, len(genes[0]) - 1):  # a token, and a gene that is none
        keep = torch.arange(len(genes[0])) != place
        with torch.inference_mode():
            whole = trained.model.encode(genes, values)
            less = trained.model.encode(genes[:, keep], values[:, keep])
        assert moved[place] == pytest.approx((whole - less).norm().item(), rel=1e-3)
        assert moved[place] > 1e-3


def test_neighbours_are_the_nearest_by_cosine(trained) -> None:
    vectors = gene_vectors(trained.model)
    assert vectors.shape == (60, 8)
    twin, other = vectors.index[:2]
    vectors.loc[other] = 3 * vectors.loc[twin]
    near = neighbours(vectors, twin, 4)
    assert near.index[0] == other
    assert near.iloc[0] == pytest.approx(1)
    assert near.is_monotonic_decreasing
    assert len(near) == 4
    with pytest.raises(scfm.InputError, match="gene 'nothing' is not among the 60"):
        neighbours(vectors, "nothing")
