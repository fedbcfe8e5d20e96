"""Genes for the report: what tells the clusters apart, and which lineages' markers are no tokens of a model."""

import warnings
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import yaml

from ..hardware.threads import torch_threads_kept
from ..scores.clusters import neighbour_graph

RESOLUTION = 1.0  # Leiden's usual one: here nothing is chosen by the labels
MOST_CELLS = 5_000  # of more, a random part is looked at: the leading markers are the same
LEAST_CELLS = 3  # a smaller cluster has no markers to speak of
MARKERS = 5


@torch_threads_kept()
def cluster_markers(adata: ad.AnnData, vectors: np.ndarray, labels: pd.Series) -> list[dict[str, Any]]:
    """Clusters of the vectors with their markers, the largest first: Leiden, then scanpy's `rank_genes_groups`.

    Markers are found by Wilcoxon's test of log1p counts per 10,000, each cluster against all other cells.

    Args:
        adata: cells with `layers["counts"]` (cells, genes).
        vectors: (cells, dimensions).
        labels: (cells,), missing ones among them.

    Returns:
        A row a cluster: `cells`, the commonest `label`, its `share` of the labelled cells, `markers` (symbols, the
        clearest first).
    """
    import scanpy as sc

    rows = np.arange(adata.n_obs)
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_CELLS, replace=False))
    graph = neighbour_graph(vectors[rows])
    sc.tl.leiden(graph, resolution=RESOLUTION, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    clusters, own = graph.obs["leiden"], labels.iloc[rows]
    cells = ad.AnnData(adata.layers["counts"][rows].copy(), obs=pd.DataFrame({"cluster": clusters}), var=adata.var[[]])
    sizes = clusters.value_counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        large = [name for name, size in sizes.items() if size >= LEAST_CELLS]
        if len(sizes) > 1 and large:
            sc.tl.rank_genes_groups(cells, "cluster", groups=large, method="wilcoxon", n_genes=MARKERS)
    found = []
    for name, size in sizes.items():
        known = own[(clusters == name).to_numpy()].dropna().value_counts(normalize=True)
        markers = list(cells.uns["rank_genes_groups"]["names"][name]) if len(sizes) > 1 and name in large else []
        label, share = (str(known.index[0]), float(known.iloc[0])) if len(known) else ("", 0.0)
        found.append({"cells": int(size), "label": label, "share": share, "markers": markers})
    return found


def lineage_markers() -> dict[str, list[str]]:
    """Lineages and the genes by which people know them, as in `lineage_markers.yaml`."""
    return yaml.safe_load(files(__package__).joinpath("lineage_markers.yaml").read_text(encoding="utf-8"))


def markers_without_token(symbols: Sequence[str], n_tokens: int) -> tuple[int, dict[str, list[str]]]:
    """How many known markers a model hears, and by lineage those that are no tokens.

    Args:
        symbols: the genes it hears (genes,), tokens first.
        n_tokens: how many of them are tokens.
    """
    place = {str(symbol).upper(): number for number, symbol in enumerate(symbols)}
    heard = {lineage: [g for g in genes if g in place] for lineage, genes in lineage_markers().items()}
    missing = {lineage: [g for g in genes if place[g] >= n_tokens] for lineage, genes in heard.items()}
    return sum(map(len, heard.values())), {lineage: genes for lineage, genes in missing.items() if genes}
