"""How good is the embedding? Probes on labels the model never saw, beside the baselines and the model before training.

How each score is made stands in `PROTOCOL`, which goes into every result.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .baselines import BASELINES, scvi_is_installed
from .checkpoint import checkpoint_config, load_checkpoint, model_of
from .config import Config
from .data.read import held_out, read_adata
from .data.sources import find_data
from .embed import embed
from .errors import InputError
from .model import CellTransformer
from .start import new_model
from .versions import versions

METHODS = (*BASELINES, "untrained", "start", "trained")
NEIGHBOURS = 15
FOLDS = 5
SILHOUETTE_CELLS = 10_000  # its cost grows with the square: of more cells a sample is taken
RESOLUTIONS = (0.4, 0.8, 1.2)
PROTOCOL = (
    'Table "all": every method is fitted without labels on all cells it may use; probes are 5-fold stratified (15 '
    "nearest neighbours; standardised logistic regression), macro-F1 and accuracy; NMI and ARI are the best of Leiden "
    'at resolutions 0.4, 0.8, 1.2 on a graph of 15 neighbours; silhouette is scaled to 0..1. Table "held_out": PCA '
    "and scVI see only the cells the model was trained on, probes learn from the labels of those and are judged on the "
    "cells held out."
)


def evaluate(
    checkpoint: str | Path,
    data: str | Path | ad.AnnData,
    *,
    label_key: str = "cell_type",
    batch_key: str | None = None,
    layer: str | None = None,
    scvi: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judges a trained model on labelled cells.

    Args:
        checkpoint: file or run.
        data: labelled cells, as `find_data` takes.
        label_key: column of `obs` with cell types.
        batch_key: column of `obs` with batches; adds `batch_mixing`.
        layer: where the counts are.
        scvi: fit scVI too, if it is installed.
        say: told what is being done.

    Returns:
        `step` of the checkpoint, `data` (its name), `embeddings` and `held_out` (method -> score -> value, None for a
        method that was not run), `vectors` (method -> (cells, dimensions)), `labels`, `seconds`, `cells`, `protocol`
        and `versions`.

    Raises:
        InputError: no such key, or labels that cannot be judged.
    """
    started = time.monotonic()
    saved = load_checkpoint(checkpoint)
    config = checkpoint_config(saved)
    adata = read_adata(find_data(data), layer)
    labels = _column(adata, label_key, "--label-key")
    batches = _column(adata, batch_key, "--batch-key") if batch_key else None
    judged = _judged(adata, labels, batches)
    if not judged.all():
        say(f"{(~judged).sum():,} cells have no label or one with fewer than {FOLDS} cells: embedded, not judged")
    unseen = held_out(adata.obs_names, config.data.validation_fraction, config.data.split_seed)

    vectors: dict[str, np.ndarray | None] = dict.fromkeys(METHODS)
    for name, model in models(saved, config).items():  # first: genes that do not match are found before minutes of scVI
        say(f"model, {name}")
        vectors[name] = embed(model, adata, layer="counts")
    wanted = dict(BASELINES)
    if not (scvi and scvi_is_installed()):
        say("scVI is not " + ("installed: left out" if scvi else "asked for"))
        del wanted["scvi"]

    def with_baselines(fit: np.ndarray) -> dict[str, np.ndarray | None]:
        say(f"{', '.join(wanted)}, fitted on {fit.sum():,} cells")
        return vectors | {name: baseline(adata, fit, config) for name, baseline in wanted.items()}

    y = labels[judged].astype(str).to_numpy()
    b = None if batches is None else batches[judged].astype(str).to_numpy()
    vectors = with_baselines(np.ones(adata.n_obs, dtype=bool))
    say("probes")
    table = {name: None if v is None else scores(v[judged], y, b) for name, v in vectors.items()}
    second: dict[str, dict[str, float] | None] = dict.fromkeys(METHODS)
    if unseen.any():
        split = with_baselines(~unseen).items()
        second = {name: None if v is None else held_out_scores(v[judged], y, unseen[judged]) for name, v in split}
    return {
        "step": saved["step"],
        "data": f"{adata.n_obs:,} cells" if isinstance(data, ad.AnnData) else Path(data).name,
        "embeddings": table,
        "held_out": second,
        "seconds": round(time.monotonic() - started, 1),
        "cells": {"all": int(adata.n_obs), "judged": int(judged.sum()), "held_out": int(unseen.sum())},
        "protocol": PROTOCOL,
        "versions": versions(),
        "vectors": vectors,
        "labels": labels,
    }


def _column(adata: ad.AnnData, key: str, option: str) -> pd.Series:
    if key not in adata.obs:
        there = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(f"obs has no column {key!r}; choose {option} from: {there}")
    return adata.obs[key].astype(object).where(adata.obs[key].notna()).astype("category")


