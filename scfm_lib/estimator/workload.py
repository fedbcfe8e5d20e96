"""What training computes: parameters and operations by formula, and what an epoch over your cells looks like.

Each formula stands for a few lines of `model.py` and is checked against the built model (tests/estimator). All genes
of the data are read and predicted, `n_genes` of them are tokens. Without data, typical cells stand for yours: with as
many expressed genes as the cells of PBMC3k, or as many as you say, out of `NOMINAL_GENES`.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..config import Config, DataConfig, ModelConfig
from ..data.read import open_cells
from ..data.sources import find_data
from ..data.store import ARRAYS, Store, open_store, prepare
from ..dataset import WINDOW, Batch, HalfCells
from ..errors import InputError
from ..model import VALUE_WIDTH
from ..train import VALIDATION_CELLS

NOMINAL_GENES = 20_000  # of a human data set after `min_cells`: stands for all of its genes where no data are at hand
# Tokens of a cell of PBMC3k (10x Genomics, 2,638 cells), on average, after `prepare` with so many highly variable
# genes; the last is all of its genes.
PBMC3K = {1000: 112, 2000: 198, 5000: 298, 13714: 847}
SPREAD = 0.36  # standard deviation of the log of that number (0.32 to 0.37)
COUNT_SHARES = {1: 0.70, 2: 0.13, 3: 0.04, 4: 0.02, 5: 0.015, 10: 0.095}  # of its nonzero counts, larger ones as 10
SAMPLE_PARTS = 4  # runs of neighbouring cells, spread over the file, that stand for the whole of it


def parameters(config: ModelConfig, genes: int = NOMINAL_GENES) -> dict[str, int]:
    """Exact number of parameters of each component, without building the model; their sum is the model's.

    h is `hidden_dim`, e `gene_embedding_dim`, f `ff_dim`. A linear layer from a to b has a * b weights and b biases, a
    layer norm of width h has 2 h.

    Args:
        config: the dimensions.
        genes: all genes of the data, of which `n_genes` are tokens; no fewer than these.
    """
    e, h, f, genes = config.gene_embedding_dim, config.hidden_dim, config.ff_dim, max(genes, config.n_genes)
    return {
        "bag_of_genes": genes * e + e * h,
        "gene_embedding": config.n_genes * e,
        "gene_to_token": e * 2 * h,
        "value_network": 2 * VALUE_WIDTH + VALUE_WIDTH * h + h,
        "cell_token": h,
        "attention": config.num_layers * ((h * 3 * h + 3 * h) + (h * h + h)),
        "feed_forward": config.num_layers * ((h * f + f) + (f * h + h)),
        "norms": (2 * config.num_layers + 1) * 2 * h,
        "decoder": (h * e + e) + genes * e + genes,
    }


def training_flops(config: ModelConfig, tokens: Tensor, genes: int = NOMINAL_GENES) -> float:
    """Floating-point operations of a pass forth and back over half cells with these many tokens (halves,).

    Those of matrix products on real tokens; a multiply and an add are two, the backward pass is twice the forward
    (Kaplan et al. 2020, appendix B), once where no gradient is asked for, as of the bag's (halves, genes). Padding and
    recomputation are not counted, nor the optimizer's few operations a weight.
    """
    tokens = (tokens + 1).double()  # and [CELL]
    h, f, width = config.hidden_dim, config.ff_dim, config.gene_embedding_dim
    whole_block = (2 * tokens * (4 * h * h + 2 * h * f) + 4 * tokens.square() * h).sum()
    last_block = (2 * tokens * 2 * h * h + 2 * (2 * h * h + 2 * h * f) + 4 * tokens * h).sum()  # [CELL]'s row alone
    embedding = 2 * config.n_genes * width * 2 * h + (2 * tokens * VALUE_WIDTH * (1 + h)).sum()
    bag = len(tokens) * 2 * width * (genes * 2 / 3 + h)
    decoder = len(tokens) * 2 * width * (h + genes)
    return float(3 * (whole_block * (config.num_layers - 1) + last_block + embedding + bag + decoder))


def genes_per_cell(n_genes: int) -> float:
    """Tokens of a typical cell, where `n_genes` can be; between the measured points by power law."""
    sizes, means = np.log(list(PBMC3K)), np.log(list(PBMC3K.values()))
    wanted = np.log(n_genes)
    if wanted < sizes[0]:
        return PBMC3K[1000] * n_genes / 1000
    return float(np.exp(np.interp(wanted, sizes, means)))


def typical_store(n_genes: int, mean_genes: float | None = None, cells: int = 2048, seed: int = 0) -> Store:
    """A store in memory whose cells express `mean_genes` of `NOMINAL_GENES` on average; which ones is random.

    Args:
        n_genes: that can be tokens.
        mean_genes: per cell, tokens among them in the proportion of PBMC3k; as in PBMC3k when unset.
        cells: how many.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    genes_in_all, typical = max(NOMINAL_GENES, n_genes), max(PBMC3K.values())
    mean = mean_genes or typical
    size = rng.lognormal(-(SPREAD**2) / 2, SPREAD, cells)  # of a cell: its tokens and its other genes grow together
    lengths = (mean * size).round().clip(1, genes_in_all)
    tokens = (mean * size * genes_per_cell(n_genes) / typical).round().clip(1, np.minimum(lengths, n_genes))
    others = (lengths - tokens).clip(0, genes_in_all - n_genes).astype(np.int64)
    parts = [
        (rng.choice(n_genes, token, replace=False), n_genes + rng.choice(genes_in_all - n_genes, other, replace=False))
        for token, other in zip(tokens.astype(np.int64), others, strict=True)
    ]
    genes = np.concatenate([np.sort(part) for cell in parts for part in cell])
    counts = rng.choice(list(COUNT_SHARES), size=len(genes), p=list(COUNT_SHARES.values()))
    indptr = np.concatenate([[0], np.cumsum(tokens.astype(np.int64) + others)])
    return Store(
        dir=Path(),
        symbols=np.array([f"gene {number}" for number in range(genes_in_all)], dtype=object),
        ensembl=np.full(genes_in_all, "", dtype=object),
        n_tokens=n_genes,
        batches=[],
        report=[],
        data_config=DataConfig(validation_fraction=0.0),
        indptr=indptr,
        genes=genes.astype(np.uint16),
        counts=counts.astype(np.uint32),
        tokens=tokens.astype(np.uint16),
        molecules=np.add.reduceat(counts, indptr[:-1]).astype(np.uint32),
        library_size=np.add.reduceat(counts, indptr[:-1]).astype(np.float32),
        held_out=np.zeros(cells, dtype=bool),
        dataset=np.zeros(cells, dtype=np.uint16),
        batch=np.zeros(cells, dtype=np.uint16),
        names=np.arange(cells, dtype=np.uint64),
    )


