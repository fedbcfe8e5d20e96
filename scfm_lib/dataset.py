"""From a store to batches: cells of similar length together, every cell's molecules split in two.

Each molecule of a cell goes to half A or half B by the toss of a coin. The halves are two independent samples of the
same cell (count splitting: Neufeld et al., Biostatistics 2022), so predicting B from A can only succeed by knowing
what kind of cell this is; noise cannot be copied. Splitting genes instead of molecules was measured and is worse
(CONTRIBUTING.md).

Nothing random comes from a running state: the order of cells is drawn from (seed, epoch), and how a gene's coins fall
follows from (seed, epoch, cell, gene). Batch number i is the same whoever asks for it, in whatever order, with any
number of workers or processes. That is what makes a resumed run equal to the bit.
"""

from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .data.coins import split_cells
from .data.store import Store
from .model import on_grid
from .runtime.distributed import ALONE, Distributed

TARGET_SUM = 1e4  # values are log1p of counts per 10,000, as in scanpy's tutorials
Counts = TypeVar("Counts", np.ndarray, sp.csr_matrix)
LET_GO = 16  # batches after which a worker gives back the pages of the store that it read
WINDOW = 2048  # cells inside which they are sorted by tokens; by the coins, a sixth is padding still


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
        return min(self.genes.shape[1], on_grid(int(self.tokens.max())))

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
        """So many micro-batches; fewer, where there are fewer half cells."""
        pieces = np.array_split(np.arange(len(self.cells)), min(parts, len(self.cells)))
        rows = [slice(piece[0], piece[-1] + 1) for piece in pieces]
        return [replace(self, tokens=self.tokens[r], **{name: t[r] for name, t in self._tensors()}) for r in rows]


class HalfCells(Dataset):
    """Item `step` is the batch of that optimizer step: both halves of about `cells_per_step` cells.

    Over an epoch every cell is used exactly once, as two halves.

    Args:
        store: where the counts are.
        cells: numbers of the cells to use (cells,); those that are not held out when unset.
        cells_per_step: cells per optimizer step.
        seed: of order and coins.
        token_share: a half shows no more tokens than this share of what cells of the step have; which ones is random.
        distributed: an item is this process's share of the batch: the halves of every so many-th cell.
    """

    def __init__(
        self,
        store: Store,
        cells: np.ndarray | None,
        cells_per_step: int,
        seed: int,
        token_share: float = 1.0,
        distributed: Distributed = ALONE,
    ):
        self.store, self.seed, self.token_share, self.distributed = store, seed, token_share, distributed
        self._given, self._shuffled = cells, (-1, np.zeros(0, dtype=np.uint32))  # of which epoch, in its order
        self._made = 0  # batches since pages were given back, by this worker
        count = int((~store.held_out).sum()) if cells is None else len(cells)
        self.cells_per_step = min(cells_per_step, count)
        self.steps_per_window = max(1, WINDOW // self.cells_per_step)
        self.steps_per_epoch = -(-count // self.cells_per_step)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker that is spawned: it makes the epoch's order anew."""
        return vars(self) | {"_shuffled": (-1, None)}

    @property
    def cells(self) -> np.ndarray:
        """Numbers of the cells in use (cells,)."""
        return np.flatnonzero(~self.store.held_out) if self._given is None else self._given

    def cells_of(self, step: int) -> np.ndarray:
        """The cells of a step (cells,), in all processes: neighbours in a window of the epoch sorted by tokens."""
        epoch, in_epoch = divmod(int(step), self.steps_per_epoch)
        if self._shuffled[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.cells.astype(np.uint32))
            self._shuffled = (epoch, order)
        window, position = divmod(in_epoch, self.steps_per_window)
        size = self.steps_per_window * self.cells_per_step
        cells = self._shuffled[1][window * size : (window + 1) * size]
        cells = cells[np.argsort(self.store.tokens[cells], kind="stable")]  # padded tokens would be dear
        groups = -(-len(cells) // self.cells_per_step)
        group = np.random.default_rng([self.seed, epoch, window]).permutation(groups)[position]
        return cells[group * len(cells) // groups : (group + 1) * len(cells) // groups]

    def molecules(self, step: int) -> float:
        """Molecules to predict in a step, by all processes."""
        return float(self.store.molecules[self.cells_of(step)].sum(dtype=np.int64))

    def __getitem__(self, step: int) -> Batch:
        cells = self.cells_of(step)
        self._made = (self._made + 1) % LET_GO
        if self._made == 0:
            self.store.let_go()
        mine = self.distributed.shard(cells)
        most = None if self.token_share == 1 else on_grid(round(self.token_share * self.store.tokens[cells].mean()))
        batch = self.halves(mine if len(mine) else cells[:1], int(step) // self.steps_per_epoch, most)
        # a process without cells is idle, but it keeps step
        return batch if len(mine) else replace(batch, target_counts=torch.zeros_like(batch.target_counts))

    def halves(self, cells: np.ndarray, epoch: int, most_tokens: int | None = None) -> Batch:
        """Both halves of these cells as they fall in an epoch, every A, then every B; with so many tokens at most."""
        store, count = self.store, len(cells)
        seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        shown = np.array([store.n_tokens, store.n_tokens if most_tokens is None else most_tokens])
        genes, both, tokens = split_cells(*store.rows(cells), cells, seed, shown)
        cells = np.tile(cells, 2)
        values = log_normalise(both, store.library_size[cells] / 2)
        targets = np.roll(genes, count, axis=0), np.roll(both, count, axis=0)
        arrays = (genes, values, *targets, cells.astype(np.int64), store.batch[cells].astype(np.int64))
        return Batch(*(torch.from_numpy(a) for a in arrays), tokens)


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
