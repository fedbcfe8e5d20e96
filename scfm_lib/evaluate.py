"""How good is the embedding? Probes on labels the model never saw, beside PCA, scVI and the model before training.

Protocol. Table "all": every method is fitted without labels on all cells it may use; probes are 5-fold stratified
(15 nearest neighbours; standardised logistic regression), macro-F1 and accuracy; NMI and ARI are the best of Leiden at
resolutions 0.4, 0.8, 1.2 on a graph of 15 neighbours; silhouette is scaled to 0..1. Table "held_out": PCA and scVI see
only the cells the model was trained on, probes learn from the labels of those and are judged on the cells held out.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    f1_score,
    normalized_mutual_info_score,
    silhouette_score,
)
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .batches import log_normalise
from .cells import held_out, read_adata
from .checkpoint import checkpoint_config, load_checkpoint, put_weights
from .config import Config, InputError
from .datasets import find_data
from .embed import embed
from .genes import variable_genes
from .model import CellTransformer
from .start import new_model
from .versions import versions

METHODS = ("pca", "scvi", "untrained", "start", "trained")
NEIGHBOURS = 15
RESOLUTIONS = (0.4, 0.8, 1.2)
PCA_COMPONENTS = 50
SCVI = {"n_latent": 30, "n_layers": 2, "gene_likelihood": "nb"}
SCVI_EPOCHS = 100


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
    state = load_checkpoint(checkpoint)
    config = checkpoint_config(state)
    adata = read_adata(find_data(data), layer)
    labels = _column(adata, label_key, "--label-key")
    batches = _column(adata, batch_key, "--batch-key") if batch_key else None
    enough = labels.groupby(labels, observed=True).transform("size") >= 5
    enough = enough.astype(bool).to_numpy() & labels.notna().to_numpy()
    if labels[enough].nunique() < 2:
        raise InputError(
            f"obs[{label_key!r}] has fewer than two labels with 5 cells each, so there is nothing to tell apart; "
            f"choose --label-key from: {', '.join(map(str, adata.obs.columns))}"
        )
    if enough.sum() < NEIGHBOURS * 5 // 4 + 2:  # four of five folds must hold that many neighbours
        raise InputError(
            f"there are {enough.sum()} labelled cells to judge {NEIGHBOURS} neighbours in 5 folds; "
            "at least 20 are needed"
        )
    if batches is not None and batches[enough].nunique() < 2:
        raise InputError(f"obs[{batch_key!r}] has one batch, so there is nothing to mix; leave out --batch-key")
    if not enough.all():
        say(f"{(~enough).sum():,} cells have no label or one with fewer than 5 cells: embedded, not judged")

    unseen = held_out(adata.obs_names, config.data.validation_fraction, config.data.split_seed)
    everything = np.ones(adata.n_obs, dtype=bool)
    vectors: dict[str, np.ndarray | None] = {}
    split_vectors: dict[str, np.ndarray | None] = {}
    for name, model in models(state, config).items():  # first: genes that do not match are found before minutes of scVI
        say(f"model, {name}")
        vectors[name] = split_vectors[name] = embed(model, adata, layer="counts")
    say("PCA")
    vectors["pca"] = pca_embedding(adata, everything, config)
    split_vectors["pca"] = pca_embedding(adata, ~unseen, config) if unseen.any() else None
    run_scvi = scvi and _installed("scvi")
    say(
        f"scVI, {SCVI_EPOCHS} epochs" if run_scvi else "scVI is not " + ("installed: left out" if scvi else "asked for")
    )
    vectors["scvi"] = scvi_embedding(adata, everything, config) if run_scvi else None
    split_vectors["scvi"] = scvi_embedding(adata, ~unseen, config) if run_scvi and unseen.any() else None
    y = labels[enough].astype(str).to_numpy()
    b = batches[enough].astype(str).to_numpy() if batches is not None else None
    table, second = {}, {}
    for name in METHODS:
        if vectors[name] is not None:
            say(f"probes, {name}")
        table[name] = scores(vectors[name][enough], y, b) if vectors[name] is not None else None
        known = split_vectors[name] is not None and unseen.any()
        second[name] = held_out_scores(split_vectors[name][enough], y, unseen[enough]) if known else None
    return {
        "step": state["step"],
        "data": f"{adata.n_obs:,} cells" if isinstance(data, ad.AnnData) else Path(data).name,
        "embeddings": table,
        "held_out": second,
        "seconds": round(time.monotonic() - started, 1),
        "cells": {"all": int(adata.n_obs), "judged": int(enough.sum()), "held_out": int(unseen.sum())},
        "protocol": " ".join(__doc__.split("Protocol.")[1].split()),
        "versions": versions(),
        "vectors": vectors,
        "labels": labels,
    }


def models(state: dict[str, Any], config: Config) -> dict[str, CellTransformer]:
    """The model of a checkpoint untrained (random weights), at its PCA start, and trained."""
    built = {
        "untrained": new_model(config.model, config.training.seed),
        "start": new_model(config.model, config.training.seed, state["start"]),
        "trained": new_model(config.model, config.training.seed),
    }
    trained = built["trained"]
    put_weights(trained, state)
    for model in built.values():
        model.symbols, model.ensembl = trained.symbols, trained.ensembl
        model.eval()
    return built


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _column(adata: ad.AnnData, key: str, option: str) -> pd.Series:
    if key not in adata.obs:
        there = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(f"obs has no column {key!r}; choose {option} from: {there}")
    return adata.obs[key].astype(object).where(adata.obs[key].notna()).astype("category")


def pca_embedding(adata: ad.AnnData, fit: np.ndarray, config: Config) -> np.ndarray:
    """scanpy's standard start, fitted on the cells in `fit`: log1p of counts per 10,000, 50 components (cells, 50)."""
    from sklearn.decomposition import PCA

    counts = adata.layers["counts"]
    genes, _ = variable_genes(counts[fit], config.model.n_genes, min_cells=config.data.preprocessing.min_cells)
    values = log_normalise(counts[:, genes], np.asarray(counts.sum(1)).ravel())
    components = min(PCA_COMPONENTS, min(int(fit.sum()), len(genes)) - 1)
    pca = PCA(components, svd_solver="arpack", random_state=config.training.seed).fit(values[fit])
    return pca.transform(values).astype(np.float32)