def cells_like(
    config: Config, cells: int | None, data: str | Path | ad.AnnData | None, mean_genes: float | None
) -> tuple[Store, int, str]:
    """A store of a few thousand cells that stand for the data, how many cells there are, and where that comes from."""
    if cells is not None and cells < 2:
        raise InputError(f"--cells {cells} is fewer than two; give the number of cells in the data set")
    if mean_genes is not None and not 1 <= mean_genes <= NOMINAL_GENES:
        raise InputError(f"--genes-per-cell {mean_genes:g} is not between 1 and {NOMINAL_GENES:,}, all genes of a cell")
    if data is None:
        wanted = cells or 10_000
        if config.data.n_obs:
            wanted = min(wanted, config.data.n_obs)
        learned = round(wanted * (1 - config.data.validation_fraction))
        store = typical_store(config.vocabulary_size, mean_genes, cells=max(2, min(learned, WINDOW)))
        return store, wanted, "given" if mean_genes else "as in PBMC3k"
    path = find_data(data)
    if not isinstance(path, ad.AnnData) and (Path(path) / "store.json").exists():
        store = open_store(path)
        return store, cells or len(store), f"store {path}"
    opened = open_cells(path, config.data.layer)
    total, size = opened.shape[0], 2 * WINDOW // SAMPLE_PARTS
    starts = [0] if total <= size * SAMPLE_PARTS else np.linspace(0, total - size, SAMPLE_PARTS).astype(int)
    size = total if len(starts) == 1 else size
    counts = sp.vstack([opened.rows(s, s + size) for s in starts], format="csr")
    names = np.concatenate([np.asarray(opened.names[s : s + size], dtype=object) for s in starts])
    # numbered, since 10x has symbols that stand for two ids: `prepare` finds both kinds of names in the columns
    genes = pd.DataFrame({"gene_symbols": opened.symbols, "ensembl_id": opened.ensembl})
    genes.index = genes.index.astype(str)
    some = np.diff(counts.indptr) > 0
    sample = ad.AnnData(counts[some], obs=pd.DataFrame(index=names[some]), var=genes)
    with tempfile.TemporaryDirectory() as folder:
        lean = config.model_copy(deep=True)
        lean.data.n_obs = lean.data.layer = lean.data.batch_key = None  # of the cells, counts alone are taken
        seen_in = lean.data.preprocessing.min_cells * counts.shape[0] / total  # a part of the cells has part of these
        lean.data.preprocessing.min_cells = max(1, round(seen_in))
        store = prepare([sample], lean, Path(folder) / "store")
        # the folder is deleted, so the arrays are taken into memory
        store = replace(store, **{name: np.array(getattr(store, name)) for name in ARRAYS})
    kept = round(total * len(store) / counts.shape[0])
    kept = min(kept, config.data.n_obs) if config.data.n_obs else kept
    return store, cells or kept, f"{opened.name}: {counts.shape[0]:,} of {total:,} cells looked at"


