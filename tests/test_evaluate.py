import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.baselines import pca_embedding, scvi_embedding
from scfm_lib.data.read import held_out
from scfm_lib.evaluate import batch_mixing, held_out_scores, neighbour_graph, scores
from scfm_lib.reporting.report import table_text, verdict


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three tight, far-apart groups in 5 dimensions."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 60)
    return (rng.normal(size=(3, 5)) * 20)[np.repeat([0, 1, 2], 60)] + rng.normal(size=(180, 5)), labels


def test_scores_are_one_for_groups_and_chance_for_noise(blobs) -> None:
    vectors, labels = blobs
    good = scores(vectors, labels)
    assert all(good[key] == 1 for key in ("knn_f1", "knn_accuracy", "logistic_f1", "nmi", "ari"))
    assert good["silhouette"] > 0.9
    noise = scores(np.random.default_rng(1).normal(size=(180, 5)), labels)
    assert all(noise[key] < 0.45 for key in ("knn_f1", "knn_accuracy", "logistic_f1"))
    assert max(noise["nmi"], noise["ari"]) < 0.1
    assert abs(noise["silhouette"] - 0.5) < 0.05


def test_held_out_probes_learn_from_the_others_only(blobs) -> None:
    vectors, labels = blobs
    unseen = np.random.default_rng(0).random(180) < 0.3
    assert held_out_scores(vectors, labels, unseen)["knn_f1"] == 1
    lied = np.where(unseen, labels, "a")  # with one label to learn, nothing else can be guessed
    lied[~unseen & (labels == "b")] = "b"
    assert held_out_scores(vectors, lied, unseen)["knn_f1"] < 0.75


def test_batch_mixing_tells_apart_from_mixed(blobs) -> None:
    vectors, labels = blobs
    assert batch_mixing(vectors, labels) == 0
    assert batch_mixing(vectors, np.random.default_rng(0).permutation(labels)) > 0.9


def test_pca_is_scanpys(cells, tiny) -> None:
    import scanpy as sc

    tiny.model.n_genes = 120
    tiny.data.preprocessing.min_cells = 0
    cells.layers["counts"] = cells.X.copy()
    ours = pca_embedding(cells, np.ones(300, bool), tiny)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=50)
    np.testing.assert_allclose(np.abs(ours[:, :5]), np.abs(cells.obsm["X_pca"][:, :5]), rtol=1e-2, atol=1e-2)


def test_a_cells_vector_depends_on_that_cell_alone(trained) -> None:
    cells = scfm.simulate(200, 120, n_types=3, depth=300, seed=5)
    vectors = scfm.embed(trained.model, cells)
    assert vectors.shape == (200, 16)
    assert vectors.dtype == np.float32
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(scfm.embed(trained.model, cells[order].copy()), vectors[order], atol=1e-5)
    np.testing.assert_allclose(scfm.embed(trained.model, cells, batch_size=7), vectors, atol=1e-5)
    np.testing.assert_allclose(scfm.embed(trained.model, cells[50:51].copy()), vectors[50:51], atol=1e-5)
    shuffled = cells[:, np.random.default_rng(1).permutation(120)].copy()
    np.testing.assert_allclose(scfm.embed(trained.model, shuffled), vectors, atol=1e-5)


def test_embedding_needs_the_models_genes(trained, cells) -> None:
    assert scfm.embed(trained.model, cells[:, :80].copy()).shape == (300, 16)  # some genes missing: said, not refused
    cells.var_names = [f"OTHER{g}" for g in range(120)]
    with pytest.raises(scfm.InputError, match=r"no gene matched .* check the species"):
        scfm.embed(trained.model, cells)


def test_loading_gives_the_trained_model(trained) -> None:
    cells = scfm.simulate(50, 120, n_types=3, depth=300, seed=5)
    expected = scfm.embed(trained.model, cells)
    np.testing.assert_array_equal(scfm.embed(scfm.load_model(trained.checkpoint), cells), expected)
    np.testing.assert_array_equal(scfm.embed(scfm.load_model(trained.dir), cells), expected)


