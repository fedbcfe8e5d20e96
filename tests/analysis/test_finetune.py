"""A head learns from the labels it is given, leaves the model as it is, and repeats itself."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import scfm_lib as scfm
from scfm_lib.analysis.finetune import few_labels, fine_tune, predict


@pytest.fixture(scope="module")
def fresh():
    """Cells like those of `trained`, but other ones: the same seed makes the same types."""
    return scfm.simulate(600, 120, n_types=3, n_batches=2, depth=300, seed=1)


def test_few_labels_are_few_and_from_the_allowed() -> None:
    labels = np.array(["a"] * 50 + ["b"] * 50 + ["c"] * 3)
    allowed = np.random.default_rng(0).random(103) < 0.7
    allowed[-3:] = [True, True, False]
    chosen = few_labels(labels, allowed, 5, seed=0)
    assert allowed[chosen].all()
    assert {label: int((labels[chosen] == label).sum()) for label in "abc"} == {"a": 5, "b": 5, "c": 2}
    assert len(set(chosen)) == len(chosen)
    np.testing.assert_array_equal(chosen, few_labels(labels, allowed, 5, seed=0))
    assert not np.array_equal(chosen, few_labels(labels, allowed, 5, seed=1))


def test_it_learns_and_the_model_stays_as_it_is(trained, fresh) -> None:
    labels = fresh.obs["cell_type"].astype(str).to_numpy()
    unseen = np.arange(600) >= 400
    chosen = few_labels(labels, ~unseen, 10, seed=0)
    before, coins = copy.deepcopy(trained.model.state_dict()), torch.get_rng_state()
    head = fine_tune(trained.model, fresh[chosen].copy(), labels[chosen])
    assert all(torch.equal(before[key], value) for key, value in trained.model.state_dict().items())
    assert torch.equal(coins, torch.get_rng_state())
    assert accuracy_score(labels[unseen], predict(head, fresh[unseen].copy())) > 0.8
    again = fine_tune(trained.model, fresh[chosen].copy(), labels[chosen])
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))


def test_no_epochs_leave_the_encoder_frozen(trained, fresh) -> None:
    labels = fresh.obs["cell_type"].astype(str).to_numpy()
    part = fresh[:40].copy()
    frozen = fine_tune(trained.model, part, labels[:40], epochs=0)
    assert torch.equal(frozen.encoder.gene_embedding, trained.model.gene_embedding)
    moved = fine_tune(trained.model, part, labels[:40], epochs=1)
    assert not torch.equal(moved.encoder.gene_embedding, trained.model.gene_embedding)


def test_the_order_of_cells_is_kept(trained, fresh) -> None:
    labels = fresh.obs["cell_type"].astype(str).to_numpy()
    head = fine_tune(trained.model, fresh[:60].copy(), labels[:60], epochs=0)
    guess = predict(head, fresh[60:200].copy())
    order = np.random.default_rng(0).permutation(140)
    np.testing.assert_array_equal(predict(head, fresh[60:200][order].copy()), guess[order])
    assert accuracy_score(labels[60:200], guess) > 0.8


def test_labels_that_cannot_be_learned_are_refused(trained, fresh) -> None:
    with pytest.raises(scfm.InputError, match="give a label for each"):
        fine_tune(trained.model, fresh[:10].copy(), ["a", "b"])
    with pytest.raises(scfm.InputError, match="give a label for each"):
        fine_tune(trained.model, fresh[:10].copy(), ["a"] * 10)
