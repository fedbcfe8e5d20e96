"""Cell types for cells without labels, from a reference that has some; and "unknown" for what the reference lacks.

A cell gets the type that a logistic regression on the reference's vectors finds likeliest. How far it can be trusted is
measured on reference cells that were held out: how sure the regression was of such cells (its probability), and how
near they lay to the type's others (mean distance to the nearest ten, compared with what is usual within that type). A
cell that is less sure and further away than nearly all of them is of no type that the reference knows. That needs some
fifty held-out cells: with fewer, no share is small enough.

`annotate_file` does the same with a PCA of all genes, and tells how both did on reference cells that they had not seen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..baselines import BASELINES
from ..checkpoint import checkpoint_config, model_of, read_model
from ..config import Config
from ..data.genes import match_genes, match_report
from ..data.read import Cells, held_out, open_cells, read_any
from ..data.write import check_new_h5ad, write_h5ad
from ..embed import embed, match_model
from ..errors import InputError
from ..model import CellTransformer

UNKNOWN = "unknown"
UNKNOWN_SHARE = 0.1  # of cells of known types that are given up, so that most of an unknown type are found
NEIGHBOURS = 10
LEAST = 10  # cells of a type, below which nothing can be learned of it and measured
MOST = 2000  # of a type's cells say how far its cells are from each other
TINY, LEAST_SPREAD = 1e-12, 0.05  # of a distance and of its logarithm, where cells are equal


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
        reference: cells with types in `obs[label_key]`; those without one, and types of fewer than 10 cells (of 3 that
            are not held out), are left out.
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
    here, there = model_vectors(model, cells, say)
    unseen = held_out(cells[0].obs.index, 0.2, split_seed)
    return annotate_vectors(here, types, unseen, there).set_index(cells[1].obs.index)


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


def model_vectors(model: CellTransformer, cells: list[Cells], say: Callable[[str], None]) -> list[np.ndarray]:
    """The model's vectors of each data set, after a line for each on the genes that it has."""
    for line in [match_model(model, opened)[1] for opened in cells]:
        say(line)
    return [embed(model, opened) for opened in cells]


