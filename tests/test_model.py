import math

import pytest
import torch
import torch.nn.functional as F

import scfm_lib as scfm
from scfm_lib.model import prediction_loss


@pytest.fixture
def model(tiny) -> scfm.CellTransformer:
    torch.manual_seed(0)
    tiny.model.num_layers = 3
    return scfm.CellTransformer(tiny.model).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """5 cells of 12, 9, 4, 1 and 0 genes, padded to 12."""
    torch.manual_seed(1)
    genes = torch.stack([torch.randperm(60)[:12] for _ in range(5)])
    values = torch.rand(5, 12) + 0.1
    for row, length in enumerate((12, 9, 4, 1, 0)):
        genes[row, length:] = 0
        values[row, length:] = 0
    return genes, values


def plain_encode(model: scfm.CellTransformer, genes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One cell at a time, no padding, attention by hand, all rows of every block: the lesson's version."""
    vectors = []
    for row in range(len(genes)):
        seen = values[row] > 0
        gene, value = genes[row][seen], values[row][seen].unsqueeze(-1)
        identity, slope = model.gene_to_token(model.gene_embedding[gene]).chunk(2, dim=-1)
        amount = model.value_out(F.relu(model.value_in(value)))
        x = torch.cat([model.cell_token.unsqueeze(0), identity + slope * value + amount])
        for block in model.blocks:
            q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)
            mixed = []
            for head in range(block.num_heads):
                width = q.shape[-1] // block.num_heads
                here = slice(head * width, (head + 1) * width)
                weights = torch.softmax(q[:, here] @ k[:, here].T / math.sqrt(width), dim=-1)
                mixed.append(weights @ v[:, here])
            x = x + block.attention_out(torch.cat(mixed, dim=-1))
            x = x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))
        vectors.append(model.norm(x[0]))
    return torch.stack(vectors)


def test_the_fast_encoder_is_the_plain_one(model, batch) -> None:
    torch.testing.assert_close(model.encode(*batch), plain_encode(model, *batch), rtol=1e-4, atol=1e-5)


def test_a_cell_is_a_set_and_padding_is_nothing(model, batch) -> None:
    genes, values = batch
    expected = model.encode(genes, values)
    order = torch.randperm(12)
    torch.testing.assert_close(model.encode(genes[:, order], values[:, order]), expected, rtol=1e-4, atol=1e-5)
    wide = model.encode(F.pad(genes, (0, 30), value=7), F.pad(values, (0, 30)))
    torch.testing.assert_close(wide, expected, rtol=1e-4, atol=1e-5)
    alone = torch.cat([model.encode(genes[i : i + 1], values[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)
    assert (model.encode(genes, values * 1.5) - expected)[:4].abs().max() > 1e-3  # but values do count


def test_shapes(model, batch) -> None:
    assert model.tokens(*batch).shape == (5, 13, 16)
    assert model.encode(*batch).shape == (5, 16)
    assert model(*batch).shape == (5, 60)


def test_the_loss_is_the_multinomials(model, batch) -> None:
    logits = model(*batch)
    counts = torch.zeros(5, 60)
    target_genes = torch.tensor([[3, 7, 59], [0, 1, 2], [5, 0, 0], [9, 10, 0], [1, 0, 0]])
    target_counts = torch.tensor([[2.0, 1, 4], [1, 1, 1], [3, 0, 0], [1, 6, 0], [0, 0, 0]])
    counts.scatter_add_(1, target_genes, target_counts)
    expected = 0.0
    for row in range(5):
        n = int(counts[row].sum())
        constant = math.lgamma(n + 1) - torch.lgamma(counts[row] + 1).sum()
        likelihood = torch.distributions.Multinomial(n, logits=logits[row]).log_prob(counts[row])
        expected -= (likelihood - constant).item()
    assert prediction_loss(logits, target_genes, target_counts).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_checkpointing_changes_memory_not_numbers(model, batch) -> None:
    model.train()
    gradients = []
    for on in (False, True):
        model.gradient_checkpointing = on
        model.zero_grad()
        model(*batch).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
