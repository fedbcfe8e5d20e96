"""From a store to batches: split every cell's molecules in two, and put halves of similar length together.

Each molecule of a cell goes to half A or half B by the toss of a coin. The halves are two independent samples of the
same cell (count splitting: Neufeld et al., Biostatistics 2022), so predicting B from A can only succeed by knowing
what kind of cell this is; noise cannot be copied. Splitting genes instead of molecules was measured and is worse
(CONTRIBUTING.md).

Everything random is drawn from (seed, epoch, window), never from a running state: batch number i is the same whoever
asks for it, in whatever order, with any number of workers. That is what makes a resumed run equal to the bit.
"""

from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .data.store import Store, ragged

TARGET_SUM = 1e4  # values are log1p of counts per 10,000, as in scanpy's tutorials
Counts = TypeVar("Counts", np.ndarray, sp.csr_matrix)
WINDOW = 2048  # cells inside which halves are sorted by length: enough that padding is a few per cent


@dataclass
class Batch:
    """B half cells, padded to the longest: a position with value 0 is padding, since expressed genes have more."""

    genes: Tensor  # (B, S) int64, vocabulary numbers of all genes that are expressed, those that become tokens first
    values: Tensor  # (B, S) float32, log1p of counts per 10,000
    target_genes: Tensor  # (B, U) int64, genes of the other half
    target_counts: Tensor  # (B, U) float32, their molecules
    cells: Tensor  # (B,) int64, which cell of the store a half belongs to
    batch: Tensor  # (B,) int64, which batch (of the experiment) it is from
    tokens: np.ndarray  # (B,) how many of a row's genes become tokens: they come first

    @property
    def most_tokens(self) -> int:
        """T, the columns of `genes` that hold every token."""
        return max(1, int(self.tokens.max()))

    @property
    def molecules(self) -> Tensor:
        """Molecules to predict, a scalar."""
        return self.target_counts.sum()

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in self._tensors()})

    def pin_memory(self) -> Self:
        """For `DataLoader`: page-locked memory copies to a GPU while it computes."""
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(name, t) for name, t in vars(self).items() if isinstance(t, Tensor)]

    def split(self, parts: int) -> list[Self]:
        """So many micro-batches, each cut to its own longest half.

        Where there are fewer half cells than parts, the last ones have no molecules to predict, so that every process
        has something to compute in every step.
        """
        if parts == 1:
            return [self]
        pieces = []
        for rows in torch.arange(len(self.cells)).tensor_split(min(parts, len(self.cells))):
            read = slice(0, max(1, int((self.values[rows] > 0).sum(1).max())))
            predicted = slice(0, max(1, int((self.target_counts[rows] > 0).sum(1).max())))
            inputs = self.genes[rows, read], self.values[rows, read]
            targets = self.target_genes[rows, predicted], self.target_counts[rows, predicted]
            pieces.append(type(self)(*inputs, *targets, self.cells[rows], self.batch[rows], self.tokens[rows.numpy()]))
        idle = replace(pieces[0], target_counts=torch.zeros_like(pieces[0].target_counts))
        return pieces + [idle] * (parts - len(pieces))


