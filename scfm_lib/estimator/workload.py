"""What training computes: parameters and operations by formula, and what an epoch over your cells looks like.

Each formula stands for a few lines of `model.py` and is checked against the built model (tests/estimator). Without
data, typical cells stand for yours: with as many expressed genes as the cells of PBMC3k, or as many as you say.
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

# Expressed vocabulary genes of a cell of PBMC3k (10x Genomics, 2,638 cells), on average, after `prepare` with so many
# highly variable genes; the last is all of its genes.
PBMC3K = {1000: 112, 2000: 198, 5000: 298, 13714: 847}
SPREAD = 0.36  # standard deviation of the log of that number (0.32 to 0.37)
COUNT_SHARES = {1: 0.70, 2: 0.13, 3: 0.04, 4: 0.02, 5: 0.015, 10: 0.095}  # of its nonzero counts, larger ones as 10
SAMPLE_PARTS = 4  # runs of neighbouring cells, spread over the file, that stand for the whole of it


def parameters(config: ModelConfig) -> dict[str, int]:
    """Exact number of parameters of each component, without building the model; their sum is the model's.

    h is `hidden_dim`, e `gene_embedding_dim`, f `ff_dim`, g `n_genes`. A linear layer from a to b has a * b weights and
    b biases, a layer norm of width h has 2 h.
    """
    g, e, h, f = config.n_genes, config.gene_embedding_dim, config.hidden_dim, config.ff_dim
    return {
        "gene_embedding": g * e,
        "gene_to_token": e * 2 * h,
        "value_network": 2 * VALUE_WIDTH + VALUE_WIDTH * h + h,
        "cell_token": h,
        "attention": config.num_layers * ((h * 3 * h + 3 * h) + (h * h + h)),
        "feed_forward": config.num_layers * ((h * f + f) + (f * h + h)),
        "norms": (2 * config.num_layers + 1) * 2 * h,
        "decoder": (h * e + e) + g * e + g,
    }


def training_flops(config: ModelConfig, lengths: Tensor) -> float:
    """Floating-point operations of a training step over half cells with these many genes (halves,).

    Those of matrix products on real tokens; a multiply and an add are two, the backward pass is twice the forward
    (Kaplan et al. 2020, appendix B). Padding and recomputation are not counted.
    """
    tokens = (lengths + 1).double()  # and [CELL]
    h, f, width = config.hidden_dim, config.ff_dim, config.gene_embedding_dim
    whole_block = (2 * tokens * (4 * h * h + 2 * h * f) + 4 * tokens.square() * h).sum()
    last_block = (2 * tokens * 2 * h * h + 2 * (2 * h * h + 2 * h * f) + 4 * tokens * h).sum()  # [CELL]'s row alone
    embedding = 2 * config.n_genes * width * 2 * h + (2 * tokens * VALUE_WIDTH * (1 + h)).sum()
    decoder = len(lengths) * 2 * width * (h + config.n_genes)
    return float(3 * (whole_block * (config.num_layers - 1) + last_block + embedding + decoder))


def genes_per_cell(n_genes: int) -> float:
    """Expressed genes of a typical cell, out of a vocabulary of `n_genes`; between the measured points by power law."""
    sizes, means = np.log(list(PBMC3K)), np.log(list(PBMC3K.values()))
    wanted = np.log(n_genes)
    if wanted < sizes[0]:
        return PBMC3K[1000] * n_genes / 1000
    return float(np.exp(np.interp(wanted, sizes, means)))


def typical_store(n_genes: int, mean_genes: float | None = None, cells: int = 2048, seed: int = 0) -> Store:
    """A store in memory whose cells express `mean_genes` of `n_genes` on average; which ones is random.

    Args:
        n_genes: of the vocabulary.
        mean_genes: per cell; as in PBMC3k when unset.
        cells: how many.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    mean = mean_genes or genes_per_cell(n_genes)
    lengths = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, cells).round().clip(1, n_genes).astype(np.int64)
    genes = np.concatenate([np.sort(rng.choice(n_genes, length, replace=False)) for length in lengths])
    counts = rng.choice(list(COUNT_SHARES), size=len(genes), p=list(COUNT_SHARES.values()))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    names = np.array([f"gene {number}" for number in range(n_genes)], dtype=object)
    return Store(
        dir=Path(),
        symbols=names,
        ensembl=np.full(n_genes, "", dtype=object),
        report=[],
        data_config=DataConfig(validation_fraction=0.0),
        indptr=indptr,
        genes=genes.astype(np.uint16),
        counts=counts.astype(np.uint32),
        library_size=np.add.reduceat(counts, indptr[:-1]).astype(np.float32) * 2,
        held_out=np.zeros(cells, dtype=bool),
        dataset=np.zeros(cells, dtype=np.uint16),
    )


