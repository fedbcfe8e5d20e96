import numpy as np
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.dataset import HalfCells, log_normalise


@pytest.fixture
def store(cells, tiny, tmp_path):
    return scfm.prepare([cells], tiny, tmp_path / "store")


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_every_cell_is_used_once_an_epoch_and_its_halves_add_up_to_it(store) -> None:
    batches = HalfCells(store, np.arange(50, 300), 32, seed=0)
    batches.steps_per_window = 3  # several windows also on a small data set
    read = np.zeros((300, 60))
    predicted = np.zeros((300, 60))
    halves = np.zeros(300)
    for step in range(len(batches)):
        batch = batches[step]
        counts = np.rint(np.expm1(batch.values.numpy()) * store.library_size[batch.cells][:, None] / 2 / 1e4)
        np.add.at(read, (batch.cells[:, None].numpy(), batch.genes.numpy()), counts)
        np.add.at(predicted, (batch.cells[:, None].numpy(), batch.target_genes.numpy()), batch.target_counts.numpy())
        np.add.at(halves, batch.cells.numpy(), 1)
    whole = store.matrix(np.arange(300)).toarray()
    np.testing.assert_array_equal(halves, [0] * 50 + [2] * 250)
    np.testing.assert_array_equal(read[50:], whole[50:])
    np.testing.assert_array_equal(predicted[50:], whole[50:])


def test_what_is_read_and_what_is_predicted_are_the_two_halves_of_one_cell(store) -> None:
    batch = HalfCells(store, np.arange(300), 64, seed=0)[0]
    whole = store.matrix(batch.cells.numpy()).toarray()
    read = np.zeros_like(whole)
    counts = np.rint(np.expm1(batch.values.numpy()) * store.library_size[batch.cells][:, None] / 2 / 1e4)
    np.add.at(read, (np.arange(len(whole))[:, None], batch.genes.numpy()), counts)
    target = np.zeros_like(whole)
    np.add.at(target, (np.arange(len(whole))[:, None], batch.target_genes.numpy()), batch.target_counts.numpy())
    np.testing.assert_array_equal(read + target, whole)
    assert 0.45 < read.sum() / whole.sum() < 0.55
    assert batch.molecules == target.sum()


def test_a_batch_is_the_same_whoever_asks_and_differs_between_epochs_and_seeds(store) -> None:
    first, second = (HalfCells(store, np.arange(300), 32, seed=0) for _ in range(2))
    backwards = [second[step] for step in reversed(range(25))][::-1]
    assert all(equal(first[step], backwards[step]) for step in range(25))
    steps = len(first)
    assert not equal(first[0], first[steps])
    assert not equal(first[0], HalfCells(store, np.arange(300), 32, seed=1)[0])


def test_workers_change_nothing(store) -> None:
    batches = HalfCells(store, np.arange(300), 32, seed=0)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(12), num_workers=2)
    assert all(equal(batches[step], batch) for step, batch in enumerate(loader))


def test_micro_batches_are_the_batch_cut_in_pieces(store) -> None:
    batch = HalfCells(store, np.arange(300), 50, seed=0)[2]
    parts = batch.split(4)
    assert len(parts) == 4
    assert torch.equal(torch.cat([part.cells for part in parts]), batch.cells)
    assert sum(part.molecules for part in parts) == batch.molecules
    assert all(((part.values > 0).sum(1).max() == part.values.shape[1]) for part in parts)


def test_values_are_scanpys_log1p_of_counts_per_ten_thousand(cells) -> None:
    import scanpy as sc

    ours = log_normalise(cells.X.toarray(), cells.X.toarray().sum(1))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    np.testing.assert_allclose(ours, cells.X.toarray(), rtol=1e-5)


def test_little_is_padding_on_real_cells(zheng, tmp_path) -> None:
    store = scfm.prepare([zheng], scfm.load_config("minimal"), tmp_path / "store")
    batches = HalfCells(store, np.arange(len(store)), 32, seed=0)
    places = sum(batches[step].values.numel() for step in range(len(batches)))
    filled = sum(int((batches[step].values > 0).sum()) for step in range(len(batches)))
    assert 1 - filled / places < 0.06
