"""Muon is torch's without its bfloat16, and each parameter has one optimizer."""

import pytest
import torch

import scfm_lib as scfm
from scfm_lib.dataset import HalfCells
from scfm_lib.optimizer import BAG_RATE, MUON_RATE, Muon, new_optimizers, orthogonalise
from scfm_lib.start import new_model
from scfm_lib.train import new_state, training_step

SHAPES = [(64, 16), (16, 64), (32, 32), (384, 128), (1, 8), (8, 1)]
CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_orthogonalised_singular_values_are_near_one_and_the_directions_stay(shape, scale) -> None:
    matrix = random(*shape)
    even = orthogonalise(scale * matrix)
    assert even.shape == matrix.shape
    values = torch.linalg.svdvals(even)
    assert 0.6 < values.min() <= values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ even @ vh.T  # diagonal: the iteration acts on singular values alone
    torch.testing.assert_close(inside, inside.diagonal().diag(), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.stack([even, even]), orthogonalise(torch.stack([matrix, 3 * matrix])))


def test_a_weak_direction_is_lifted_and_nothing_is_made_of_nothing() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-2, 1e-6, 0.0]))
    values = orthogonalise(matrix).diagonal()
    assert (values[:2] > 0.6).all()
    assert values[2] == pytest.approx(1e-6 * 3.4445**5, rel=0.01)  # as far as five rounds reach
    assert values[3] == 0
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def steps(optimizer: type, shape: tuple[int, int], n: int = 5, **options) -> torch.Tensor:
    weight = torch.nn.Parameter(random(*shape))
    stepping = optimizer([{"params": [weight], "weight_decay": 0.1}], lr=0.02, **options)
    for step in range(n):
        weight.grad = random(*shape, seed=step + 1)
        stepping.step()
    return weight.detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_is_torchs(shape, monkeypatch) -> None:
    pytest.importorskip("torch", minversion="2.9", reason="torch has Muon from 2.9 on")
    ours, theirs = steps(Muon, shape), steps(torch.optim.Muon, shape)
    moved = (theirs - random(*shape)).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # it rounds to 8 bits in each of five rounds
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    torch.testing.assert_close(ours, steps(torch.optim.Muon, shape), atol=1e-5, rtol=1e-4)  # without that, the same


@pytest.fixture
def store(cells, tiny, tmp_path):
    return scfm.prepare([cells], tiny, tmp_path / "store")


def test_every_parameter_has_one_optimizer(tiny) -> None:
    model = new_model(tiny.model, 0, genes=100)
    muon, adamw = new_optimizers(model, tiny.training, CPU)
    names = {weight: name for name, weight in model.named_parameters()}
    groups = [
        ({names[weight] for weight in group["params"]}, group["lr_scale"], group["weight_decay"])
        for optimizer in (muon, adamw)
        for group in optimizer.param_groups
    ]
    assert sum(len(members) for members, _, _ in groups) == len(names)
    assert set().union(*(members for members, _, _ in groups)) == set(names.values())
    (inside, rate, decay), (tables, one, same_decay), (vectors, also_one, none), (bag, slow, _) = groups
    assert inside == {n for n in names.values() if n.startswith("blocks") and n.endswith("weight") and "norm" not in n}
    assert (rate, one, also_one, slow) == (MUON_RATE, 1, 1, BAG_RATE)
    assert bag == {"bag_embedding"}
    assert {"gene_embedding", "output_embedding", "bag_to_cell.weight", "value_in.weight"} < tables
    assert {"cell_token", "output_bias", "norm.weight"} < vectors
    assert (decay, same_decay, none) == (tiny.training.weight_decay, tiny.training.weight_decay, 0)


def test_a_step_takes_each_group_at_its_own_rate(store, tiny) -> None:
    batch = HalfCells(store, torch.arange(len(store)).numpy(), 32, 0)[0]
    tiny.training.weight_decay = 0.0
    state = new_state(new_model(tiny.model, 0, genes=len(store.symbols)), tiny.training, CPU)
    before = {name: weight.detach().clone() for name, weight in state.model.named_parameters()}
    training_step(state, [batch], 0.001)
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.001, 0.001, 0.0001])
    after = dict(state.model.named_parameters())
    longest = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert longest["bag_embedding"] == pytest.approx(1e-4, rel=0.05)  # AdamW's first step is its rate
    assert longest["gene_embedding"] == pytest.approx(1e-3, rel=0.05)
    for name in ("blocks.0.qkv.weight", "blocks.0.ff_out.weight"):
        step = after[name] - before[name]
        rows, columns = step.shape
        strongest = torch.linalg.svdvals(step)[0].item() / max(1, rows / columns) ** 0.5
        assert 0.6 * 0.01 < strongest < 1.3 * 0.01
