"""Coins without a running state: how they fall follows from a number, which whoever needs them can work out alone.

Compiled (numba), gene by gene: a chain of numpy's operations over a batch took more than twice as long.
"""

import numba
import numpy as np


@numba.njit("uint64(uint64)", cache=True)
def scramble(number: np.uint64) -> np.uint64:
    """64 random bits for a number, its neighbours' unrelated: SplitMix64 (Steele, Lea and Flood 2014)."""
    z = number + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit("uint64(uint64)", cache=True)
def ones(word: np.uint64) -> np.uint64:
    """How many of 64 bits are one: summed in pairs, fours and bytes, whose sum a product leaves in the highest."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (eights * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit("uint64(uint64, uint64)", cache=True)
def heads(coins: np.uint64, word: np.uint64) -> np.uint64:
    """How many of so many coins fall heads: the ones among as many random bits, the first of which are `word`."""
    found = np.uint64(0)
    while coins >= np.uint64(64):
        found += ones(word)
        coins, word = coins - np.uint64(64), scramble(word)
    return found + ones(word & ((np.uint64(1) << coins) - np.uint64(1)))


@numba.njit(cache=True, nogil=True)
def split_cells(
    genes: np.ndarray,
    counts: np.ndarray,
    lengths: np.ndarray,
    cells: np.ndarray,
    seed: np.uint64,
    tokens_of: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every molecule of these cells to half A or half B: the rows of A in the order of the cells, then those of B.

    Args:
        genes: of the cells (nonzeros,), ascending in each.
        counts: their molecules (nonzeros,).
        lengths: how many of them each cell has (cells,).
        cells: their numbers (cells,).
        seed: of the coins; how those of a gene fall follows from it, the cell and the gene.
        tokens_of: two numbers: genes below the first are tokens, and a half shows as many as the second says, a
            random sample. They come first, as they do when all are shown, in ascending order.

    Returns:
        genes (2 cells, longest half) int64, molecules of the same shape, float32, 0 behind a row's end, and how many
        tokens each shows (2 cells,).
    """
    n_tokens, most_tokens, longest, done = tokens_of[0], tokens_of[1], 1, 0
    half_genes = np.zeros((2 * len(cells), lengths.max() + 1), dtype=np.int64)
    molecules = np.zeros(half_genes.shape, dtype=np.float32)
    tokens = np.zeros(2 * len(cells), dtype=np.int64)
    for a, cell in enumerate(cells):
        b, end_a, end_b = a + len(cells), 0, 0
        own = scramble(seed + scramble(np.uint64(cell)))
        for place in range(done, done + lengths[a]):
            gene, count = genes[place], np.uint64(counts[place])
            in_a = heads(count, scramble(own + np.uint64(gene)))
            in_b = count - in_a
            # written in any case and kept if not 0: a processor cannot guess how a coin falls, and guessing is dear
            half_genes[a, end_a], molecules[a, end_a] = gene, in_a
            half_genes[b, end_b], molecules[b, end_b] = gene, in_b
            end_a += in_a > 0
            end_b += in_b > 0
            tokens[a] += (in_a > 0) & (gene < n_tokens)
            tokens[b] += (in_b > 0) & (gene < n_tokens)
        done += lengths[a]
        for half, row, end in ((0, a, end_a), (1, b, end_b)):
            half_genes[row, end], molecules[row, end], longest = 0, 0, max(longest, end)
            word = own ^ np.uint64(half)
            if most_tokens < tokens[row]:
                for place in range(most_tokens):  # one of those that are left comes here
                    word = scramble(word)
                    other = place + np.int64(word % np.uint64(tokens[row] - place))
                    gene, here = half_genes[row, place], molecules[row, place]
                    half_genes[row, place], molecules[row, place] = half_genes[row, other], molecules[row, other]
                    half_genes[row, other], molecules[row, other] = gene, here
                tokens[row] = most_tokens
    return half_genes[:, :longest].copy(), molecules[:, :longest].copy(), tokens
