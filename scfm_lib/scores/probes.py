"""What a simple reader makes of vectors: the nearest neighbours vote, or a logistic regression draws lines.

Labels are whole numbers from 0 on; a guess of -1 means that the cell was not judged.
"""

import warnings

import numpy as np
import scipy.sparse as sp
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from .ranges import Statistic

NEIGHBOURS = 15
FOLDS = 5
SPARSE_CELLS = 20_000  # a regression on every gene of more cells would take long: that many are drawn

Vectors = np.ndarray | sp.csr_matrix


def probes(vectors: Vectors) -> dict[str, ClassifierMixin]:
    """The readers of these vectors, not yet taught: for a sparse table of genes the logistic regression alone.

    Cosine is Euclid on vectors of length one. Genes are not standardised: that would fill the table's zeros.
    """
    if sp.issparse(vectors):
        return {"logistic": LogisticRegression(max_iter=200)}
    return {
        "knn": KNeighborsClassifier(NEIGHBOURS),
        "knn_cosine": make_pipeline(Normalizer(), KNeighborsClassifier(NEIGHBOURS)),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }


def out_of_fold(probe: ClassifierMixin, vectors: Vectors, labels: np.ndarray) -> np.ndarray:
    """Each cell's label (cells,) as guessed by a probe that learned from four fifths of the cells, without this one."""
    chosen = _drawn(vectors, np.arange(len(labels)))
    guess = np.full(len(labels), -1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a regression that stops at max_iter is still judged as it is
        guess[chosen] = cross_val_predict(probe, vectors[chosen], labels[chosen], cv=folds)
    return guess


def taught(
    probe: ClassifierMixin, vectors: Vectors, labels: np.ndarray, learn: np.ndarray, judge: np.ndarray
) -> np.ndarray:
    """The labels of the cells in `judge` as guessed by a probe that learned from those in `learn`, -1 for the others.

    `learn` and `judge` are (cells,) bool.
    """
    chosen = _drawn(vectors, np.flatnonzero(learn))
    guess = np.full(len(labels), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guess[judge] = probe.fit(vectors[chosen], labels[chosen]).predict(vectors[judge])
    return guess


def knn_guesses(vectors: np.ndarray, labels: np.ndarray, learn: np.ndarray, judge: np.ndarray) -> np.ndarray:
    """`taught` for the 15 nearest neighbours by Euclid."""
    return taught(KNeighborsClassifier(NEIGHBOURS), vectors, labels, learn, judge)


def _drawn(vectors: Vectors, rows: np.ndarray) -> np.ndarray:
    """All rows, or of a sparse table of more than `SPARSE_CELLS` a random part, in ascending order."""
    if not sp.issparse(vectors) or len(rows) <= SPARSE_CELLS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, SPARSE_CELLS, replace=False))


def macro_f1(table: np.ndarray) -> float:
    """The mean F1 of the labels that were there or guessed, from counts (truth, guess) of one set of labels."""
    there_or_guessed = table.sum(0) + table.sum(1)
    seen = there_or_guessed > 0
    return float(np.mean(2 * np.diag(table)[seen] / there_or_guessed[seen]))


def accuracy(table: np.ndarray) -> float:
    """The share of cells whose guess is right."""
    return float(np.trace(table) / table.sum())


def statistics(name: str, truth: np.ndarray, guess: np.ndarray) -> dict[str, Statistic]:
    """Macro-F1 and accuracy of a probe's guesses as functions of the cells: `{name}_f1`, `{name}_accuracy`."""
    kinds = int(max(truth.max(), guess.max())) + 1
    pairs = np.where(guess >= 0, truth * kinds + guess, -1)

    def table(drawn: np.ndarray) -> np.ndarray:
        here = pairs[drawn]
        return np.bincount(here[here >= 0], minlength=kinds**2).reshape(kinds, kinds)

    return {
        f"{name}_f1": lambda drawn: macro_f1(table(drawn)),
        f"{name}_accuracy": lambda drawn: accuracy(table(drawn)),
    }