class HalfCells(Dataset):
    """Item `step` is the batch of that optimizer step: both halves of about `cells_per_step` cells.

    Over an epoch every cell is used exactly once, as two halves (they may fall into neighbouring batches).

    Args:
        store: where the counts are.
        cells: numbers of the cells to use (cells,).
        cells_per_step: cells per optimizer step.
        seed: of order and coins.
    """

    def __init__(self, store: Store, cells: np.ndarray, cells_per_step: int, seed: int):
        self.store, self.cells, self.seed = store, cells, seed
        self.cells_per_step = min(cells_per_step, len(cells))
        self.steps_per_window = max(1, WINDOW // self.cells_per_step)
        self.steps_per_epoch = -(-len(cells) // self.cells_per_step)
        self._window: tuple[tuple[int, int], list[Batch]] | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch

    def epoch_ends(self, step: int) -> bool:
        """Whether an epoch is complete after so many steps."""
        return step % self.steps_per_epoch == 0

    def split(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How many of each gene's molecules (nonzeros,) go to half A: a coin for each."""
        return rng.binomial(counts, 0.5)

    def __getitem__(self, step: int) -> Batch:
        epoch, in_epoch = divmod(int(step), self.steps_per_epoch)
        window, position = divmod(in_epoch, self.steps_per_window)
        if self._window is None or self._window[0] != (epoch, window):
            self._window = ((epoch, window), self._make_window(epoch, window))
        return self._window[1][position]

    def _make_window(self, epoch: int, window: int) -> list[Batch]:
        size = self.steps_per_window * self.cells_per_step
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cells))
        chosen = self.cells[order[window * size : (window + 1) * size]]
        rng = np.random.default_rng([self.seed, epoch, window])

        genes, counts, lengths = self.store.rows(chosen)
        half_a = self.split(counts.astype(np.int64), rng)
        owner = np.repeat(np.arange(len(chosen)), lengths)
        pool_genes, pool_counts, pool_lengths, pool_tokens = [], [], [], []
        for half in (half_a, counts - half_a):
            seen = half > 0
            pool_genes.append(genes[seen])
            pool_counts.append(half[seen])
            pool_lengths.append(np.bincount(owner[seen], minlength=len(chosen)))
            pool_tokens.append(np.bincount(owner[seen & (genes < self.store.n_tokens)], minlength=len(chosen)))
        halves = _Halves(
            np.concatenate(pool_genes).astype(np.int64),
            np.concatenate(pool_counts).astype(np.float32),
            np.concatenate([[0], np.cumsum(np.concatenate(pool_lengths))]),
            np.tile(self.store.library_size[chosen] / 2, 2),
            np.tile(chosen, 2),
            np.tile(self.store.batch[chosen], 2),
            np.concatenate(pool_tokens),
        )
        by_length = np.argsort(halves.tokens, kind="stable")  # attention is what padding would make dear
        groups = np.array_split(by_length, -(-len(chosen) // self.cells_per_step))
        rng.shuffle(groups)
        return [halves.batch(group, (group + len(chosen)) % (2 * len(chosen))) for group in groups]


@dataclass
class _Halves:
    """All halves of a window in CSR form: first every A, then every B, so that i and i + n belong together."""

    genes: np.ndarray
    counts: np.ndarray
    indptr: np.ndarray
    library_size: np.ndarray
    cells: np.ndarray
    experiment: np.ndarray
    tokens: np.ndarray

    def batch(self, inputs: np.ndarray, targets: np.ndarray) -> Batch:
        genes, counts = self._padded(inputs)
        target_genes, target_counts = self._padded(targets)
        values = log_normalise(counts, self.library_size[inputs])
        which = (self.cells[inputs].astype(np.int64), self.experiment[inputs].astype(np.int64))
        arrays = (genes, values, target_genes, target_counts, *which)
        return Batch(*(torch.from_numpy(a) for a in arrays), self.tokens[inputs])

    def _padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index, lengths = ragged(self.indptr, rows)
        return pad(self.genes[index], lengths), pad(self.counts[index], lengths)


def pad(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenated rows as a matrix (rows, longest), 0 after the end of each; at least one column."""
    inside = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
    out = np.zeros(inside.shape, dtype=flat.dtype)
    out[inside] = flat
    return out


def log_normalise(counts: Counts, library_size: np.ndarray) -> Counts:
    """log1p of counts per 10,000 molecules, as scanpy's normalize_total and log1p: float32, the shape of `counts`.

    Args:
        counts: (cells, genes or T), sparse or not.
        library_size: molecules of each cell (cells,).
    """
    if sp.issparse(counts):
        values = counts.data * np.repeat(TARGET_SUM / library_size, np.diff(counts.indptr))
        return sp.csr_matrix((np.log1p(values).astype(np.float32), counts.indices, counts.indptr), counts.shape)
    return np.log1p(counts * (TARGET_SUM / library_size[:, None])).astype(np.float32)
