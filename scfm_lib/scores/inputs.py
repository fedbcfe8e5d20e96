"""What can be judged: labels, batches, groups and vectors, checked before anything is computed."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..errors import InputError
from .probes import FOLDS, NEIGHBOURS

LEAST_CELLS = NEIGHBOURS * FOLDS // (FOLDS - 1) + 2  # four of five folds must hold that many neighbours


@dataclass(frozen=True)
class Labelled:
    """Labelled cells; every array is (cells,)."""

    labels: pd.Series  # categorical, unknown ones missing
    judged: np.ndarray  # bool: labelled, with a label that at least five cells have
    batches: np.ndarray | None  # str
    groups: np.ndarray | None  # str, "" where unknown
    split_key: str | None

    @property
    def y(self) -> np.ndarray:
        """The labels of the judged cells, as strings."""
        return self.labels[self.judged].astype(str).to_numpy()

    @property
    def group_names(self) -> list[str]:
        """The groups that have judged cells, in order."""
        return [] if self.groups is None else sorted(set(self.groups[self.judged]) - {""})


def labelled(
    obs: pd.DataFrame, label_key: str, batch_key: str | None, split_key: str | None, say: Callable[[str], None]
) -> Labelled:
    """The columns of `obs` to judge by; `say` is told how many cells cannot be judged.

    Raises:
        InputError: no such column, too few labelled cells, one batch, or one group.
    """
    labels = _column(obs, label_key, "--label-key")
    enough = labels.groupby(labels, observed=True).transform("size") >= FOLDS
    judged = enough.astype(bool).to_numpy() & labels.notna().to_numpy()
    if labels[judged].nunique() < 2:
        raise InputError(
            f"obs[{label_key!r}] has fewer than two labels with {FOLDS} cells each, so there is nothing to tell "
            f"apart; choose --label-key from: {', '.join(map(str, obs.columns))}"
        )
    if judged.sum() < LEAST_CELLS:
        raise InputError(
            f"there are {judged.sum()} labelled cells to judge {NEIGHBOURS} neighbours in {FOLDS} folds; "
            f"at least {LEAST_CELLS} are needed"
        )
    batches = groups = None
    if batch_key:
        batches = _column(obs, batch_key, "--batch-key").astype(object).fillna("").astype(str).to_numpy()
        if len(set(batches[judged])) < 2:
            raise InputError(f"obs[{batch_key!r}] has one batch, so there is nothing to mix; leave out --batch-key")
    if split_key:
        groups = _column(obs, split_key, "--split-key").astype(object).fillna("").astype(str).to_numpy()
    if not judged.all():
        say(f"{(~judged).sum():,} cells have no label or one with fewer than {FOLDS} cells: embedded, not judged")
    cells = Labelled(labels, judged, batches, groups, split_key)
    if groups is not None and len(cells.group_names) < 2:
        raise InputError(
            f"obs[{split_key!r}] has {len(cells.group_names)} group with labelled cells, so none can be left out; "
            "leave out --split-key"
        )
    for group in cells.group_names:
        others = judged & (groups != group) & (groups != "")
        if others.sum() < LEAST_CELLS:
            raise InputError(
                f"without {split_key} {group!r} {others.sum()} labelled cells are left to learn from, but "
                f"{LEAST_CELLS} are needed; choose another --split-key"
            )
    return cells


def check_fit(fit: np.ndarray) -> None:
    """Refuses to fit on too few cells; `fit` (cells,) bool are those that a model may have learned from.

    Raises:
        InputError: too few.
    """
    if fit.sum() < LEAST_CELLS:
        raise InputError(
            f"{fit.sum()} of {len(fit):,} cells may be learned from, the others are held out or express fewer than "
            f"min_genes genes, and the baselines need {LEAST_CELLS}; give also cells that the model learned from"
        )


def _column(obs: pd.DataFrame, key: str, option: str) -> pd.Series:
    if key not in obs:
        there = ", ".join(map(str, obs.columns)) or "none"
        raise InputError(f"obs has no column {key!r}; choose {option} from: {there}")
    return obs[key].astype(object).where(obs[key].notna()).astype("category")


def checked_vectors(key: str, given: Mapping[str, Any], cells: int, taken: Container[str] = ()) -> np.ndarray:
    """The vectors of that name, (cells, dimensions) float32; names in `taken` are those of other methods.

    Raises:
        InputError: there are none of that name, or they are no finite numbers, or not one row for each cell.
    """
    if key in taken:
        raise InputError(f"{key!r} is the name of a baseline; give these vectors another name")
    if key not in given:
        keys = ", ".join(map(str, given))
        there = f"choose --obsm from: {keys}" if keys else "it is empty: scfm embed fills it"
        raise InputError(f"obsm has no {key!r}; {there}")
    try:
        dense = given[key].toarray() if sp.issparse(given[key]) else given[key]
        vectors = np.asarray(dense, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(f"obsm[{key!r}] holds no numbers; give vectors (cells, dimensions)") from None
    if vectors.ndim != 2 or not vectors.shape[1] or len(vectors) != cells:
        raise InputError(f"obsm[{key!r}] has shape {vectors.shape}; it must be ({cells:,}, dimensions), a row a cell")
    broken = int((~np.isfinite(vectors).all(1)).sum())
    if broken:
        raise InputError(f"obsm[{key!r}] has NaN or infinity in {broken:,} of {cells:,} cells; leave those cells out")
    return vectors
