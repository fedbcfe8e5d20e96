"""Scores with known answers: groups that are far apart, noise, and vectors whose length says nothing."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from scfm_lib.scores import probes
from scfm_lib.scores.clusters import neighbour_graph
from scfm_lib.scores.embedding import held_out_scores, scores
from scfm_lib.scores.mixing import lisi
from scfm_lib.scores.probes import out_of_fold, taught
from scfm_lib.scores.protocol import PROTOCOL
from scfm_lib.scores.ranges import bootstrap

LABELS = np.repeat(["a", "b", "c"], 60)


@pytest.fixture
def blobs() -> np.ndarray:
    """Three tight, far-apart groups in 5 dimensions."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3, 5)) * 20)[np.repeat([0, 1, 2], 60)] + rng.normal(size=(180, 5))


def test_scores_are_one_for_groups_and_chance_for_noise(blobs) -> None:
    good = scores(blobs, LABELS)
    assert all(value == 1 for score, value in good.values.items() if score != "silhouette")
    assert good.values["silhouette"] > 0.9
    assert good.ranges["knn_f1"] == [1, 1]
    noise = scores(np.random.default_rng(1).normal(size=(180, 5)), LABELS)
    assert all(noise.values[key] < 0.45 for key in ("knn_f1", "knn_cosine_f1", "knn_accuracy", "logistic_f1"))
    assert max(noise.values[key] for key in ("nmi", "ari", "kmeans_nmi", "kmeans_ari")) < 0.1
    assert abs(noise.values["silhouette"] - 0.5) < 0.05
    for score, (low, high) in noise.ranges.items():
        assert low <= noise.values[score] <= high, score
        assert high - low < 0.3


def test_cosine_sees_through_lengths_that_are_noise() -> None:
    rng, truth = np.random.default_rng(0), np.repeat([0, 1, 2], 60)
    directions = np.eye(3)[truth] + 0.2 * rng.normal(size=(180, 3))
    vectors = directions * 10 ** rng.uniform(-15, 15, size=(180, 1))
    right = {name: probes.out_of_fold(probe, vectors, truth) == truth for name, probe in probes.probes(vectors).items()}
    assert right["knn_cosine"].mean() > 0.95
    assert right["knn"].mean() < 0.8


def test_a_table_of_genes_has_the_logistic_score_alone(blobs, monkeypatch) -> None:
    found = scores(sp.csr_matrix(blobs), LABELS, LABELS)
    assert {name for name, value in found.values.items() if value is not None} == {"logistic_f1"}
    assert {name for name, value in found.ranges.items() if value is not None} == {"logistic_f1"}
    monkeypatch.setattr(probes, "SPARSE_CELLS", 90)
    assert scores(sp.csr_matrix(blobs), LABELS).values["logistic_f1"] == 1


def test_held_out_probes_learn_from_the_others_only(blobs) -> None:
    unseen = np.random.default_rng(0).random(180) < 0.3
    assert held_out_scores(blobs, LABELS, ~unseen, unseen).values["knn_f1"] == 1
    lied = np.where(unseen, LABELS, "a")  # what was never seen as "c" cannot be guessed
    lied[~unseen & (LABELS == "b")] = "b"
    assert held_out_scores(blobs, lied, ~unseen, unseen).values["knn_f1"] < 0.75
    assert held_out_scores(blobs, LABELS, ~unseen, np.zeros(180, bool)) is None


def test_scores_from_counts_are_sklearns() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(5, size=200), rng.integers(4, size=200)  # the fifth is never guessed
    other[:80] = one[:80] % 4
    table = np.zeros((5, 5))
    np.add.at(table, (one, other), 1)
    assert probes.macro_f1(table) == pytest.approx(f1_score(one, other, average="macro", zero_division=0))
    assert probes.accuracy(table) == (one == other).mean()


def test_the_bootstrap_is_about_the_standard_error() -> None:
    right = np.random.default_rng(0).random(1000) < 0.7
    low, high = bootstrap(lambda drawn: right[drawn].mean(), 1000)
    assert low < right.mean() < high
    assert high - low == pytest.approx(2 * 1.645 * (0.21 / 1000) ** 0.5, rel=0.2)


def test_ilisi_tells_apart_from_mixed(blobs) -> None:
    def ilisi(batches):
        return scores(blobs, LABELS, batches).values["ilisi"]

    far = blobs * 100  # 60 cells a batch, so a third of the 89 neighbours is of another, but too far to weigh
    assert np.median(lisi(far, LABELS)) == pytest.approx(1, abs=1e-3)
    assert ilisi(np.random.default_rng(0).permutation(LABELS)) > 0.85
    assert lisi(blobs[:20], LABELS[::9]).shape == (20,)


def test_lisi_is_that_of_scib_metrics(blobs) -> None:
    scib = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed: pip install scib-metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    batches = np.random.default_rng(0).choice(["x", "y", "z"], 180, p=[0.5, 0.3, 0.2])
    distances, index = NearestNeighbors(n_neighbors=90).fit(blobs).kneighbors(blobs)
    theirs = scib.lisi_knn(NeighborsResults(indices=index, distances=distances), batches)
    np.testing.assert_allclose(lisi(blobs, batches), theirs, rtol=1e-3)


def test_neighbours_work_above_8192_cells() -> None:
    """scanpy 1.11.5 with pynndescent 0.7.0 and scipy 1.17.1 does not; the pinned versions do."""
    graph = neighbour_graph(np.random.default_rng(0).normal(size=(8300, 4)).astype("f4"))
    assert graph.obsp["connectivities"].shape == (8300, 8300)
    assert (np.diff(graph.obsp["connectivities"].indptr) >= 14).all()


def test_the_protocol_is_told_without_docstrings_too() -> None:
    code = "from scfm_lib.scores.protocol import PROTOCOL; print(PROTOCOL)"
    told = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == PROTOCOL != ""


def test_probes_never_learn_the_labels_that_they_are_judged_on() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(400, 5)), rng.integers(0, 2, 400)  # nothing to learn, but by heart
    judge = rng.random(400) < 0.5
    nearest = KNeighborsClassifier(1)
    guess = taught(nearest, vectors, labels, ~judge, judge)
    assert (guess[judge] == labels[judge]).mean() < 0.65
    assert (guess[~judge] == -1).all()
    assert (out_of_fold(nearest, vectors, labels) == labels).mean() < 0.65
