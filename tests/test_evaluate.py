import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.baselines import BASELINES, baselines_for
from scfm_lib.config import load_config
from scfm_lib.data.read import held_out
from scfm_lib.reporting.report import result_text, table_text, verdict, write_report
from scfm_lib.scores import scvi
from scfm_lib.scores.embedding import scores


def test_pca_is_scanpys(cells, tiny) -> None:
    import scanpy as sc

    tiny.data.preprocessing.min_cells = 0
    cells.layers["counts"] = cells.X.copy()
    ours = BASELINES["pca"](cells, np.ones(300, bool), tiny)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=50)
    np.testing.assert_allclose(np.abs(ours[:, :5]), np.abs(cells.obsm["X_pca"][:, :5]), rtol=1e-2, atol=1e-2)


def test_a_cells_vector_depends_on_that_cell_alone(trained) -> None:
    cells = scfm.simulate(200, 120, n_types=3, depth=300, seed=5)
    vectors = scfm.embed(trained.model, cells)
    assert vectors.shape == (200, 8)
    assert vectors.dtype == np.float32
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(scfm.embed(trained.model, cells[order].copy()), vectors[order], atol=1e-5)
    np.testing.assert_allclose(scfm.embed(trained.model, cells, batch_size=7), vectors, atol=1e-5)
    np.testing.assert_allclose(scfm.embed(trained.model, cells[50:51].copy()), vectors[50:51], atol=1e-5)
    few = cells[:1].copy()
    there = few[:, few.X.toarray()[0] > 0].copy()  # without the columns of genes that it does not express
    assert there.n_vars < 120
    np.testing.assert_allclose(scfm.embed(trained.model, there), vectors[:1], atol=1e-5)
    shuffled = cells[:, np.random.default_rng(1).permutation(120)].copy()
    np.testing.assert_allclose(scfm.embed(trained.model, shuffled), vectors, atol=1e-5)


def test_embedding_needs_the_models_genes(trained, cells) -> None:
    assert scfm.embed(trained.model, cells[:, :80].copy()).shape == (300, 8)  # some genes missing: said, not refused
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
    assert list(table) == [*BASELINES, "untrained", "start", "trained"]
    not_run = {"pca_1000", "pca_3000", "scvi", "scvi_3000", "scvi_all"}  # 120 genes, and no scVI
    assert {name for name, row in table.items() if row is None} == not_run
    keys = {"knn_f1", "knn_cosine_f1", "knn_accuracy", "logistic_f1", "nmi", "ari", "kmeans_nmi", "kmeans_ari"}
    assert all(row.keys() == keys | {"silhouette", "ilisi"} for row in table.values() if row)
    assert {score for score, value in table["raw"].items() if value is not None} == {"logistic_f1"}
    for name, row in table.items():
        for score, value in (row or {}).items():
            if value is not None:
                low, high = result["ranges"][name][score]
                assert -0.1 <= low <= value <= high <= 1, (name, score)
    low, high = result["held_out_ranges"]["trained"]["knn_f1"]
    assert low <= result["held_out"]["trained"]["knn_f1"] <= high
    assert table["trained"]["knn_f1"] > table["untrained"]["knn_f1"]
    unseen = held_out(result["labels"].index, 0.2, 0)
    held = int(unseen.sum())
    assert result["cells"] == {"all": 600, "judged": 600, "held_out": held, "seen": 600 - held}
    assert result["held_out"]["trained"]["knn_f1"] > 0.5
    assert "-" in table_text(table).splitlines()[2]
    said = verdict(table)
    assert said.startswith("The trained model is above the strongest baseline in ")
    assert "silhouette" not in said
    assert "PCA, all genes: " in said
    assert "above its own start in" in said


