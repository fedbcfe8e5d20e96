import math

import pytest
import torch
import torch.nn.functional as F

import scfm_lib as scfm
from scfm_lib.model import on_grid, prediction_loss
from scfm_lib.start import new_model

GENES, TOKENS = 100, 60


@pytest.fixture
def model(tiny) -> scfm.CellTransformer:
    torch.manual_seed(0)
    tiny.model.num_layers = 3
    model = scfm.CellTransformer(tiny.model, GENES).eval()
    model.bag_centre.normal_()
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """5 cells of 12, 9, 4, 1 and 0 genes, padded to 12, tokens and others in no order; the fourth cell has no token."""
    torch.manual_seed(1)
    genes = torch.stack([torch.randperm(GENES)[:12] for _ in range(5)])
    genes[3, 0] = 77
    values = 3 * torch.rand(5, 12) + 1
    for row, length in enumerate((12, 9, 4, 1, 0)):
        genes[row, length:] = 0
        values[row, length:] = 0
    return genes, values


def sorted_rows(genes: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The same cells with tokens first, padding last, and how many columns hold all tokens."""
    order = (genes + 1000 * (values == 0)).argsort(dim=1)
    genes, values = genes.gather(1, order), values.gather(1, order)
    return genes, values, int(((genes < TOKENS) & (values > 0)).sum(1).max())


def plain_encode(model: scfm.CellTransformer, genes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One cell at a time, no padding, attention by hand, all rows of every block: the lesson's version."""
    vectors = []
    for row in range(len(genes)):
        bag, tokens = -model.bag_centre, []
        for gene, value in zip(genes[row].tolist(), values[row], strict=True):
            if value == 0:
                continue
            bag = bag + value * model.bag_embedding[gene]
            if gene < model.config.n_genes:
                identity, slope = (model.gene_to_token.weight @ model.gene_embedding[gene]).chunk(2)
                hinges = (value * model.value_in.weight[:, 0] + model.value_in.bias).clamp(min=0)
                tokens.append(identity + slope * value + model.value_out.weight @ hinges + model.value_out.bias)
        x = torch.stack([model.cell_token + model.bag_to_cell.weight @ bag, *tokens])
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
        vectors.append(model.to_latent.weight @ model.norm(x[0]) + model.to_latent.bias)
    return torch.stack(vectors)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_the_fast_encoder_is_the_plain_one(model, batch) -> None:
    expected = plain_encode(model, *batch)
    close(model.encode(*batch), expected)
    close(model.encode(*sorted_rows(*batch)), expected)


def test_a_cell_is_a_set_and_padding_is_nothing(model, batch) -> None:
    genes, values = batch
    expected = model.encode(genes, values)
    order = torch.randperm(12)
    close(model.encode(genes[:, order], values[:, order]), expected)
    for gene in (7, 93):  # a token and another
        close(model.encode(F.pad(genes, (0, 30), value=gene), F.pad(values, (0, 30))), expected)
    alone = torch.cat([model.encode(genes[i : i + 1], values[i : i + 1]) for i in range(5)])
    close(alone, expected)
    others = genes.clone(), values.clone()
    others[0][1:], others[1][1:] = genes[1:].flip(0), 2 * values[1:].flip(0)
    close(model.encode(*others)[0], expected[0])
    assert (model.encode(genes, values * 1.5) - expected)[:4].abs().max() > 1e-3  # but values do count


def test_every_gene_is_heard_tokens_in_attention_and_the_others_in_the_bag(model, batch) -> None:
    genes, values = batch
    expected = model.encode(genes, values)
    for is_token in (True, False):
        more = values.clone()
        more[0, (genes[0] < TOKENS) == is_token] += 1
        moved = (model.encode(genes, more) - expected).abs().amax(1)
        assert moved[0] > 1e-2
        assert moved[1:].max() < 1e-5
    assert (expected[3] - expected[4]).abs().max() > 1e-2  # a cell without a token is not an empty one
    with torch.no_grad():
        model.bag_to_cell.weight.zero_()  # now the genes that are no token have no way in
    close(model.encode(genes, values * (genes < TOKENS)), model.encode(genes, values))


def test_every_gene_is_predicted_and_every_weight_is_trained(model, batch) -> None:
    log_odds = model(*batch)
    assert log_odds.shape == (5, GENES)
    torch.nn.functional.cross_entropy(log_odds, torch.tensor([3, 61, 99, 70, 0])).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    assert (model.output_embedding.grad.abs().amax(1) > 0).all()
    heard = torch.zeros(GENES, dtype=torch.bool)
    heard[batch[0][batch[1] > 0]] = True
    assert torch.equal(model.bag_embedding.grad.abs().amax(1) > 0, heard)


def test_no_unit_of_the_value_network_is_dead_or_straight_at_the_start(model) -> None:
    values = torch.linspace(1.0, 7.0, 100)[:, None]
    active = model.value_in(values) > 0
    assert active.any(0).all()
    assert not active.all(0).any()
    kinks = (-model.value_in.bias / model.value_in.weight[:, 0]).detach()
    assert (kinks.min().item(), kinks.max().item()) == pytest.approx((1.2, 6.5))
    assert kinks.sort().values.diff().max() < 0.2
    assert (model.value_in.weight > 0).sum() == len(kinks) / 2


def test_a_new_model_puts_the_start_in_its_place(tiny) -> None:
    directions = torch.linalg.qr(torch.randn(GENES, 5, generator=torch.Generator().manual_seed(0)))[0]
    start = {
        "components": directions,
        "spread": torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]),
        "centre": torch.arange(5.0),
        "log_share": torch.full((GENES,), -3.0),
        "batch_offset": torch.zeros(0, GENES),
    }
    before = torch.get_rng_state()
    model, plain = new_model(tiny.model, 0, start), new_model(tiny.model, 0, genes=GENES)
    assert torch.equal(before, torch.get_rng_state())
    assert (model.bag_embedding.shape, model.gene_embedding.shape) == ((GENES, 8), (TOKENS, 8))
    close(model.bag_embedding[:, :5], directions / 4)
    close(model.bag_centre, torch.tensor([0, 0.25, 0.5, 0.75, 1, 0, 0, 0]))
    for table, rows, spread in ((model.gene_embedding, TOKENS, 1 / 8), (model.output_embedding, GENES, 1 / 10)):
        ratio = table[:, :5] / (directions * start["spread"])[:rows]
        close(ratio, ratio[0, 0].expand_as(ratio))
        assert table[:, :5].std().item() == pytest.approx(spread, rel=0.3)
    assert torch.equal(model.output_bias, start["log_share"])
    for name in ("bag_embedding", "gene_embedding", "output_embedding"):  # the rest is random, as without a start
        assert torch.equal(getattr(model, name)[:, 5:], getattr(plain, name)[:, 5:])
    assert torch.equal(model.value_out.weight, plain.value_out.weight)


