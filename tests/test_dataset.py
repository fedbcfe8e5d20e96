import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.data.coins import heads, scramble
from scfm_lib.dataset import LET_GO, HalfCells, log_normalise
from scfm_lib.embed import token_batches
from scfm_lib.model import GRID, on_grid
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


def test_tokens_come_first_and_cells_with_as_many_are_together(store) -> None:
    assert store.n_tokens == 60 < len(store.symbols)
    batches = [HalfCells(store, np.arange(300), 32, seed=0)[step] for step in range(10)]
    for batch in batches:
        is_token = ((batch.genes < 60) & (batch.values > 0)).numpy()
        np.testing.assert_array_equal(batch.tokens, is_token.sum(1))
        np.testing.assert_array_equal(is_token, np.arange(is_token.shape[1]) < batch.tokens[:, None])
        assert batch.tokens.max() <= batch.most_tokens < batch.tokens.max() + GRID
        assert batch.most_tokens % GRID == 0
    whole = [store.tokens[batch.cells] for batch in batches]
    first, last = zip(*sorted((tokens.min(), tokens.max()) for tokens in whole), strict=True)
    assert all(last[i] <= first[i + 1] for i in range(9))


def test_a_random_share_of_the_tokens_is_read_and_every_gene_is_heard(store) -> None:
    whole, some = (HalfCells(store, np.arange(300), 32, seed=0, token_share=share) for share in (1.0, 0.25))
    read = []
    for step in range(20 * len(some)):
        all_of_them, batch = whole[step], some[step]
        assert torch.equal(batch.cells, all_of_them.cells)
        columns = on_grid(round(0.25 * store.tokens[batch.cells].mean()))
        assert batch.most_tokens == columns < all_of_them.most_tokens
        np.testing.assert_array_equal(batch.tokens, np.minimum(all_of_them.tokens, columns))
        for name in ("genes", "target_genes"):
            assert torch.equal(getattr(batch, name).sort(1).values, getattr(all_of_them, name).sort(1).values)
        assert batch.values.sum().item() == pytest.approx(all_of_them.values.sum().item())
        for row, values, tokens in zip(batch.genes.numpy(), batch.values.numpy(), batch.tokens, strict=True):
            has = np.isin(np.arange(60), row[values > 0])
            read.append(np.where(has, np.bincount(row[:tokens], minlength=60), np.nan))
    shown = np.nanmean(read, axis=0)  # of the halves that have a gene, the share where it is a token
    assert shown.shape == (60,)  # and no gene that is no token among them
    assert 0.25 < shown.min() < shown.max() < 0.75
    assert shown[:10].mean() == pytest.approx(shown[-10:].mean(), rel=0.2)  # not those that come first in the store


@pytest.mark.parametrize("coins", [1, 2, 5, 63, 64, 65, 1000, 20_000])
def test_coins_fall_heads_as_binomials_say(coins) -> None:
    found = np.array([heads(coins, scramble(number)) for number in range(20_000)], dtype=np.int64)
    assert (found.min() >= 0) & (found.max() <= coins)
    assert found.mean() == pytest.approx(coins / 2, abs=5 * (coins / 4 / len(found)) ** 0.5)
    assert found.var() == pytest.approx(coins / 4, rel=0.05)
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 5 / len(found) ** 0.5  # neighbours tell nothing


def bits(word: int, count: int) -> str:
    """The first random bits that follow from a number, lowest first: 64 of its own, then those of its scramble."""
    found = ""
    while len(found) < count:
        found, word = found + f"{word:064b}"[::-1], scramble(word)
    return found[:count]


def plain_halves(store, cells, epoch, seed=0) -> np.ndarray:
    """What `halves` makes, as one would write it: the molecules of all genes (2, cells, genes), half A's and B's."""
    both = np.zeros((2, len(cells), len(store.symbols)))
    seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    for row, counts in enumerate(store.matrix(cells).toarray().astype(int)):
        own = scramble((seed + scramble(int(cells[row]))) % 2**64)
        for gene in np.flatnonzero(counts):
            coins = bits(scramble((own + int(gene)) % 2**64), counts[gene])
            both[:, row, gene] = coins.count("1"), coins.count("0")
    return both