def test_rare_and_missing_labels_are_embedded_but_not_judged(trained) -> None:
    cells = scfm.simulate(200, 120, n_types=3, depth=300, seed=5)
    labels = cells.obs["cell_type"].astype(object)
    labels.iloc[:3] = "rare"
    labels.iloc[3:10] = None
    cells.obs["cell_type"] = labels
    said = []
    result = scfm.evaluate(trained.checkpoint, cells, scvi=False, say=said.append)
    assert result["cells"]["judged"] == 190
    assert result["vectors"]["trained"].shape == (200, 8)
    assert any("10 cells have no label" in line for line in said)
    cells.obs["cell_type"] = "all the same"
    with pytest.raises(scfm.InputError, match="fewer than two labels"):
        scfm.evaluate(trained.checkpoint, cells)
    with pytest.raises(scfm.InputError, match="no column 'nothing'; choose --label-key from: cell_type, batch"):
        scfm.evaluate(trained.checkpoint, cells, label_key="nothing")


@pytest.mark.slow
def test_scvi_is_fitted_where_it_is_installed(cells, tiny, monkeypatch) -> None:
    pytest.importorskip("scvi", reason="scvi-tools is not installed: pip install '.[benchmark]'")
    cells.layers["counts"] = cells.X.copy()
    fit = ~held_out(cells.obs_names, 0.2, 0)
    monkeypatch.setattr(scvi, "EPOCHS", 15)
    batches = cells.obs["batch"].astype(str).to_numpy()
    vectors = BASELINES["scvi"](cells, fit, tiny, batches)
    assert vectors.shape == (300, 30)
    assert scores(vectors, cells.obs["cell_type"].to_numpy()).values["knn_f1"] > 0.6
    alone = BASELINES["scvi"](cells, batches == batches[0], tiny, batches)  # the other batch was never seen
    assert np.isfinite(alone).all()


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


@pytest.fixture
def cells_with_vectors(cells, trained) -> ad.AnnData:
    cells.layers["counts"] = cells.X.copy()
    cells.obsm["X_random"] = np.random.default_rng(0).normal(size=(300, 10))
    cells.obsm["X_pca"] = BASELINES["pca"](cells, np.ones(300, bool), trained.config)
    cells.obsm["X_scfm"] = scfm.embed(trained.model, cells)
    return cells


def test_judge_orders_random_pca_and_ours(cells_with_vectors, tmp_path) -> None:
    keys = ["X_random", "X_pca", "X_scfm"]
    result = scfm.judge(cells_with_vectors, keys, batch_key="batch", split_key="batch", scvi=False)
    table = result["embeddings"]
    assert list(table) == [*BASELINES, *keys]
    assert table["X_pca"] == table["pca"] | {"leave_out_accuracy": table["X_pca"]["leave_out_accuracy"]}
    for score in ("knn_f1", "knn_cosine_f1", "logistic_f1", "nmi", "kmeans_nmi", "leave_out_accuracy"):
        assert table["X_random"][score] < min(table["X_pca"][score], table["X_scfm"][score]), score
    assert table["X_random"]["knn_f1"] < 0.5
    assert table["raw"]["leave_out_accuracy"] is None
    assert "held_out" not in result
    assert "X_random is above the strongest baseline in 0 of 9 scores" in result_text(result)
    report = write_report(result, folder=tmp_path / "report")
    assert {path.name for path in report.parent.iterdir()} >= {
        "umap.png", "scores.png", "confusion.png", "scores.json",
    }  # fmt: skip
    with pytest.raises(scfm.InputError, match=r"report exists .* --out"):
        write_report(result, folder=tmp_path / "report")


def test_a_group_is_left_out_for_every_method(trained, cells) -> None:
    said = []
    result = scfm.evaluate(trained.checkpoint, cells, split_key="batch", scvi=False, say=said.append)
    assert any("2 trainings will follow" in line for line in said)
    for method in ("pca", "untrained", "start", "trained"):
        low, high = result["ranges"][method]["leave_out_accuracy"]
        assert 0.2 < low <= result["embeddings"][method]["leave_out_accuracy"] <= high <= 1


def test_held_out_cells_are_counted_that_have_a_label(trained, cells) -> None:
    whole = scfm.evaluate(trained.checkpoint, cells, scvi=False)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    unlabelled = np.flatnonzero(whole["unseen"])[:5]
    cells.obs.iloc[unlabelled, cells.obs.columns.get_loc("cell_type")] = None
    some = scfm.evaluate(trained.checkpoint, cells, scvi=False)
    assert some["cells"]["held_out"] == whole["cells"]["held_out"] - 5