def test_evaluation_stands_beside_the_baselines(trained) -> None:
    result = scfm.evaluate(trained.checkpoint, trained.dir.parent / "cells.h5ad", batch_key="batch", scvi=False)
    table = result["embeddings"]
    assert list(table) == ["pca", "scvi", "untrained", "start", "trained"]
    assert table["scvi"] is None
    keys = {"knn_f1", "knn_accuracy", "logistic_f1", "nmi", "ari", "silhouette", "batch_mixing"}
    assert all(row.keys() == keys for row in table.values() if row)
    assert all(0 <= value <= 1 for row in table.values() if row for value in row.values())
    assert table["trained"]["knn_f1"] > table["untrained"]["knn_f1"]
    unseen = held_out(result["labels"].index, 0.2, 0)
    assert result["cells"] == {"all": 600, "judged": 600, "held_out": int(unseen.sum())}
    assert result["held_out"]["trained"]["knn_f1"] > 0.5
    assert "-" in table_text(table).splitlines()[2]
    assert "above PCA in" in verdict(table)


def test_rare_and_missing_labels_are_embedded_but_not_judged(trained) -> None:
    cells = scfm.simulate(200, 120, n_types=3, depth=300, seed=5)
    labels = cells.obs["cell_type"].astype(object)
    labels.iloc[:3] = "rare"
    labels.iloc[3:10] = None
    cells.obs["cell_type"] = labels
    said = []
    result = scfm.evaluate(trained.checkpoint, cells, scvi=False, say=said.append)
    assert result["cells"]["judged"] == 190
    assert result["vectors"]["trained"].shape == (200, 16)
    assert any("10 cells have no label" in line for line in said)
    cells.obs["cell_type"] = "all the same"
    with pytest.raises(scfm.InputError, match="fewer than two labels"):
        scfm.evaluate(trained.checkpoint, cells)
    with pytest.raises(scfm.InputError, match="no column 'nothing'; choose --label-key from: cell_type, batch"):
        scfm.evaluate(trained.checkpoint, cells, label_key="nothing")


def test_neighbours_work_above_8192_cells() -> None:
    """scanpy 1.11.5 with pynndescent 0.7.0 and scipy 1.17.1 does not; the pinned versions do."""
    graph = neighbour_graph(np.random.default_rng(0).normal(size=(8300, 4)).astype("f4"))
    assert graph.obsp["connectivities"].shape == (8300, 8300)
    assert (np.diff(graph.obsp["connectivities"].indptr) >= 14).all()


@pytest.mark.slow
def test_scvi_is_fitted_where_it_is_installed(cells, tiny) -> None:
    pytest.importorskip("scvi", reason="scvi-tools is not installed: pip install '.[benchmark]'")
    cells.layers["counts"] = cells.X.copy()
    fit = ~held_out(cells.obs_names, 0.2, 0)
    vectors = scvi_embedding(cells, fit, tiny, epochs=15)
    assert vectors.shape == (300, 30)
    assert scores(vectors, cells.obs["cell_type"].to_numpy())["knn_f1"] > 0.6


def test_simulated_cells_are_what_they_say() -> None:
    cells = scfm.simulate(2000, 300, n_types=4, n_batches=2, depth=1000, seed=0)
    assert isinstance(cells, ad.AnnData)
    assert sp.issparse(cells.X)
    assert np.median(np.asarray(cells.X.sum(1))) == pytest.approx(1000, rel=0.05)
    assert cells.obs["cell_type"].nunique() == 4
    assert cells.obs["batch"].nunique() == 2
    again = scfm.simulate(2000, 300, n_types=4, n_batches=2, depth=1000, seed=0)
    assert (cells.X != again.X).nnz == 0


def test_too_few_labelled_cells_are_refused_before_anything_is_computed(trained, cells) -> None:
    few = cells[:14].copy()
    few.obs["cell_type"] = ["a", "b"] * 7
    with pytest.raises(scfm.InputError, match=r"14 labelled cells .* at least 20"):
        scfm.evaluate(trained.checkpoint, few, scvi=False)


def test_one_batch_has_nothing_to_mix(trained, cells) -> None:
    cells.obs["site"] = "here"
    with pytest.raises(scfm.InputError, match="one batch"):
        scfm.evaluate(trained.checkpoint, cells, batch_key="site", scvi=False)
