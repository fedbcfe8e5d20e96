"""Do groups found without labels follow the labels? Leiden on a graph of neighbours, and k-means."""

import warnings
from collections.abc import Callable
from functools import partial

import anndata as ad
import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ..hardware.threads import torch_threads_kept
from .probes import NEIGHBOURS
from .ranges import Statistic

RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))


@torch_threads_kept()
def neighbour_graph(vectors: np.ndarray) -> ad.AnnData:
    """An `AnnData` whose neighbours are those of the vectors (cells, dimensions), ready for Leiden and UMAP."""
    import scanpy as sc

    graph = ad.AnnData(np.zeros((len(vectors), 1), dtype=np.float32), obsm={"X_scfm": vectors})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(graph, n_neighbors=NEIGHBOURS, use_rep="X_scfm", random_state=0)
    return graph


def leiden_clusters(vectors: np.ndarray) -> list[np.ndarray]:
    """Each cell's cluster (cells,) at every resolution from 0.1 to 2.0 (Traag et al. 2019)."""
    import scanpy as sc

    graph, found = neighbour_graph(vectors), []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        found.append(graph.obs["leiden"].cat.codes.to_numpy().astype(np.int64))
    return found


def kmeans_clusters(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """Each cell's cluster (cells,) by k-means, the best of ten starts: no resolution to choose."""
    return KMeans(clusters, n_init=10, random_state=0).fit_predict(vectors).astype(np.int64)


def statistics(vectors: np.ndarray, labels: np.ndarray) -> dict[str, Statistic]:
    """NMI and ARI, of Leiden at the resolution that is best for each and of k-means, as functions of the cells."""
    names, labels = np.unique(labels, return_inverse=True)  # numbers compare faster than words
    leiden, kmeans = leiden_clusters(vectors), kmeans_clusters(vectors, len(names))
    found: dict[str, Statistic] = {}
    for name, score in (("nmi", normalized_mutual_info_score), ("ari", adjusted_rand_score)):
        best = max(leiden, key=partial(score, labels))
        found[name] = partial(_of_drawn, score, labels, best)
        found[f"kmeans_{name}"] = partial(_of_drawn, score, labels, kmeans)
    return found


def _of_drawn(score: Callable[..., float], labels: np.ndarray, clusters: np.ndarray, drawn: np.ndarray) -> float:
    return float(score(labels[drawn], clusters[drawn]))