def test_shapes(model, batch) -> None:
    assert model.cell_start(*batch).shape == (5, 16)
    assert model.tokens(batch[0].clamp(max=TOKENS - 1), batch[1]).shape == (5, 12, 16)
    genes, values, most = sorted_rows(*batch)
    for (x, attend), width in ((model.read(genes, values, most), most), (model.read(*batch), on_grid(most))):
        assert x.shape == (5, 1 + width, 16)
        assert attend.shape == (5, 1, 1, 1 + width)
        assert torch.equal(attend[:, 0, 0].sum(1), 1 + ((genes < TOKENS) & (values > 0)).sum(1))
    assert model.encode(*batch).shape == (5, 8)
    assert model(*batch).shape == (5, GENES)


def test_the_loss_is_the_multinomials(model, batch) -> None:
    logits = model(*batch)
    counts = torch.zeros(5, GENES)
    target_genes = torch.tensor([[3, 7, 99], [0, 1, 2], [5, 0, 0], [9, 10, 0], [1, 0, 0]])
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


def test_each_batch_has_offsets_and_a_change_of_the_vector(tiny) -> None:
    model = scfm.CellTransformer(tiny.model, GENES, batches=3)
    cells, batch = torch.randn(4, tiny.model.gene_embedding_dim), torch.tensor([0, 2, 1, 2])
    close(model.decode(cells, batch), model.decode(cells))  # none at the start
    with torch.no_grad():
        model.batch_offset.normal_()
        model.batch_change.normal_()
    for row, number in enumerate(batch):
        changed = cells[row] + cells[row] @ model.batch_change[number]
        by_hand = model.output_embedding @ changed + model.output_bias + model.batch_offset[number]
        close(model.decode(cells, batch)[row], by_hand)
    close(model.decode(cells), cells @ model.output_embedding.T + model.output_bias)