def _judged(adata: ad.AnnData, labels: pd.Series, batches: pd.Series | None) -> np.ndarray:
    """Which cells have a label that at least five have: (cells,) bool.

    Raises:
        InputError: too few of them, or one batch.
    """
    enough = labels.groupby(labels, observed=True).transform("size") >= FOLDS
    judged = enough.astype(bool).to_numpy() & labels.notna().to_numpy()
    if labels[judged].nunique() < 2:
        raise InputError(
            f"obs[{labels.name!r}] has fewer than two labels with {FOLDS} cells each, so there is nothing to tell "
            f"apart; choose --label-key from: {', '.join(map(str, adata.obs.columns))}"
        )
    if judged.sum() < NEIGHBOURS * FOLDS // (FOLDS - 1) + 2:  # four of five folds must hold that many neighbours
        raise InputError(
            f"there are {judged.sum()} labelled cells to judge {NEIGHBOURS} neighbours in {FOLDS} folds; "
            "at least 20 are needed"
        )
    if batches is not None and batches[judged].nunique() < 2:
        raise InputError(f"obs[{batches.name!r}] has one batch, so there is nothing to mix; leave out --batch-key")
    return judged


def models(state: dict[str, Any], config: Config) -> dict[str, CellTransformer]:
    """The model of a checkpoint untrained (random weights), at its PCA start, and trained."""
    trained, seed = model_of(state), config.training.seed
    before = {"untrained": new_model(config.model, seed), "start": new_model(config.model, seed, state["start"])}
    for model in before.values():
        model.symbols, model.ensembl = trained.symbols, trained.ensembl
        model.eval()
    return before | {"trained": trained}


def _logistic() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def scores(vectors: np.ndarray, labels: np.ndarray, batches: np.ndarray | None = None) -> dict[str, float]:
    """Every score of one embedding: vectors (cells, dimensions), labels (cells,), batches (cells,)."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    sample = SILHOUETTE_CELLS if len(labels) > SILHOUETTE_CELLS else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a probe that stops at max_iter is still judged as it is
        by_knn = cross_val_predict(KNeighborsClassifier(NEIGHBOURS), vectors, labels, cv=folds)
        by_logistic = cross_val_predict(_logistic(), vectors, labels, cv=folds)
    result = {
        "knn_f1": metrics.f1_score(labels, by_knn, average="macro"),
        "knn_accuracy": metrics.accuracy_score(labels, by_knn),
        "logistic_f1": metrics.f1_score(labels, by_logistic, average="macro"),
        **cluster_scores(vectors, labels),
        "silhouette": (metrics.silhouette_score(vectors, labels, sample_size=sample, random_state=0) + 1) / 2,
    }
    if batches is not None:
        result["batch_mixing"] = batch_mixing(vectors, batches)
    return {name: round(float(value), 4) for name, value in result.items()}


def held_out_scores(vectors: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """Probes that learn from the cells not in `unseen` and are judged on the others."""
    result = {}
    for name, probe in (("knn", KNeighborsClassifier(NEIGHBOURS)), ("logistic", _logistic())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guess = probe.fit(vectors[~unseen], labels[~unseen]).predict(vectors[unseen])
        result[f"{name}_f1"] = metrics.f1_score(labels[unseen], guess, average="macro", zero_division=0)
        result[f"{name}_accuracy"] = metrics.accuracy_score(labels[unseen], guess)
    return {name: round(float(value), 4) for name, value in result.items()}


def neighbour_graph(vectors: np.ndarray) -> ad.AnnData:
    """An `AnnData` whose neighbours are those of the vectors, ready for Leiden and UMAP."""
    import scanpy as sc

    graph = ad.AnnData(np.zeros((len(vectors), 1), dtype=np.float32), obsm={"X_scfm": vectors})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(graph, n_neighbors=NEIGHBOURS, use_rep="X_scfm", random_state=0)
    return graph


def cluster_scores(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """NMI and ARI, each the best over the resolutions of Leiden."""
    import scanpy as sc

    graph = neighbour_graph(vectors)
    nmi, ari = [], []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        nmi.append(metrics.normalized_mutual_info_score(labels, graph.obs["leiden"]))
        ari.append(metrics.adjusted_rand_score(labels, graph.obs["leiden"]))
    return {"nmi": max(nmi), "ari": max(ari)}


def batch_mixing(vectors: np.ndarray, batches: np.ndarray) -> float:
    """How many of a cell's 15 neighbours come from other batches, over what chance would give: 0 apart, 1 mixed."""
    _, codes = np.unique(batches, return_inverse=True)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(vectors).kneighbors(return_distance=False)
    other = (codes[nearest] != codes[:, None]).mean()
    share = np.bincount(codes) / len(codes)
    return float(min(1.0, other / max(1e-12, 1 - (share**2).sum())))