def scvi_embedding(adata: ad.AnnData, fit: np.ndarray, config: Config, epochs: int | None = SCVI_EPOCHS) -> np.ndarray:
    """scVI's latent means (cells, 30), fitted on the cells in `fit`; `epochs` None takes scVI's own default."""
    import logging

    import scvi

    for name in ("lightning.pytorch", "lightning.fabric"):  # which say on standard error that a seed was set
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.seed = config.training.seed
    scvi.settings.verbosity = logging.ERROR
    counts = adata.layers["counts"]
    genes, _ = variable_genes(counts[fit], config.model.n_genes, min_cells=config.data.preprocessing.min_cells)
    data = ad.AnnData(counts[:, genes].copy(), obs=pd.DataFrame(index=adata.obs_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = data[fit].copy()
        scvi.model.SCVI.setup_anndata(part)
        model = scvi.model.SCVI(part, **SCVI)
        model.train(epochs, enable_progress_bar=False, accelerator="cpu")
        return np.asarray(model.get_latent_representation(data), dtype=np.float32)


def _logistic() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def scores(vectors: np.ndarray, labels: np.ndarray, batches: np.ndarray | None = None) -> dict[str, float]:
    """Every score of one embedding: vectors (cells, dimensions), labels (cells,), batches (cells,)."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a probe that stops at max_iter is still judged as it is
        by_knn = cross_val_predict(KNeighborsClassifier(NEIGHBOURS), vectors, labels, cv=folds)
        by_logistic = cross_val_predict(_logistic(), vectors, labels, cv=folds)
    result = {
        "knn_f1": f1_score(labels, by_knn, average="macro"),
        "knn_accuracy": accuracy_score(labels, by_knn),
        "logistic_f1": f1_score(labels, by_logistic, average="macro"),
        **cluster_scores(vectors, labels),
        "silhouette": (silhouette_score(vectors, labels, sample_size=10_000, random_state=0) + 1) / 2
        if len(labels) > 10_000
        else (silhouette_score(vectors, labels) + 1) / 2,
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
        result[f"{name}_f1"] = f1_score(labels[unseen], guess, average="macro", zero_division=0)
        result[f"{name}_accuracy"] = accuracy_score(labels[unseen], guess)
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
        nmi.append(normalized_mutual_info_score(labels, graph.obs["leiden"]))
        ari.append(adjusted_rand_score(labels, graph.obs["leiden"]))
    return {"nmi": max(nmi), "ari": max(ari)}


def batch_mixing(vectors: np.ndarray, batches: np.ndarray) -> float:
    """How many of a cell's 15 neighbours come from other batches, over what chance would give: 0 apart, 1 mixed."""
    _, codes = np.unique(batches, return_inverse=True)
    nearest = (
        NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(vectors).kneighbors(vectors, return_distance=False)[:, 1:]
    )
    other = (codes[nearest] != codes[:, None]).mean()
    share = np.bincount(codes) / len(codes)
    return float(min(1.0, other / max(1e-12, 1 - (share**2).sum())))
