import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.dataset import HalfCells, log_normalise
from scfm_lib.embed import token_batches
from scfm_lib.start import new_model, pca_start


@pytest.fixture
def store(cells, tiny, tmp_path):
    return scfm.prepare([cells], tiny, tmp_path / "store")


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_every_cell_is_used_once_an_epoch_and_its_halves_add_up_to_it(store) -> None:
    batches = HalfCells(store, np.arange(50, 300), 32, seed=0)
    batches.steps_per_window = 3  # several windows also on a small data set
    read, predicted = np.zeros((2, 300, len(store.symbols)))
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


def test_tokens_come_first_and_halves_with_as_many_are_together(store) -> None:
    assert store.n_tokens == 60 < len(store.symbols)
    batches = [HalfCells(store, np.arange(300), 32, seed=0)[step] for step in range(10)]
    for batch in batches:
        is_token = ((batch.genes < 60) & (batch.values > 0)).numpy()
        np.testing.assert_array_equal(batch.tokens, is_token.sum(1))
        np.testing.assert_array_equal(is_token, np.arange(is_token.shape[1]) < batch.tokens[:, None])
        assert batch.most_tokens == batch.tokens.max()
    first, last = zip(*sorted((batch.tokens.min(), batch.tokens.max()) for batch in batches), strict=True)
    assert all(last[i] <= first[i + 1] for i in range(9))


def test_the_start_is_the_pca_of_the_training_cells(store) -> None:
    from sklearn.decomposition import PCA

    cells = np.flatnonzero(~store.held_out)
    start = pca_start(store, cells, 8, seed=0)
    counts = store.matrix(cells).toarray()
    values = log_normalise(counts, store.library_size[cells])
    pca = PCA(8, svd_solver="full").fit(values)
    components = start["components"].numpy()
    assert components.shape == (len(store.symbols), 8)
    np.testing.assert_allclose(components.T @ components, np.eye(8), atol=1e-5)
    same_way = np.sign((components.T * pca.components_).sum(1))
    np.testing.assert_allclose(components.T * same_way[:, None], pca.components_, atol=1e-3)
    np.testing.assert_allclose(start["spread"], np.sqrt(pca.explained_variance_), rtol=1e-4)
    np.testing.assert_allclose(start["centre"], values.mean(0) @ components, rtol=1e-3, atol=1e-3)
    share = (counts.sum(0) + 1) / (counts.sum(0) + 1).sum()
    np.testing.assert_allclose(start["log_share"], np.log(share), rtol=1e-5)


def test_the_bag_of_a_new_model_is_the_pcas_scores_over_the_first_spread(store, tiny) -> None:
    from sklearn.decomposition import PCA

    cells = np.flatnonzero(~store.held_out)
    model = new_model(tiny.model, 0, pca_start(store, cells, 8, seed=0))
    values = log_normalise(store.matrix(cells), store.library_size[cells]).toarray()
    scores = PCA(8, svd_solver="arpack", random_state=0).fit_transform(values)
    scores = torch.from_numpy(scores / scores[:, 0].std(ddof=1))
    everywhere = torch.arange(values.shape[1]).expand(len(cells), -1)
    with torch.no_grad():
        model.cell_token.zero_()
        model.bag_to_cell.weight.copy_(torch.eye(16, 8))  # what the bag says, as it is
        starts = model.cell_start(everywhere, torch.from_numpy(values))
        batch = next(token_batches(named(model, store), as_adata(store, cells), batch_size=len(cells)))
        by_genes = torch.empty_like(starts)
        by_genes[batch[0]] = model.cell_start(*batch[1:])
    torch.testing.assert_close(starts[:, :8], scores.float(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(by_genes, starts, atol=1e-4, rtol=1e-4)


def named(model, store):
    model.symbols, model.ensembl = store.symbols, store.ensembl
    return model


def as_adata(store, cells) -> ad.AnnData:
    """These cells with the genes backwards."""
    return ad.AnnData(store.matrix(cells)[:, ::-1], var=pd.DataFrame(index=store.symbols[::-1]))


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
    np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), batch.tokens)
    assert all(part.most_tokens <= part.values.shape[1] for part in parts)
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
    tokens = [batches[step].tokens for step in range(len(batches))]
    places = sum(len(rows) * rows.max() for rows in tokens)
    assert 1 - sum(rows.sum() for rows in tokens) / places < 0.06