def test_the_compiled_halves_are_the_plain_ones(store) -> None:
    cells = np.array([3, 7, 250, 8])
    batch = HalfCells(store, None, 32, seed=0).halves(cells, epoch=2)
    read, predicted = np.zeros((2, 8, len(store.symbols)))
    counts = np.rint(np.expm1(batch.values.numpy()) * store.library_size[batch.cells][:, None] / 2 / 1e4)
    np.add.at(read, (np.arange(8)[:, None], batch.genes.numpy()), counts)
    np.add.at(predicted, (np.arange(8)[:, None], batch.target_genes.numpy()), batch.target_counts.numpy())
    half_a, half_b = plain_halves(store, cells, epoch=2)
    np.testing.assert_array_equal(read, np.concatenate([half_a, half_b]))
    np.testing.assert_array_equal(predicted, np.concatenate([half_b, half_a]))


def test_how_coins_fall_depends_on_cell_gene_epoch_and_seed_alone(store) -> None:
    data = HalfCells(store, np.arange(300), 32, seed=0)
    together, alone = data.halves(np.array([3, 7, 250]), epoch=2), data.halves(np.array([7]), epoch=2)
    length = int((alone.values[0] > 0).sum())
    assert torch.equal(together.genes[1, :length], alone.genes[0, :length])
    assert torch.equal(together.values[1, :length], alone.values[0, :length])
    some = [data.halves(np.array(cells), 2, most_tokens=GRID) for cells in ([3, 7, 250], [7])]
    assert torch.equal(some[0].genes[1, :length], some[1].genes[0, :length])  # also which tokens come first
    assert not torch.equal(some[1].genes[0, :length], alone.genes[0, :length])
    other_epoch, other_seed = data.halves(np.array([7]), 3), HalfCells(store, None, 32, 1).halves(np.array([7]), 2)
    assert not equal(alone, other_epoch)
    assert not equal(alone, other_seed)


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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_change_nothing_and_are_sent_little(store, method) -> None:
    batches = HalfCells(store, None, 32, seed=0, token_share=0.5)
    batches[0]  # which remembers the epoch's order
    assert len(pickle.dumps(batches)) < 1000
    settings = {"num_workers": 2, "multiprocessing_context": method}
    loader = torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(12), **settings)
    assert all(equal(batches[step], batch) for step, batch in enumerate(loader))


def test_every_worker_gives_pages_back(store, monkeypatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(type(store), "let_go", lambda _: given.append(1))
    odd = HalfCells(store, None, 32, seed=0)
    for step in range(1, 4 * LET_GO, 2):  # as the second of two workers
        odd[step]
    assert len(given) == 2


def test_the_molecules_of_a_step_are_known_before_it_is_made(store) -> None:
    batches = HalfCells(store, np.arange(300), 32, seed=0)
    assert [batches.molecules(step) for step in range(15)] == [float(batches[step].molecules) for step in range(15)]


def test_micro_batches_are_the_batch_cut_in_pieces(store) -> None:
    batch = HalfCells(store, np.arange(300), 50, seed=0)[2]
    parts = batch.split(4)
    assert len(parts) == 4
    assert torch.equal(torch.cat([part.cells for part in parts]), batch.cells)
    assert sum(part.molecules for part in parts) == batch.molecules
    np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), batch.tokens)
    assert all(part.most_tokens <= part.values.shape[1] for part in parts)
    assert len(batch.split(1000)) == len(batch.cells)


def test_values_are_scanpys_log1p_of_counts_per_ten_thousand(cells) -> None:
    import scanpy as sc

    ours = log_normalise(cells.X.toarray(), cells.X.toarray().sum(1))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    np.testing.assert_allclose(ours, cells.X.toarray(), rtol=1e-5)


def test_little_is_padding_on_real_cells(zheng, tmp_path) -> None:
    store = scfm.prepare([zheng], scfm.load_config("minimal"), tmp_path / "store")
    for share, most in ((1.0, 0.2), (0.5, 0.01)):  # a share leaves tokens over to fill a row with
        batches = HalfCells(store, np.arange(len(store)), 32, seed=0, token_share=share)
        found = [batches[step] for step in range(len(batches))]
        places = sum(len(batch.cells) * batch.most_tokens for batch in found)
        assert 1 - sum(batch.tokens.sum() for batch in found) / places < most


def test_epochs_have_their_own_order_and_only_training_cells(store) -> None:
    batches = HalfCells(store, None, cells_per_step=16, seed=0)
    batches.steps_per_window = 3  # several windows: inside one, cells are sorted by their tokens
    epochs = [[batches.cells_of(epoch * len(batches) + step) for step in range(len(batches))] for epoch in range(3)]
    training = np.flatnonzero(~store.held_out)
    assert len(training) < len(store)
    for steps in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(steps)), training)
    together = [{frozenset(cells.tolist()) for cells in steps} for steps in epochs]
    assert not together[0] & together[1]  # no step's cells come together again
    assert not together[1] & together[2]