def test_what_cannot_be_judged_is_one_line(cells_with_vectors) -> None:
    cells, good = cells_with_vectors, np.ones((300, 3))
    cells.obs["one"], cells.obs["small"] = "here", ["a"] * 290 + ["b"] * 10
    broken = good.copy()
    broken[7] = np.nan
    for change, reason in (
        ({"obsm": ["X_nothing"]}, "no 'X_nothing'; choose --obsm from: X_random, X_pca, X_scfm"),
        ({"obsm": {"mine": broken}}, "NaN or infinity in 1 of 300 cells"),
        ({"obsm": {"mine": good[:10]}}, r"shape \(10, 3\); it must be \(300"),
        ({"obsm": {"mine": good[:, 0]}}, r"shape \(300,\)"),
        ({"obsm": {"pca": good}}, "the name of a baseline"),
        ({"obsm": {"mine": np.full((300, 2), "x")}}, "holds no numbers"),
        ({"label_key": "nothing"}, "no column 'nothing'; choose --label-key from: cell_type, batch"),
        ({"batch_key": "one"}, "one batch"),
        ({"split_key": "one"}, "1 group with labelled cells"),
        ({"split_key": "small"}, "without small 'a' 10 labelled cells are left"),
        ({"split_key": "nothing"}, "choose --split-key from"),
    ):
        with pytest.raises(scfm.InputError, match=reason) as error:
            scfm.judge(cells, **({"obsm": ["X_pca"], "scvi": False} | change))
        assert "\n" not in str(error.value)


def test_baselines_that_would_be_equal_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr("scfm_lib.baselines.scvi_is_installed", lambda: True)
    config, said = load_config("minimal"), []
    few, many = sp.csr_matrix(np.ones((5, 2000))), sp.csr_matrix(np.ones((5, 4000)))
    wanted = baselines_for(few, config, scvi=True, full=False, say=said.append)
    assert list(wanted) == ["pca", "pca_1000", "raw", "scvi"]
    assert len(said) == 3
    assert "2,000 genes" in said[0]
    assert list(baselines_for(many, config, scvi=True, full=True, say=said.append)) == list(BASELINES)


def test_other_models_stand_beside_as_they_are(trained, cells, tmp_path) -> None:
    shared = scfm.load_model(scfm.save_pretrained(trained, tmp_path / "shared"))
    result = scfm.evaluate(trained.checkpoint, cells, beside={"pretrained": shared, "adapted": shared}, scvi=False)
    for part in ("embeddings", "ranges", "held_out"):
        assert result[part]["pretrained"] == result[part]["trained"]
    said = verdict(result["embeddings"])
    assert "The pretrained model is above the strongest baseline in" in said
    assert said.endswith("It is above the one trained from scratch in 0 of 8.")  # they are the same


def test_a_group_can_be_left_out_that_alone_has_a_gene(cells, tiny, tmp_path) -> None:
    here, first = cells.copy(), cells.obs["batch"] == cells.obs["batch"].iloc[0]
    counts = here.X.toarray()
    counts[~first, 0] = 0  # without these cells a gene falls out, and with it a token: all genes are tokens
    here.X = sp.csr_matrix(counts)
    tiny.model.n_genes, tiny.training.num_epochs = here.n_vars, 1
    run = scfm.train(tiny, here, run_dir=tmp_path / "run", verbose=False, tensorboard=False)
    result = scfm.evaluate(run.checkpoint, here, split_key="batch", scvi=False)
    assert 0 < result["embeddings"]["trained"]["leave_out_accuracy"] <= 1


def test_with_a_batch_key_one_of_two_batches_can_be_left_out(cells, tiny, tmp_path) -> None:
    tiny.data.batch_key, tiny.training.num_epochs = "batch", 1
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, tensorboard=False)
    result = scfm.evaluate(run.checkpoint, cells, split_key="batch", scvi=False)
    assert result["embeddings"]["trained"]["leave_out_accuracy"] > 0.5
