"""Where training would run, on which cells, and what it takes there."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import yaml

from .batches import WINDOW, Batch
from .cards import Card, find_card
from .cells import open_cells
from .config import Config, InputError, TrainingConfig
from .datasets import find_data
from .hardware import choose_device, choose_precision, precision_rule, prepare_cpu
from .machine import memory as ram
from .memory import formula, memory, trace
from .speed import Speed, Workload, calibrate, card_epoch_seconds, epoch_seconds
from .store import ARRAYS, Store, open_store, prepare
from .typical import typical_store


@cache
def rules() -> dict[str, Any]:
    """`verdicts.yaml`: jobs, thresholds and their reasons."""
    return yaml.safe_load((resources.files("scfm_lib") / "verdicts.yaml").read_text(encoding="utf-8"))


SAMPLE_PARTS = 4  # runs of neighbouring cells, spread over the file, that stand for the whole of it


@dataclass(frozen=True)
class Target:
    """Where training would run."""

    name: str
    kind: str  # cpu, cuda or mps
    memory_bytes: int | None  # what it has for training; None: not known
    card: Card | None = None  # a card by its published figures
    speed: Speed | None = None  # or this machine, as measured

    @property
    def room(self) -> float | None:
        """Bytes that training may take: `memory_share` of `verdicts.yaml`."""
        return None if self.memory_bytes is None else rules()["memory_share"] * self.memory_bytes


@dataclass(frozen=True)
class Cost:
    """What one config takes on a target."""

    memory_bytes: dict[str, int]
    seconds: tuple[float, float, float]  # of all epochs: low, typical, high


def named(values: Sequence[float]) -> dict[str, float]:
    """A range of three by name, as the JSON has it."""
    return dict(zip(("low", "typical", "high"), values, strict=True))


def precision_of(target: Target, training: TrainingConfig) -> str:
    """The precision training would use on the target."""
    if target.card:
        return precision_rule(training, target.kind, target.card.bf16)
    return choose_precision(training, torch.device(target.kind))


def cost(target: Target, config: Config, work: Workload, exact: bool = True) -> Cost:
    """Memory at the longest batch, and time, of a config on a target; at once by formula if not `exact`."""
    precision = precision_of(target, config.training)
    parts = config.training.gradient_accumulation_steps
    sizes = memory(config, work.rows, *work.longest, precision, "cpu" if target.kind == "cpu" else "cuda", exact)
    if target.card:
        one = config.model_copy(deep=True)
        one.training.gradient_accumulation_steps = 1
        shape = (work.rows, work.padded)
        step = (
            trace(one, *shape, work.padded, precision) if exact else formula(one.model, one.training, *shape, precision)
        )
        seconds = card_epoch_seconds(target.card, step, work, parts, precision)
    else:
        seconds = epoch_seconds(target.speed, work, config.training.num_workers)
    return Cost(sizes, tuple(s * config.training.num_epochs for s in seconds))


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
        store = replace(store, **{name: np.array(getattr(store, name)) for name in ARRAYS})  # its folder goes
    kept = round(total * len(store) / counts.shape[0])
    kept = min(kept, config.data.n_obs) if config.data.n_obs else kept
    return store, cells or kept, f"{opened.name}: {counts.shape[0]:,} of {total:,} cells looked at"


def card_target(gpu: str) -> Target:
    """A card of `gpus.yaml` as a target."""
    card = find_card(gpu)
    kind = "cuda" if card.compute_capability else "mps"
    size = None if card.memory_gib is None else int(card.memory_gib * 2**30)
    return Target(card.name, kind, size, card=card)


def this_machine(config: Config, batches: list[Batch], device: str = "auto", seconds: float = 4.0) -> Target:
    """This machine as a target, its speed measured with real steps."""
    prepare_cpu()
    chosen = choose_device(device)
    speed = calibrate(config, batches, chosen, choose_precision(config.training, chosen), seconds)
    if chosen.type == "cuda":
        free, _ = torch.cuda.mem_get_info(chosen)
        return Target(torch.cuda.get_device_name(chosen), "cuda", free, speed=speed)
    name = f"this machine, {torch.get_num_threads()} CPU threads" if chosen.type == "cpu" else "this Mac's GPU"
    return Target(name, chosen.type, ram()["available"], speed=speed)
