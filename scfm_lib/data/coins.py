"""Coins without a running state: how they fall follows from a number, which whoever needs them can work out alone."""

import numpy as np


def scramble(numbers: np.ndarray) -> np.ndarray:
    """64 random bits for each number (uint64), neighbours' unrelated: SplitMix64 (Steele, Lea and Flood 2014)."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def heads(coins: np.ndarray, words: np.ndarray) -> np.ndarray:
    """How many of so many coins fall heads, (nonzeros,) int64: the ones among as many bits of random numbers."""
    bits = np.minimum(coins, 63).astype(np.uint64)
    found = np.bitwise_count(words & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    more = np.flatnonzero((coins > 63) & (coins <= 10_000))
    if len(more):
        found[more] += heads(coins[more] - 63, scramble(words[more]))
    for gene in np.flatnonzero(coins > 10_000):  # as in bulk samples: 63 at a time would take long
        found[gene] = np.random.default_rng(int(words[gene])).binomial(int(coins[gene]), 0.5)
    return found


def shuffled(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Places (n,) such that what lies there is in random order within each row: (n,), ascending; words (n,) decide."""
    row_bits, place_bits = (np.uint64(int(most).bit_length()) for most in (rows.max(initial=1), len(rows)))
    below = (np.uint64(1) << place_bits) - np.uint64(1)
    key = (rows.astype(np.uint64) << (np.uint64(64) - row_bits)) | (scramble(words) >> row_bits)
    return np.sort((key & ~below) | np.arange(len(rows), dtype=np.uint64)) & below  # sorting is faster than argsort