@dataclass(frozen=True)
class Shape:
    """Of what a forward pass gets, and of the model's outer sides: all that memory depends on beside the config."""

    rows: int  # half cells
    tokens: int  # of the longest of them
    expressed: int  # genes of the longest of them, tokens or not
    targets: int  # genes of the longest half that is predicted
    genes: int  # all that are read and predicted


@dataclass(frozen=True)
class Workload:
    """What an epoch of half cells looks like, by the shapes of its batches."""

    longest: Shape  # the most of each in any forward pass
    average: Shape  # padding included
    mean_tokens: float  # of a half cell
    mean_genes: float  # expressed genes of a half cell, tokens among them
    flops: float  # of a training step, on average
    loader_seconds: float  # to prepare a step's batch here: the median, so that a busy moment does not count
    batch_bytes: int  # of the largest batch of a step
    steps_per_epoch: int
    validation_flops: float  # after each epoch: forward passes over held-out cells, a third of training's each


def padded_flops(model: ModelConfig, parts: list[Batch], genes: int) -> float:
    """Floating-point operations of a training step on these micro-batches, padding included."""
    return sum(training_flops(model, torch.full((len(b.cells),), b.most_tokens), genes) for b in parts)


def workload(config: Config, store: Store, cells: int) -> tuple[Workload, list[Batch]]:
    """What training looks like on so many cells like the store's, and the batches of its first window, shuffled."""
    settings, genes = config.training, len(store.symbols)
    cells_per_step = settings.batch_size * settings.gradient_accumulation_steps
    halves = HalfCells(store, None, cells_per_step, settings.seed, settings.token_share)
    batches, seconds = [], []
    for step in range(min(halves.steps_per_window, halves.steps_per_epoch)):
        started = time.perf_counter()
        batches.append(halves[step])
        seconds.append(time.perf_counter() - started)
    split = [batch.split(settings.gradient_accumulation_steps) for batch in batches]
    sides = np.array([(b.most_tokens, b.genes.shape[1], b.target_genes.shape[1]) for parts in split for b in parts])
    rows = max(len(part.cells) for parts in split for part in parts)
    flops = sum(padded_flops(config.model, parts, genes) for parts in split) / len(batches)
    held_out = round(cells * config.data.validation_fraction)
    per_cell = flops / halves.cells_per_step
    return (
        Workload(
            longest=Shape(rows, *map(int, sides.max(0)), genes),
            average=Shape(rows, *map(round, sides.mean(0)), genes),
            mean_tokens=float(np.concatenate([batch.tokens for batch in batches]).mean()),
            mean_genes=float(torch.cat([(batch.values > 0).sum(1) for batch in batches]).float().mean()),
            flops=flops,
            loader_seconds=float(np.median(seconds)),
            batch_bytes=max(sum(t.nbytes for t in vars(batch).values()) for batch in batches),
            steps_per_epoch=-(-(cells - held_out) // halves.cells_per_step),
            validation_flops=min(held_out, VALIDATION_CELLS) * per_cell / 3,
        ),
        batches,
    )


def scaled(work: Workload, old: Config, new: Config) -> Workload:
    """The workload of another config on the same cells: tokens by the profile of PBMC3k, operations by formula."""
    share = genes_per_cell(new.vocabulary_size) / genes_per_cell(old.vocabulary_size)
    batch = new.training.batch_size / old.training.batch_size
    passes = new.training.gradient_accumulation_steps / old.training.gradient_accumulation_steps

    def reshaped(shape: Shape) -> Shape:
        return replace(shape, rows=max(2, round(shape.rows * batch)), tokens=max(1, round(shape.tokens * share)))

    average = reshaped(work.average)
    one, other = (
        training_flops(model, torch.full((shape.rows,), shape.tokens), shape.genes)
        for model, shape in ((old.model, work.average), (new.model, average))
    )
    # recomputing each block's forward pass adds one to the three that a training step counts as
    again = (4 if new.training.gradient_checkpointing else 3) / (4 if old.training.gradient_checkpointing else 3)
    return replace(
        work,
        longest=reshaped(work.longest),
        average=average,
        mean_tokens=work.mean_tokens * share,
        flops=work.flops * other / one * passes * again,
        validation_flops=work.validation_flops * other / one * work.average.rows / average.rows,
        loader_seconds=work.loader_seconds * batch * passes,
        steps_per_epoch=max(1, round(work.steps_per_epoch / (batch * passes))),
    )
