"""What a model starts from: another model, and a PCA that does not tell batches apart."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scfm_lib as scfm
from scfm_lib.dataset import log_normalise
from scfm_lib.scores.mixing import lisi
from scfm_lib.start import new_model, pca_start, start_from


def held_out_losses(run: scfm.Run) -> list[float]:
    return [row["validation_loss"] for row in run.history if "validation_loss" in row]


def test_a_trained_model_is_a_better_start_than_none(tiny, trained, tmp_path) -> None:
    new = scfm.simulate(200, 120, n_types=3, n_batches=2, depth=300, seed=1)  # the same types, other cells
    new.obs_names = [f"new{number}" for number in range(200)]
    new = new[:, 10:].copy()
    scratch = scfm.train(tiny, new, run_dir=tmp_path / "scratch", verbose=False)
    adapted = scfm.train(tiny, new, init=trained.dir, run_dir=tmp_path / "adapted", verbose=False)
    assert scratch.step == adapted.step
    assert held_out_losses(adapted)[0] < min(held_out_losses(scratch))


def test_known_genes_keep_their_weights_and_unknown_ones_start_near_those_like_them(tiny, cells, tmp_path) -> None:
    old = cells[:, :100].copy()
    run = scfm.train(tiny, old, run_dir=tmp_path / "old", verbose=False)
    twin = cells.copy()
    twin.var_names = [*twin.var_names[:100], *(f"TWIN{number}" for number in range(20))]
    twin.X = sp.hstack([cells.X[:, :100], cells.X[:, :20]], format="csr")  # an unknown gene is counted as a known one
    store = scfm.prepare(twin, tiny, tmp_path / "store")
    shape = tiny.model.model_copy(update={"n_genes": store.n_tokens})
    model = new_model(shape, 0, pca_start(store, np.flatnonzero(~store.held_out), 8, 0))
    model.symbols, model.ensembl = store.symbols, store.ensembl
    line = start_from(model, run.model)
    place = {gene: number for number, gene in enumerate(run.model.symbols)}
    here = {gene: number for number, gene in enumerate(model.symbols)}
    known = [gene for gene in place if gene in here]
    assert f"{len(known)} of {len(here)} genes matched" in line
    rows = torch.tensor([here[gene] for gene in known]), torch.tensor([place[gene] for gene in known])
    assert torch.equal(model.bag_embedding[rows[0]], run.model.bag_embedding[rows[1]])
    assert torch.equal(model.output_bias[rows[0]], run.model.output_bias[rows[1]])
    assert torch.equal(model.blocks[0].qkv.weight, run.model.blocks[0].qkv.weight)
    twins = [(here[f"TWIN{n}"], here[f"GENE{n}"]) for n in range(20) if f"TWIN{n}" in here and f"GENE{n}" in here]
    assert len(twins) > 10
    a, b = (model.bag_embedding[list(numbers)] for numbers in zip(*twins, strict=True))
    alike = torch.nn.functional.cosine_similarity(a, b).median()
    assert alike > 0.8


def test_a_model_that_does_not_fit_is_refused(tiny, cells, trained, tmp_path) -> None:
    tiny.model.hidden_dim = 32
    with pytest.raises(scfm.InputError, match=r"hidden_dim = 32, the model of --init has 16; .*--set model.hidden_dim"):
        scfm.train(tiny, cells, init=trained.dir, run_dir=tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()
    cells.var_names = [f"OTHER{number}" for number in range(120)]
    tiny.model.hidden_dim = 16
    with pytest.raises(scfm.InputError, match="no gene matched"):
        scfm.train(tiny, cells, init=trained.dir, run_dir=tmp_path / "run", verbose=False)
    (tmp_path / "not_a_model.pt").write_text("hello")
    with pytest.raises(scfm.InputError, match="it is no whole archive"):
        scfm.train(tiny, cells, init=tmp_path / "not_a_model.pt", run_dir=tmp_path / "run2", verbose=False)


def test_with_a_batch_key_the_start_is_blind_to_batches(tiny, cells, tmp_path) -> None:
    tiny.data.batch_key = "batch"
    store = scfm.prepare(cells, tiny, tmp_path / "store")
    learned = np.flatnonzero(~store.held_out)
    start = pca_start(store, learned, 8, 0)
    model = new_model(tiny.model.model_copy(update={"n_genes": store.n_tokens}), 0, start)
    values = log_normalise(store.matrix(learned), store.library_size[learned]).toarray()
    scores = values @ model.bag_embedding.detach().numpy()
    means = [scores[store.batch[learned] == number].mean(0) for number in range(2)]
    assert np.abs(means[0] - means[1]).max() < 1e-3 * scores.std(0).max()
    share = np.exp((start["log_share"] + start["batch_offset"]).numpy()).sum(1)
    np.testing.assert_allclose(share, 1, rtol=1e-4)  # each batch's offsets make its own shares


def test_a_batch_key_mixes_batches_and_keeps_types(tiny, tmp_path) -> None:
    data = scfm.simulate(600, 300, n_types=3, n_batches=2, batch_effect=0.3, depth=600, seed=3)
    data.obs_names = [f"c{number}" for number in range(600)]
    tiny.training.num_epochs = 8
    mixed = {}
    for key in (None, "batch"):
        tiny.data.batch_key = key
        run = scfm.train(tiny, data, run_dir=tmp_path / str(key), verbose=False)
        mixed[key] = np.median(lisi(scfm.embed(run.model, data), data.obs["batch"].astype(str).to_numpy())) - 1
    assert mixed["batch"] > mixed[None] + 0.2, mixed
