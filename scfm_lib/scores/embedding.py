"""Every score of one embedding, each with the range of its bootstrap."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import silhouette_samples

from . import clusters, mixing, probes
from .inputs import LEAST_CELLS, Labelled
from .probes import Vectors, knn_guesses, out_of_fold, taught
from .ranges import Statistic, bootstrap

SILHOUETTE_CELLS = 10_000  # its cost grows with the square: of more cells a sample is taken
SCORES = (
    "knn_f1",
    "knn_cosine_f1",
    "knn_accuracy",
    "logistic_f1",
    "nmi",
    "ari",
    "kmeans_nmi",
    "kmeans_ari",
    "silhouette",
)
HELD_OUT_SCORES = ("knn_f1", "knn_cosine_f1", "knn_accuracy", "logistic_f1", "logistic_accuracy")


class Scored(NamedTuple):
    """Scores by name, and for each its bootstrap's 5 and 95 %; None where vectors cannot have that score."""

    values: dict[str, float | None]
    ranges: dict[str, list[float] | None]


def scores(vectors: Vectors, labels: np.ndarray, batches: np.ndarray | None = None) -> Scored:
    """`SCORES` of labelled cells, probes in five folds, and `ilisi` where there are batches.

    Args:
        vectors: (cells, dimensions); sparse ones have `logistic_f1` alone.
        labels: (cells,).
        batches: (cells,).
    """
    _, truth = np.unique(labels, return_inverse=True)
    names = SCORES if batches is None else (*SCORES, "ilisi")
    found: dict[str, Statistic] = {}
    for name, probe in probes.probes(vectors).items():
        found |= probes.statistics(name, truth, out_of_fold(probe, vectors, truth))
    if not sp.issparse(vectors):
        found |= clusters.statistics(vectors, truth) | {"silhouette": _silhouette(vectors, truth)}
        found |= {} if batches is None else mixing.statistics(vectors, batches)
    return _scored(names, found, len(truth))


def held_out_scores(vectors: Vectors, labels: np.ndarray, learn: np.ndarray, judge: np.ndarray) -> Scored | None:
    """`HELD_OUT_SCORES`: probes learn from the cells in `learn` and are judged on those in `judge`, (cells,) bool.

    None where there is nothing to judge or too little to learn from.
    """
    _, truth = np.unique(labels, return_inverse=True)
    if not judge.any() or learn.sum() < LEAST_CELLS or len(np.unique(truth[learn])) < 2:
        return None
    found: dict[str, Statistic] = {}
    for name, probe in probes.probes(vectors).items():
        found |= probes.statistics(name, truth[judge], taught(probe, vectors, truth, learn, judge)[judge])
    return _scored(HELD_OUT_SCORES, found, int(judge.sum()))


def left_out_scores(
    cells: Labelled, vectors_without: Callable[[np.ndarray], dict[str, Vectors | None]]
) -> dict[str, Scored]:
    """`leave_out_accuracy` of every method: the mean over groups of the share of right guesses.

    Args:
        cells: with groups.
        vectors_without: the cells that may be learned from, all but those of one group, (cells,) bool -> every method's
            vectors (cells, dimensions). Sparse ones get None, and None is left out.
    """
    assert cells.groups is not None
    truth = cells.labels.cat.codes.to_numpy()
    right: dict[str, np.ndarray | None] = {}
    for group in cells.group_names:
        others = (cells.groups != group) & (cells.groups != "")
        here = cells.judged & (cells.groups == group)
        for name, vectors in vectors_without(others).items():
            if vectors is None:
                continue
            guessed = right.setdefault(name, None if sp.issparse(vectors) else np.zeros(len(truth)))
            if guessed is not None:
                guessed[here] = knn_guesses(vectors, truth, cells.judged & others, here)[here] == truth[here]
    told = np.flatnonzero(cells.judged & (cells.groups != ""))
    _, codes = np.unique(cells.groups[told], return_inverse=True)

    def mean_of_groups(guessed: np.ndarray, drawn: np.ndarray) -> float:
        cells_of, right_of = np.bincount(codes[drawn]), np.bincount(codes[drawn], guessed[drawn])
        return float((right_of[cells_of > 0] / cells_of[cells_of > 0]).mean())

    name = "leave_out_accuracy"
    return {
        method: _scored((name,), {} if guessed is None else {name: partial(mean_of_groups, guessed[told])}, len(told))
        for method, guessed in right.items()
    }


def _silhouette(vectors: np.ndarray, labels: np.ndarray) -> Statistic:
    """The mean silhouette (Rousseeuw 1987), scaled to 0..1, as a function of the cells."""
    rng, cells = np.random.default_rng(0), len(labels)
    some = rng.choice(cells, SILHOUETTE_CELLS, replace=False) if cells > SILHOUETTE_CELLS else np.arange(cells)
    of_cell = np.full(cells, np.nan)
    of_cell[some] = (silhouette_samples(vectors[some], labels[some]) + 1) / 2
    return lambda drawn: float(np.nanmean(of_cell[drawn]))


def _scored(names: tuple[str, ...], found: dict[str, Statistic], cells: int) -> Scored:
    every = np.arange(cells)
    return Scored(
        {name: round(found[name](every), 4) if name in found else None for name in names},
        {name: bootstrap(found[name], cells) if name in found else None for name in names},
    )
