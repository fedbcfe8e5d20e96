"""Do groups found without labels follow the labels? Leiden on a graph of neighbours, and k-means."""

import warnings

import anndata as ad
import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from .probes import NEIGHBOURS
from .ranges import Statistic

RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))


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


def nmi(table: np.ndarray) -> float:
    """Normalised mutual information, over the mean entropy, from counts (labels, clusters)."""
    share = table / table.sum()
    rows, columns = share.sum(1), share.sum(0)
    both = share[share > 0]
    entropy = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (rows, columns)]
    mutual = (both * np.log(both)).sum() + sum(entropy)
    return float(max(0.0, mutual) / np.mean(entropy)) if any(entropy) else 1.0


def ari(table: np.ndarray) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) from counts (labels, clusters)."""
    pairs, rows, columns = ((n * (n - 1) / 2).sum() for n in (table, table.sum(1), table.sum(0)))
    total = table.sum() * (table.sum() - 1) / 2
    chance, most = rows * columns / total, (rows + columns) / 2
    return float((pairs - chance) / (most - chance)) if most != chance else 1.0


def statistics(vectors: np.ndarray, labels: np.ndarray) -> dict[str, Statistic]:
    """NMI and ARI, of Leiden at the resolution that is best for each and of k-means, as functions of the cells."""
    leiden, kinds = leiden_clusters(vectors), len(np.unique(labels))
    by_nmi = max(leiden, key=lambda clusters: normalized_mutual_info_score(labels, clusters))
    by_ari = max(leiden, key=lambda clusters: adjusted_rand_score(labels, clusters))
    kmeans = kmeans_clusters(vectors, kinds)

    def of(score: Statistic, clusters: np.ndarray) -> Statistic:
        width = int(clusters.max()) + 1
        pairs = labels * width + clusters
        return lambda drawn: score(np.bincount(pairs[drawn], minlength=kinds * width).reshape(kinds, width))

    return {
        "nmi": of(nmi, by_nmi),
        "ari": of(ari, by_ari),
        "kmeans_nmi": of(nmi, kmeans),
        "kmeans_ari": of(ari, kmeans),
    }
