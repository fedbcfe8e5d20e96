"""What training a config would take, before it starts: parameters, memory, disk, time and cost, here or on a card."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import psutil

from ..config import PRESETS, Config, load_config
from ..data.read import CHUNK
from ..data.store import Store
from ..errors import InputError
from ..hardware.gpus import Card
from ..hardware.gpus import machines as rented_machines
from ..model import on_grid
from ..versions import versions
from .advice import cost_if, levers, max_batch_size
from .memory import STARTED, command_bytes
from .target import Cost, Target, card_target, cost, named, precision_of, this_machine
from .workload import Workload, cells_like, parameters, workload


def estimate(
    config: Config,
    *,
    cells: int | None = None,
    data: str | Path | ad.AnnData | None = None,
    genes_per_cell: float | None = None,
    gpu: str | None = None,
    device: str = "auto",
    seconds: float = 4.0,
) -> dict[str, Any]:
    """What training `config` takes.

    Args:
        config: what would be trained.
        cells: in the data set, held-out ones included; the data's own, else 10,000.
        data: a path, `AnnData`, name or store to look at; without it, cells like PBMC3k's stand in.
        genes_per_cell: expressed genes of a cell on average, where there are no data.
        gpu: a card of `gpus.yaml`; this machine when unset.
        device: of this machine: auto, cpu, cuda or mps.
        seconds: of calibration.

    Returns:
        Ready for JSON: `parameters`, `parameters_by_component`, `memory_bytes` and `memory_available` (bytes), `fits`,
        `ram_bytes`, `embed_bytes` and `evaluate_bytes` (of RAM at the peak), `disk_bytes`, `notes` (on a card's
        figures), `seconds` (low, typical, high), `seconds_per_epoch`, `cost_usd` (None here, or where nobody rents the
        card), `rented`, `max_batch_size`, `levers`, and what was assumed: `target`, `precision`, `cells`, `genes`,
        `config`, `versions`.

    Raises:
        InputError: unknown card, bad data, or fewer than two cells.
    """
    config = config.model_copy(deep=True)
    python = min(psutil.Process().memory_info().rss, int(1e9))  # the same libraries; more than that is somebody's data
    store, cells, source = cells_like(config, cells, data, genes_per_cell)
    config.model.n_genes = store.n_tokens if data is not None else config.model.n_genes
    work, batches = workload(config, store, cells)
    genes = work.longest.genes
    target = card_target(gpu) if gpu else this_machine(config, batches, genes, device, seconds)
    here = cost(target, config, work)
    total = here.memory_bytes["total"]
    rented = rented_for(target.card, here.seconds) if target.card else []
    paid = [machine for machine in rented if machine["usd"][1] > 0]
    count = parameters(config.model, genes)
    return {
        "target": target.name,
        "precision": precision_of(target, config.training),
        "parameters": sum(count.values()),
        "parameters_by_component": count,
        "memory_bytes": here.memory_bytes,
        "memory_available": target.memory_bytes,
        "fits": None if target.room is None else total <= target.room,
        "ram_bytes": ram_bytes(python, target, here, work, config),
        **{f"{name}_bytes": python + size for name, size in later_bytes(config, store, cells).items()},
        "disk_bytes": disk_bytes(config, cells, store),
        "notes": notes(target, here),
        "seconds": named(here.seconds),
        "seconds_per_epoch": here.seconds[1] / config.training.num_epochs,
        "cost_usd": {"low": min(m["usd"][0] for m in paid), "high": max(m["usd"][1] for m in paid)} if paid else None,
        "rented": rented,
        "max_batch_size": max_batch_size(target, config, work),
        "levers": levers(target, config, work, cells),
        "cells": cells,
        "genes": {
            "source": source,
            "all": genes,
            "mean_per_cell": round(float(np.diff(store.indptr).mean()), 1),
            "mean_per_half": round(work.mean_genes, 1),
            "longest_half": work.longest.expressed,
            "tokens_per_half": round(work.mean_tokens, 1),
            "tokens_in_longest_half": work.longest.tokens,
        },
        "calibration": None if target.speed is None else {"steps": target.speed.steps},
        "config": config.model_dump(),
        "versions": versions(),
    }


def best_fit(
    *,
    budget_bytes: float | None,
    deadline_seconds: float | None,
    cells: int | None = None,
    epochs: int | None = None,
    data: Any = None,
    mean_genes: float | None = None,
    gpu: str | None = None,
    device: str = "auto",
    presets: tuple[str, ...] = PRESETS,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The largest preset that keeps to a budget of memory and a deadline, and the keys to set for it.

    Tried for each preset, from the largest: batches of 32 cells down to 1 with accumulation in their place, then the
    same with gradient checkpointing. Where even the smallest is too slow, cells are left out.

    Args:
        budget_bytes: of the target's memory; what is there when unset.
        deadline_seconds: for all epochs, by the typical estimate.
        cells: as in `estimate`, like the others.
        epochs: the preset's own when unset.
        data: as in `estimate`.
        mean_genes: as in `estimate`.
        gpu: as in `estimate`.
        device: as in `estimate`.
        presets: that may be chosen.
        say: told what is looked at: it may take a minute.

    Raises:
        InputError: nothing fits; the line says what the smallest takes.
    """
    smallest: tuple[int, float] | None = None
    ordered = sorted(presets, key=lambda preset: -PRESETS.index(preset) if preset in PRESETS else 0)
    for name in ordered:
        config = load_config(name, {"training.num_epochs": epochs} if epochs else None)
        store, total, _ = cells_like(config, cells, data, mean_genes)
        config.model.n_genes = store.n_tokens if data is not None else config.model.n_genes
        work, batches = workload(config, store, total)
        target = card_target(gpu) if gpu else this_machine(config, batches, work.longest.genes, device, seconds=2.0)
        budget = budget_bytes or target.room or float("inf")
        effective = config.training.batch_size
        for checkpointing in (False, True):
            say(f"looking at {name}{', with gradient checkpointing' if checkpointing else ''}")
            size = effective
            while size >= 1:
                changes = {"training.batch_size": size, "training.gradient_accumulation_steps": effective // size}
                changes["training.gradient_checkpointing"] = checkpointing
                found = cost_if(target, config, work, changes, exact=False)
                if found.memory_bytes["total"] < 1.2 * budget:  # else it is far from fitting, and a trace takes seconds
                    found = cost_if(target, config, work, changes)
                bytes_, seconds = found.memory_bytes["total"], found.seconds[1]
                smallest = min(smallest or (bytes_, seconds), (bytes_, seconds))
                if bytes_ <= budget:
                    break
                size //= 2
            else:
                continue
            fewer = 1.0 if deadline_seconds is None else deadline_seconds / seconds
            if fewer < 1 and name != ordered[-1]:
                break  # too slow: a smaller preset may do
            if fewer < 1:
                changes["data.n_obs"] = int(total * fewer)
                if changes["data.n_obs"] < 2:
                    break
            same = config.training.model_dump()
            settings = {k: v for k, v in changes.items() if same.get(k.removeprefix("training.")) != v}
            settings |= {"training.num_epochs": epochs} if epochs else {}
            pairs = [f"{key}={str(value).lower()}" for key, value in settings.items()]
            return {
                "target": target.name,
                "preset": name,
                "set": pairs,
                "memory_bytes": found.memory_bytes,
                "seconds": named([s * min(1.0, fewer) for s in found.seconds]),
                "cells": changes.get("data.n_obs", total),
                "command": f"scfm train --preset {name} " + " ".join(f"--set {pair}" for pair in pairs),
            }
    raise InputError(
        f"nothing fits: the smallest tried takes {smallest[0] / 1e9:.2f} GB and {smallest[1] / 60:.0f} minutes; "
        "raise --budget-vram or --deadline, or give fewer cells with --cells"
    )


def notes(target: Target, here: Cost) -> list[str]:
    """What must be known of an estimate: when it was timed; for a card, that nobody did, its pace and its kernels."""
    card = target.card
    if card is None:
        return ["real steps, timed just now: with another program on these cores it would say more"]
    found = ["from published figures: never measured on a card"]
    if here.pace != "the card":
        found.append(f"the pace is set by {here.pace}: a faster card would change nothing, larger batches would")
    if not card.has_kernels:
        capability = f"compute capability {card.compute_capability}"
        found.append(f"UNUSABLE: torch from PyPI has no kernels for the {card.name} ({capability}; 7.5 is the least)")
    return found


def ram_bytes(python: int, target: Target, here: Cost, work: Workload, config: Config) -> dict[str, int]:
    """Bytes of system memory for the run: Python with its libraries, prepared batches, and on a CPU the training."""
    parts = {
        "python": python + int(STARTED["train"]),
        "batches": (2 + 2 * config.training.num_workers) * work.batch_bytes,  # one is made while one is used; torch's 2
        "training": here.memory_bytes["total"] if target.kind != "cuda" else 0,
    }
    return parts | {"total": sum(parts.values())}


def later_bytes(config: Config, store: Store, cells: int) -> dict[str, int]:
    """Bytes of system memory for `embed` and `evaluate` of so many cells like the store's, on a CPU."""
    expressed, tokens = float(np.diff(store.indptr).mean()), on_grid(int(store.tokens.max()))
    at_a_time = {"embed": min(cells, CHUNK), "evaluate": cells}
    return {
        command: command_bytes(command, config, len(store.symbols), tokens, count * expressed)
        for command, count in at_a_time.items()
    }


def disk_bytes(config: Config, cells: int, store: Store) -> dict[str, int]:
    """Bytes on disk: the store (6 a gene, 31 a cell), and checkpoints.

    A checkpoint holds the weights (with patience the best ones too), AdamW's two averages of each, the PCA start, and
    about 50 bytes a gene of names.
    """
    per_cell = 6 * float(np.diff(store.indptr).mean()) + 31
    model, genes = config.model, len(store.symbols)
    start = genes * (4 * (model.gene_embedding_dim + 1) + 50)
    copies = 3 if config.training.patience is None else 4
    one = copies * 4 * sum(parameters(model, genes).values()) + start
    parts = {"store": int(cells * per_cell), "checkpoints": (config.training.keep_checkpoints + 1) * one}
    return parts | {"total": sum(parts.values())}


def rented_for(card: Card, seconds: Sequence[float]) -> list[dict[str, Any]]:
    """Machines with the card, cheapest first: US dollars (low, high), sessions needed, source."""
    rows = []
    for machine in rented_machines():
        if machine.card != card.name:
            continue
        low, high = machine.usd_per_hour
        rows.append(
            {
                "machine": machine.name,
                "usd_per_hour": [low, high],
                "usd": [round(low * seconds[0] / 3600, 4), round(high * seconds[2] / 3600, 4)],
                "session_hours": machine.session_hours,
                "fits_one_session": None if not machine.session_hours else seconds[2] <= 3600 * machine.session_hours,
                "priced": machine.priced,
                "source": machine.source,
            }
        )
    return sorted(rows, key=lambda row: row["usd"][1])
