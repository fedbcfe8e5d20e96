"""The training loop, in the open: prepare, then step by step until the end, a signal or `max_steps`."""

import contextlib
import datetime
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from torch.utils.data import DataLoader

from .batches import HalfCells
from .checkpoint import checkpoint_config, find_checkpoint, load_checkpoint, put_weights, save_checkpoint
from .config import Config, InputError, TrainingConfig, config_text, load_config
from .datasets import find_data
from .hardware import choose_device, choose_precision, describe_device, prepare_cpu, return_freed_memory
from .model import CellTransformer, prediction_loss
from .monitor import Monitor
from .optimize import adamw, autocast, learning_rate, training_step
from .places import work_dir
from .signals import stop_signals
from .start import new_model, pca_start
from .store import Store, open_store, prepare

VALIDATION_CELLS = 5_000  # more would not make the loss clearer, only the epoch longer


@dataclass
class Run:
    """A run as far as it came."""

    dir: Path
    config: Config
    model: CellTransformer
    history: list[dict[str, Any]]  # the rows of metrics.jsonl
    checkpoint: Path
    step: int
    finished: bool
    signal: int | None  # the signal that stopped it, if one did


def train(
    config: Config | str | Path | None = None,
    data: str | Path | ad.AnnData | list[str | Path | ad.AnnData] | None = None,
    *,
    resume: str | Path | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    verbose: bool = True,
    tensorboard: bool = True,
    wandb: bool = False,
    max_steps: int | None = None,
) -> Run:
    """Trains a model, or goes on with one.

    Args:
        config: a `Config`, preset or YAML file; MINIMAL when unset. Not with `resume`.
        data: a path, `AnnData`, data set name or prepared store, or several (see `find_data`). With `resume` only
            needed if the data have moved.
        resume: a checkpoint or run to continue; it knows its config and data.
        run_dir: a new folder; `DATE-TIME` in `places.work_dir()` when unset.
        device: auto, cpu, cuda or mps.
        verbose: progress on standard error.
        tensorboard: write `logs/`.
        wandb: send metrics to Weights & Biases.
        max_steps: stop cleanly after this step, as a signal would; the schedule still spans `num_epochs`.

    Returns:
        The run; `finished` is False when a signal or `max_steps` ended it, and `checkpoint` says where to go on.

    Raises:
        InputError: bad config or data, a run folder in use, or a loss that is no longer finite.
    """
    prepare_cpu()
    chosen_device = choose_device(device)
    state = None
    if resume is not None:
        checkpoint_file = find_checkpoint(resume)
        state = load_checkpoint(checkpoint_file)
        config = checkpoint_config(state)
        precision = _announce(config, chosen_device, verbose)
        run_dir = Path(run_dir or checkpoint_file.resolve().parent.parent)
        store = _store_of(state, run_dir, data)
        run_dir.mkdir(parents=True, exist_ok=True)
    else:
        if data is None:
            raise InputError(
                "there is nothing to learn from; give --data_path DATA.h5ad, a store, or a data set's name"
            )
        config = load_config(config or "minimal") if not isinstance(config, Config) else config.model_copy(deep=True)
        precision = _announce(config, chosen_device, verbose)
        run_dir = _new_run_dir(run_dir)
        try:
            store = _prepared(data, config, run_dir)
        except BaseException:
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # empty still: nothing half-made stays
            raise
        _follow_store(config, store)
        (run_dir / "config.yaml").write_text(config_text(config), encoding="utf-8")

    settings = config.training
    cells = np.flatnonzero(~store.held_out)
    batches = HalfCells(store, cells, settings.batch_size * settings.gradient_accumulation_steps, settings.seed)
    start = state["start"] if state else pca_start(store, cells, config.model.gene_embedding_dim, settings.seed)
    model = new_model(config.model, settings.seed, start)
    model.symbols, model.ensembl = store.symbols, store.ensembl
    model.gradient_checkpointing = settings.gradient_checkpointing
    return_freed_memory(settings.gradient_checkpointing and chosen_device.type == "cpu")
    model.to(chosen_device)
    optimizer = adamw(model, settings, chosen_device)
    scaler = torch.amp.GradScaler(chosen_device.type, enabled=precision == "fp16")
    step, total_steps = 0, settings.num_epochs * batches.steps_per_epoch
    torch.manual_seed(settings.seed)
    if state:
        put_weights(model, state)
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if chosen_device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        step = state["step"]

    def save() -> Path:
        return save_checkpoint(
            run_dir,
            step,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if chosen_device.type == "cuda" else None,
                "config": config.model_dump(),
                "symbols": store.symbols.tolist(),
                "ensembl": store.ensembl.tolist(),
                "start": start,
                "store": "store" if store.dir.parent == run_dir else str(store.dir.resolve()),
            },
            settings.keep_checkpoints,
        )

    monitor = Monitor(run_dir, config, step, total_steps, verbose=verbose, tensorboard=tensorboard, wandb=wandb)
    with monitor, stop_signals() as stop:
        if step == 0:
            for line in store.report:
                monitor.say(line)
        monitor.say(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(cells):,} cells to learn from, "
            f"{int(store.held_out.sum()):,} held out, {total_steps:,} steps, run {run_dir}"
        )
        loader = DataLoader(
            batches,
            batch_size=None,  # an item is a whole batch already
            sampler=range(step, total_steps),
            num_workers=settings.num_workers,
            pin_memory=chosen_device.type == "cuda",
            generator=torch.Generator(),  # its own: the global one belongs to dropout and must resume to the bit
        )
        if step == total_steps:
            monitor.say(f"all {total_steps:,} steps were taken already")
        path = save() if step == 0 else find_checkpoint(resume)
        saved_step, saved_at, logged_at, since, summed = step, time.monotonic(), time.monotonic(), 0, 0.0
        model.train()
        for batch in loader:
            rate = learning_rate(step, total_steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            parts = batch.split(settings.gradient_accumulation_steps)
            loss, norm = training_step(model, optimizer, scaler, parts, settings, chosen_device, precision)
            summed = summed + loss
            step, since = step + 1, since + 1
            monitor.step(step)

            ends = stop.is_set() or step in (total_steps, max_steps)
            late = time.monotonic() - saved_at > 60 * settings.checkpoint_every_minutes
            save_now = ends or late or step % settings.checkpoint_every_steps == 0
            if step % settings.log_every_steps == 0 or save_now:  # what is saved was seen to be finite
                mean_loss = float(summed) / since
                if not math.isfinite(mean_loss):
                    raise InputError(
                        f"the loss is {mean_loss} at step {step}: lower training.learning_rate "
                        f"({settings.learning_rate}); "
                        f"the last good checkpoint is {path}"
                    )
                now = time.monotonic()
                metrics = {
                    "epoch": step / batches.steps_per_epoch,
                    "loss": mean_loss,
                    "learning_rate": rate,
                    "grad_norm": float(norm),
                    "cells_per_second": since * batches.cells_per_step / (now - logged_at),
                }
                monitor.log(step, metrics)
                monitor.say(
                    f"step {step:>6,}/{total_steps:,}  loss {mean_loss:.4f}  lr {rate:.1e}  "
                    f"{metrics['cells_per_second']:.0f} cells/s"
                )
                logged_at, since, summed = now, 0, 0.0
            if store.held_out.any() and (step % batches.steps_per_epoch == 0 or step == total_steps):
                before = time.monotonic()
                held_out_loss = validation_loss(model, store, settings, chosen_device, precision)
                monitor.log(step, {"validation_loss": held_out_loss})
                monitor.say(f"epoch {step // batches.steps_per_epoch}: loss on held-out cells {held_out_loss:.4f}")
                logged_at += time.monotonic() - before  # cells/s is of training
            if save_now:
                path, saved_step, saved_at = save(), step, time.monotonic()
            if ends:
                break
        finished = step == total_steps
        monitor.say(f"{'done' if finished else f'stopped at step {saved_step:,}; go on with --resume {path}'}")
    return Run(run_dir, config, model.eval(), monitor.history, path, step, finished, stop.signal)


def validation_loss(
    model: CellTransformer, store: Store, settings: TrainingConfig, device: torch.device, precision: str
) -> float:
    """Nats per molecule on held-out cells, with the same coins every time."""
    cells = np.flatnonzero(store.held_out)[:VALIDATION_CELLS]
    batches = HalfCells(store, cells, settings.batch_size, settings.seed)
    total, molecules = 0.0, 0.0
    training = model.training
    model.eval()
    with torch.inference_mode(), autocast(device, precision):
        for number in range(len(batches)):
            batch = batches[number]
            part = batch.to(device)
            total += float(prediction_loss(model(part.genes, part.values), part.target_genes, part.target_counts))
            molecules += float(batch.molecules)
    model.train(training)
    return total / max(1.0, molecules)


def _announce(config: Config, device: torch.device, verbose: bool) -> str:
    """The precision; device and precision are the first line a run prints, before minutes of preparation."""
    precision = choose_precision(config.training, device)
    if verbose:
        print(describe_device(device, precision), file=sys.stderr, flush=True)
    return precision


def _new_run_dir(run_dir: str | Path | None) -> Path:
    if run_dir is None:
        name = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = work_dir() / name
    run_dir = Path(run_dir)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise InputError(
            f"run folder {run_dir} is not empty; continue it with --resume {run_dir}, or choose another --run-dir"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def _prepared(data: Any, config: Config, run_dir: Path) -> Store:
    sources = [find_data(source) for source in (data if isinstance(data, list) else [data])]
    if len(sources) == 1 and not isinstance(sources[0], ad.AnnData) and (Path(sources[0]) / "store.json").exists():
        return open_store(sources[0])
    return prepare(sources, config, run_dir / "store")


def _follow_store(config: Config, store: Store) -> None:
    """The model has the store's genes, which may be fewer than the preset's, and its cells are split as the store says.

    A store prepared earlier may have been split otherwise than this config asks; evaluation must not judge cells on
    the wrong side.
    """
    config.data = store.data_config.model_copy(deep=True)
    config.data.preprocessing.n_top_genes = None
    config.model.n_genes = len(store.symbols)


def _store_of(state: dict[str, Any], run_dir: Path, data: Any) -> Store:
    path = Path(str(data)) if data is not None else Path(state["store"])
    store = open_store(path if path.is_absolute() or data is not None else run_dir / path)
    if store.symbols.tolist() != state["symbols"]:
        raise InputError(f"store {path} has another vocabulary than the checkpoint; give the store it was trained on")
    return store
