"""Cell types for cells without labels, from a reference that has some; and "unknown" for what the reference lacks.

A cell gets the type that a logistic regression on the reference's vectors finds likeliest. How far it can be trusted is
measured on reference cells that were held out: for each type, how sure the regression was of such cells (its
probability), and how near they lay to the type's others (mean distance to the nearest ten). A cell that is both less
sure and further away than nearly all of them is of no type that the reference knows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..checkpoint import checkpoint_config, model_of, read_model
from ..data.read import held_out, open_cells, read_any
from ..data.write import check_new_h5ad, write_h5ad
from ..embed import embed, match_model
from ..errors import InputError
from ..model import CellTransformer

UNKNOWN = "unknown"
UNKNOWN_SHARE = 0.1  # of cells of known types that are given up, so that most of an unknown type are found
NEIGHBOURS = 10
LEAST = 10  # cells of a type, below which nothing can be learned of it and measured


def annotate(
    model: CellTransformer,
    reference: ad.AnnData | str | Path,
    query: ad.AnnData | str | Path,
    *,
    label_key: str = "cell_type",
    split_seed: int = 0,
    layer: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Types of the query's cells, with the confidence of each; the model is not changed.

    Reference cells are held out by the hash of their names, as in training, with the same `split_seed`; so where the
    model learned from the reference, confidence is measured on cells it has not seen either.

    Args:
        model: trained; it makes both data sets' vectors.
        reference: cells with types in `obs[label_key]`; those without one, and types of fewer than 10 cells, are left
            out.
        query: cells to name.
        label_key: column of the reference's `obs`.
        split_seed: which reference cells are held out to measure confidence.
        layer: where the counts are, in both.
        say: told what is being done.

    Returns:
        A row per query cell: `label`, the likeliest type or "unknown"; `likeliest`, the type in any case; and
        `confidence`, the share of held-out reference cells that fit their type no better: below 0.1 it is "unknown".

    Raises:
        InputError: no such column, fewer than two types, or genes that do not match; as `embed`.
    """
    cells = [open_cells(source, layer) for source in (reference, query)]
    types = reference_types(cells[0].obs, label_key)
    for opened in cells:
        say(match_model(model, opened)[1])
    vectors = [embed(model, opened) for opened in cells]
    unseen = held_out(cells[0].obs.index, 0.2, split_seed)
    found = annotate_vectors(vectors[0], types, unseen, vectors[1])
    return found.set_index(cells[1].obs.index)


def reference_types(obs: pd.DataFrame, label_key: str) -> np.ndarray:
    """The type of each reference cell (cells,), "" for those that are left out.

    Raises:
        InputError: no such column, or fewer than two types with ten cells.
    """
    if label_key not in obs:
        there = ", ".join(map(str, obs.columns)) or "none"
        raise InputError(f"the reference's obs has no column {label_key!r}; choose --label-key from: {there}")
    labels = obs[label_key].astype(object).where(obs[label_key].notna(), "").astype(str)
    enough = labels.groupby(labels).transform("size") >= LEAST
    types = labels.where(enough, "").to_numpy()
    if len(np.unique(types[types != ""])) < 2:
        raise InputError(
            f"obs[{label_key!r}] has fewer than two types with {LEAST} cells, so there is nothing to tell apart; "
            "choose another --label-key or a larger reference"
        )
    return types


def annotate_vectors(reference: np.ndarray, types: np.ndarray, unseen: np.ndarray, query: np.ndarray) -> pd.DataFrame:
    """`annotate` for any vectors, such as those of a PCA: the same columns.

    Args:
        reference: (cells, dimensions).
        types: (cells,) their types, "" for those to leave out.
        unseen: (cells,) bool, those on which confidence is measured; the others are learned from.
        query: (query cells, dimensions).
    """
    learned, measured = (types != "") & ~unseen, (types != "") & unseen
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(reference[learned], types[learned])

    def look(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The likeliest type of each cell, how unlikely it is, and how far the type's cells are: all (cells,)."""
        probability = probe.predict_proba(vectors)
        likeliest, distance = probe.classes_[probability.argmax(1)], np.zeros(len(vectors))
        for name in np.unique(likeliest):
            own = reference[learned & (types == name)]
            nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(own))).fit(own)
            distance[likeliest == name] = nearest.kneighbors(vectors[likeliest == name])[0].mean(1)
        return likeliest, 1 - probability.max(1), distance

    measured_as, *measured_scores = look(reference[measured])
    likeliest, *query_scores = look(query)

    def fit(names: np.ndarray, scores: list[np.ndarray]) -> np.ndarray:
        """For each cell, over both scores the product of the shares of its type's measured cells that do no better."""
        product = np.ones(len(names))
        for name in np.unique(names):
            here, like = names == name, measured_as == name
            for score, known in zip(scores, measured_scores, strict=True):
                no_better = (known[like][None, :] >= score[here][:, None]).sum(1)
                product[here] *= (no_better + 1) / (like.sum() + 1)
        return product

    known = np.sort(fit(measured_as, measured_scores))
    confidence = (np.searchsorted(known, fit(likeliest, query_scores), side="right") + 1) / (len(known) + 1)
    label = np.where(confidence < UNKNOWN_SHARE, UNKNOWN, likeliest)
    return pd.DataFrame({"label": label, "likeliest": likeliest, "confidence": confidence.round(4)})


def agreement(found: pd.DataFrame, truth: np.ndarray) -> dict[str, Any]:
    """How `annotate` did on cells whose types (cells,) are known.

    Returns:
        `coverage`, the share of cells that got a label; `accuracy` of those; and `unknown`, for each true type the
        share that came back as "unknown".
    """
    named = (found["label"] != UNKNOWN).to_numpy()
    right = found["label"].to_numpy()[named] == truth[named]
    unknown = pd.Series(~named).groupby(truth).mean().round(4).to_dict()
    return {"coverage": round(float(named.mean()), 4), "accuracy": round(float(right.mean()), 4), "unknown": unknown}


def annotate_file(
    checkpoint: str | Path,
    reference: ad.AnnData | str | Path,
    query: ad.AnnData | str | Path,
    out: Path,
    *,
    label_key: str = "cell_type",
    layer: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes the query with `obs["scfm_label"]` and `obs["scfm_confidence"]` to `out`, a new `.h5ad`.

    Returns:
        `labels`, how many cells got which, and `out`.

    Raises:
        InputError: as `annotate`, or `out` exists.
        OSError: no space; nothing is left behind.
    """
    check_new_h5ad(out)
    saved = read_model(checkpoint)
    split_seed = checkpoint_config(saved).data.split_seed
    model, adata = model_of(saved), read_any(query, layer)
    keys: dict[str, Any] = {"label_key": label_key, "split_seed": split_seed, "layer": layer, "say": say}
    found = annotate(model, reference, adata, **keys)
    adata.obs["scfm_label"] = pd.Categorical(found["label"])
    adata.obs["scfm_confidence"] = found["confidence"]
    write_h5ad(adata, out)
    return {"labels": found["label"].value_counts().to_dict(), "out": str(out)}