def cells_like(
    config: Config, cells: int | None, data: str | Path | ad.AnnData | None, mean_genes: float | None
) -> tuple[Store, int, str]:
    """A store of a few thousand cells that stand for the data, how many cells there are, and where that comes from."""
    if cells is not None and cells < 2:
        raise InputError(f"--cells {cells} is fewer than two; give the number of cells in the data set")
    if mean_genes is not None and not 1 <= mean_genes <= config.model.n_genes:
        raise InputError(f"--genes-per-cell {mean_genes:g} is not between 1 and model.n_genes = {config.model.n_genes}")
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
    counts = sp.vstack([sp.csr_matrix(opened.counts[s : s + size], dtype=np.float32) for s in starts], format="csr")
    names = pd.concat([opened.obs.iloc[s : s + size] for s in starts]).index
    # numbered, since 10x has symbols that stand for two ids: `prepare` finds both kinds of names in the columns
    genes = pd.DataFrame({"gene_symbols": opened.symbols, "ensembl_id": opened.ensembl})
    genes.index = genes.index.astype(str)
    some = np.diff(counts.indptr) > 0
    sample = ad.AnnData(counts[some], obs=pd.DataFrame(index=names[some]), var=genes)
    with tempfile.TemporaryDirectory() as folder:
        lean = config.model_copy(deep=True)
        lean.data.n_obs, lean.data.layer = None, None
        store = prepare([sample], lean, Path(folder) / "store")
        # the folder is deleted, so the arrays are taken into memory
        store = replace(store, **{name: np.array(getattr(store, name)) for name in ARRAYS})
    kept = round(total * len(store) / counts.shape[0])
    kept = min(kept, config.data.n_obs) if config.data.n_obs else kept
    return store, cells or kept, f"{opened.name}: {counts.shape[0]:,} of {total:,} cells looked at"


@dataclass(frozen=True)
class Workload:
    """What an epoch of half cells looks like, by the shapes of its batches."""

    rows: int  # half cells in a full batch
    longest: tuple[int, int]  # genes of the longest batch and of the halves it predicts
    padded: int  # genes of a batch on average, padding included
    mean_genes: float  # expressed vocabulary genes of a half cell
    flops: float  # of a training step, on average
    loader_seconds: float  # to prepare a step's batch here, on average
    steps_per_epoch: int
    validation_flops: float  # after each epoch: forward passes over held-out cells, a third of training's each


def padded_flops(model: ModelConfig, batch: Batch) -> float:
    """Floating-point operations of a training step on this batch, padding included."""
    return training_flops(model, torch.full((len(batch.cells),), batch.genes.shape[1]))


def workload(config: Config, store: Store, cells: int) -> tuple[Workload, list[Batch]]:
    """What training looks like on so many cells like the store's, and the batches of its first window, shuffled."""
    settings = config.training
    learned = np.flatnonzero(~store.held_out)
    halves = HalfCells(store, learned, settings.batch_size * settings.gradient_accumulation_steps, settings.seed)
    started = time.perf_counter()
    batches = [halves[step] for step in range(min(halves.steps_per_window, halves.steps_per_epoch))]
    seconds = time.perf_counter() - started
    parts = [part for batch in batches for part in batch.split(settings.gradient_accumulation_steps)]
    longest = max(parts, key=lambda part: part.genes.shape[1])
    lengths = torch.cat([(batch.values > 0).sum(1) for batch in batches])
    flops = sum(padded_flops(config.model, part) for part in parts) / len(batches)
    held_out = round(cells * config.data.validation_fraction)
    per_cell = flops / halves.cells_per_step
    return (
        Workload(
            rows=max(len(part.cells) for part in parts),
            longest=(longest.genes.shape[1], longest.target_genes.shape[1]),
            padded=round(sum(part.genes.shape[1] for part in parts) / len(parts)),
            mean_genes=float(lengths.float().mean()),
            flops=flops,
            loader_seconds=seconds / len(batches),
            steps_per_epoch=-(-(cells - held_out) // halves.cells_per_step),
            validation_flops=min(held_out, VALIDATION_CELLS) * per_cell / 3,
        ),
        batches,
    )


def scaled(work: Workload, old: Config, new: Config) -> Workload:
    """The workload of another config on the same cells: genes by the profile of PBMC3k, operations by formula."""
    share = genes_per_cell(new.vocabulary_size) / genes_per_cell(old.vocabulary_size)
    padded = max(1, round(work.padded * share))
    lengths = torch.full((1,), padded), torch.full((1,), work.padded)
    per_half = training_flops(new.model, lengths[0]) / training_flops(old.model, lengths[1])
    batch = new.training.batch_size / old.training.batch_size
    step = batch * new.training.gradient_accumulation_steps / old.training.gradient_accumulation_steps
    # recomputing each block's forward pass adds one to the three that a training step counts as
    passes = [4 if c.training.gradient_checkpointing else 3 for c in (new, old)]
    again = passes[0] / passes[1]
    return replace(
        work,
        rows=max(2, round(work.rows * batch)),
        longest=tuple(max(1, round(genes * share)) for genes in work.longest),
        padded=padded,
        mean_genes=work.mean_genes * share,
        flops=work.flops * per_half * step * again,
        validation_flops=work.validation_flops * per_half,
        loader_seconds=work.loader_seconds * share * step,
        steps_per_epoch=max(1, round(work.steps_per_epoch / step)),
    )