def pca_of_all_genes(
    reference: Cells, query: Cells, fit: np.ndarray, config: Config, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The baseline `pca` fitted on the reference cells in `fit` (cells,): vectors of the reference and of the query.

    Genes are matched as a model's are. One that the query lacks counts 0; the library size is over all of its genes.

    Raises:
        InputError: no gene matched, or no counts.
    """
    columns = match_genes(reference.symbols, reference.ensembl, query)
    names = np.where(reference.symbols == "", reference.ensembl, reference.symbols)
    say(match_report(columns, names, f"{query.name}, for the PCA", query.shape[1], least=0))
    learned, asked = (sp.vstack([rows for _, rows in cells.chunks()], format="csr") for cells in (reference, query))
    none = sp.csr_matrix((query.shape[0], 1), dtype=np.float32)
    matched = sp.hstack([asked, none], format="csr")[:, columns]  # column -1 is `none`
    others = sp.csr_matrix(asked.sum(1) - matched.sum(1))  # in a column that no reference cell has, so never fitted
    both = sp.bmat([[learned, None], [matched, others]], format="csr")
    fit = np.concatenate([fit, np.zeros(query.shape[0], dtype=bool)])
    vectors = BASELINES["pca"](ad.AnnData(both, layers={"counts": both}), fit, config)
    return vectors[: reference.shape[0]], vectors[reference.shape[0] :]


def annotate_vectors(reference: np.ndarray, types: np.ndarray, unseen: np.ndarray, query: np.ndarray) -> pd.DataFrame:
    """`annotate` for any vectors, such as those of a PCA: the same columns.

    Args:
        reference: (cells, dimensions).
        types: (cells,) their types, "" for those to leave out.
        unseen: (cells,) bool, those on which confidence is measured; the others are learned from.
        query: (query cells, dimensions).

    Raises:
        InputError: no cells to measure confidence on or to name, or fewer than two types to learn.
    """
    names, cells = np.unique(types[~unseen], return_counts=True)
    types = np.where(np.isin(types, names[cells > 2]), types, "")  # two cells have one distance, so no spread
    learned, measured = (types != "") & ~unseen, (types != "") & unseen
    if len(np.unique(types[learned])) < 2 or not measured.any() or not len(query):
        raise InputError(
            f"the reference has too few cells with types: {learned.sum()} to learn from, {measured.sum()} held out to "
            "measure confidence on; give a larger one"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(reference[learned], types[learned])
    rng, near = np.random.default_rng(0), {}
    for name in probe.classes_:  # its cells, and how far they lie from each other: mean and sd of logarithms
        own = reference[learned & (types == name)]
        index = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(own))).fit(own)
        usual = np.log(index.kneighbors(rng.permutation(own)[:MOST])[0][:, 1:].mean(1) + TINY)  # without itself
        near[name] = index, usual.mean(), max(usual.std(), LEAST_SPREAD)

    def look(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The likeliest type of each cell, how unlikely it is, and how unusually far its cells are: all (cells,)."""
        probability = probe.predict_proba(vectors)
        likeliest, far = probe.classes_[probability.argmax(1)], np.zeros(len(vectors))
        for name in np.unique(likeliest):
            index, mean, spread = near[name]
            nearest = index.kneighbors(vectors[likeliest == name])[0][:, :-1]
            far[likeliest == name] = (np.log(nearest.mean(1) + TINY) - mean) / spread
        return likeliest, 1 - probability.max(1), far

    measured_as, measured_unlikely, measured_far = look(reference[measured])
    likeliest, *query_scores = look(query)

    def share(measured: np.ndarray, scores: np.ndarray, itself: int) -> np.ndarray:
        """For each score the share of measured ones that are as high, without the cell itself where `itself` is 1."""
        return (len(measured) - np.searchsorted(np.sort(measured), scores) + 1 - itself) / (len(measured) + 1 - itself)

    def fits(names: np.ndarray, unlikely: np.ndarray, far: np.ndarray, itself: int = 0) -> np.ndarray:
        """For each cell the share of measured cells of its name that were no surer, times that of all no nearer."""
        product = share(measured_far, far, itself)
        for name in np.unique(names):
            product[names == name] *= share(measured_unlikely[measured_as == name], unlikely[names == name], itself)
        return product

    known = np.sort(fits(measured_as, measured_unlikely, measured_far, itself=1))
    confidence = (np.searchsorted(known, fits(likeliest, *query_scores), side="right") + 1) / (len(known) + 1)
    label = np.where(confidence < UNKNOWN_SHARE, UNKNOWN, likeliest)
    return pd.DataFrame({"label": label, "likeliest": likeliest, "confidence": confidence.round(4)})


def agreement(found: pd.DataFrame, truth: np.ndarray) -> dict[str, Any]:
    """How `annotate` did on cells whose types (cells,) are known.

    Returns:
        `coverage`, the share of cells that got a label; `accuracy` of those, None if there are none; and `unknown`,
        for each true type the share that came back as "unknown".
    """
    named = (found["label"] != UNKNOWN).to_numpy()
    right = found["label"].to_numpy()[named] == truth[named]
    unknown = pd.Series(~named).groupby(truth).mean().round(4).to_dict()
    accuracy = round(float(right.mean()), 4) if len(right) else None
    return {"coverage": round(float(named.mean()), 4), "accuracy": accuracy, "unknown": unknown}


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
    """Writes the query to `out`, a new `.h5ad`, with a label and confidence by the model and by a PCA of all genes.

    They are `obs["scfm_label"]` and `obs["scfm_confidence"]`, and the same with `pca_`. The PCA is fitted on the
    reference cells that are learned from. How well each does is measured on half of the held-out cells, with the other
    half alone to calibrate it; the query's labels are calibrated on both.

    Returns:
        `labels`, how many cells got which by the model; `held_out`, for `scfm` and `pca` the `accuracy` and `coverage`
        on `held_out_cells`; `agree`, the share of the query's cells to which both give one label; and `out`.

    Raises:
        InputError: as `annotate`, the reference is too small to measure by, or `out` exists.
        OSError: no space; nothing is left behind.
    """
    check_new_h5ad(out)
    saved = read_model(checkpoint)
    config, adata = checkpoint_config(saved), read_any(query, layer)
    cells = [open_cells(source, layer) for source in (reference, query)]
    types, names, seed = reference_types(cells[0].obs, label_key), cells[0].obs.index, config.data.split_seed
    unseen = held_out(names, 0.2, seed)
    judged = unseen & (types != "") & held_out(names, 0.5, seed + 1)
    ways: dict[str, Callable[[], Any]] = {
        "scfm": lambda: model_vectors(model_of(saved), cells, say),
        "pca": lambda: pca_of_all_genes(*cells, ~unseen & (types != ""), config, say),
    }
    scores, labels = {}, []
    for way, vectors in ways.items():
        here, there = vectors()
        tried = agreement(annotate_vectors(here, np.where(judged, "", types), unseen, here[judged]), types[judged])
        scores[way] = {key: tried[key] for key in ("accuracy", "coverage")}
        found = annotate_vectors(here, types, unseen, there)
        labels.append(found["label"])
        adata.obs[f"{way}_label"] = pd.Categorical(found["label"])
        adata.obs[f"{way}_confidence"] = found["confidence"].to_numpy()
    write_h5ad(adata, out)
    told = {"labels": labels[0].value_counts().to_dict(), "held_out": scores, "held_out_cells": int(judged.sum())}
    return told | {"agree": round(float((labels[0] == labels[1]).mean()), 4), "out": str(out)}
