"""Are the batches mixed? The local inverse Simpson index (LISI; Korsunsky et al. 2019), as scib-metrics defines it."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from .ranges import Statistic

LISI_NEIGHBOURS = 90  # with the cell itself, as in scib-metrics' benchmark; a third of them is the perplexity
TOLERANCE, TRIES = 1e-5, 50


def neighbour_weights(distances: np.ndarray, perplexity: float) -> np.ndarray:
    """How much each neighbour counts: exp(-beta x distance), rows that sum to 1, (cells, neighbours) as `distances`.

    Beta is found by bisection for each cell, so that the weights have the entropy of `perplexity` equal neighbours.
    """
    nearer = distances - distances.min(1, keepdims=True)  # cancels in the sum; keeps exp from vanishing
    beta, low, high = np.ones(len(nearer)), np.zeros(len(nearer)), np.full(len(nearer), np.inf)
    for _ in range(TRIES):
        weights = np.exp(-nearer * beta[:, None])
        total = weights.sum(1)
        entropy = np.log(total) + beta * (nearer * weights).sum(1) / total
        wide = entropy > np.log(perplexity)
        if (np.abs(entropy - np.log(perplexity)) < TOLERANCE).all():
            break
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
    return weights / total[:, None]


def lisi(vectors: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """How many batches there are around each cell, effectively: (cells,), from 1 to the number of batches.

    Args:
        vectors: (cells, dimensions).
        batches: (cells,).
    """
    _, codes = np.unique(batches, return_inverse=True)
    neighbours = min(LISI_NEIGHBOURS, len(vectors))
    distances, index = NearestNeighbors(n_neighbors=neighbours - 1).fit(vectors).kneighbors()  # without the cell itself
    weights = neighbour_weights(distances, neighbours // 3)
    share = np.stack([(weights * (codes[index] == code)).sum(1) for code in range(codes.max() + 1)])
    return 1 / (share**2).sum(0)


def statistics(vectors: np.ndarray, batches: np.ndarray) -> dict[str, Statistic]:
    """`ilisi` as a function of the cells: (median LISI - 1) / (batches - 1), 0 apart, 1 mixed."""
    around, number = lisi(vectors, batches), len(np.unique(batches))
    return {"ilisi": lambda drawn: float((np.median(around[drawn]) - 1) / (number - 1))}
