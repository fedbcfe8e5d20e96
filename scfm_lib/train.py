"""The training loop, in the open: prepare, then step by step until the end, a signal, `max_steps` or `max_hours`."""

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
from .begin import Beginning, chosen, found_run, new, resumed
from .checkpoint import checkpoint_path, put_weights, save_checkpoint
from .config import Config, InputError, TrainingConfig
from .hardware import choose_device, choose_precision, describe_device, prepare_cpu, return_freed_memory
from .model import CellTransformer, prediction_loss
from .monitor import Monitor
from .optimize import adamw, autocast, learning_rate, training_step
from .processes import Processes, joined
from .quantities import duration
from .session import seconds_left
from .signals import stop_signals
from .start import new_model, pca_start
from .store import Store, open_store

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
    max_hours: float | None = None,
) -> Run:
    """Trains a model, or goes on with one; alone, or as one of the processes that `torchrun` started.

    Args:
        config: a `Config`, preset or YAML file; MINIMAL when unset. Not used with `resume`: a run keeps its config.
        data: a path, `AnnData`, data set name or prepared store, or several (see `find_data`). With `resume` only
            the store, if it has moved.
        resume: a checkpoint or run to continue; it knows its config and data. "auto": `run_dir`, if a run is there,
            else a new one, so that the same call can be made again after a session ended.
        run_dir: a new folder; `DATE-TIME` in `work_dir()` when unset.
        device: auto, cpu, cuda or mps.
        verbose: progress on standard error.
        tensorboard: write `logs/`.
        wandb: send metrics to Weights & Biases.
        max_steps: stop cleanly after this step, as a signal would; the schedule still spans `num_epochs`.
        max_hours: stop cleanly after so long; on Colab and Kaggle, when unset, before the session ends.

    Returns:
        The run; `finished` is False when a signal or limit ended it, and `checkpoint` says where to go on.

    Raises:
        InputError: bad config or data, a run folder in use, another process of the run that ended, or a loss that is
            no longer finite.
    """
    prepare_cpu()
    chosen_device = choose_device(device)
    seconds = seconds_left() if max_hours is None else 3600 * max_hours
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with joined() as processes:
        verbose = verbose and processes.first
        if resume == "auto":
            resume, data_again = processes.once(lambda: found_run(run_dir)), None
        else:
            data_again = data
        if resume is not None:
            begun = resumed(resume, run_dir, data_again)
            precision = _announce(begun.config, chosen_device, verbose)
        else:
            wanted = chosen(config)
            precision = _announce(wanted, chosen_device, verbose)
            begun = processes.once(lambda: new(wanted, data, run_dir))
        return _steps(
            begun, processes, chosen_device, precision, max_steps, deadline,
            verbose=verbose, tensorboard=tensorboard and processes.first, wandb=wandb and processes.first,
        )  # fmt: skip


def _steps(
    begun: Beginning,
    processes: Processes,
    device: torch.device,
    precision: str,
    max_steps: int | None,
    deadline: float,
    *,
    verbose: bool,
    tensorboard: bool,
    wandb: bool,
) -> Run:
    run_dir, config, store, state = begun.run_dir, begun.config, open_store(begun.store), begun.state
    settings = config.training
    cells = np.flatnonzero(~store.held_out)
    wanted = settings.batch_size * settings.gradient_accumulation_steps * processes.count
    cells_per_step = state.get("cells_per_step", wanted) if state else wanted
    parts = max(1, round(cells_per_step / (settings.batch_size * processes.count)))
    batches = HalfCells(store, cells, cells_per_step, settings.seed)
    start = state["start"] if state else pca_start(store, cells, config.model.gene_embedding_dim, settings.seed)
    model = new_model(config.model, settings.seed, start)
    model.symbols, model.ensembl = store.symbols, store.ensembl
    model.gradient_checkpointing = settings.gradient_checkpointing
    return_freed_memory(settings.gradient_checkpointing and device.type == "cpu")
    model.to(device)
    optimizer = adamw(model, settings, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    step, total_steps = 0, settings.num_epochs * batches.steps_per_epoch
    torch.manual_seed(settings.seed + processes.rank)
    if state:
        put_weights(model, state)
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        step = state["step"]
        if processes.first:
            torch.set_rng_state(state["torch_rng"])
            if device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"])
    together = processes.wrapped(model, device)

    def save() -> Path:
        if not processes.first:
            return checkpoint_path(run_dir, step)
        return save_checkpoint(
            run_dir,
            step,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if device.type == "cuda" else None,
                "config": config.model_dump(),
                "cells_per_step": cells_per_step,
                "symbols": store.symbols.tolist(),
                "ensembl": store.ensembl.tolist(),
                "start": start,
                "store": "store" if store.dir.parent == run_dir else str(store.dir.resolve()),
            },
            settings.keep_checkpoints,
        )

    monitor = Monitor(
        run_dir, config, step, total_steps, verbose=verbose, tensorboard=tensorboard, wandb=wandb,
        writes=processes.first, device=device, precision=precision,
    )  # fmt: skip
    with monitor, stop_signals() as stop:
        if step == 0:
            for line in store.report:
                monitor.say(line)
        monitor.say(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(cells):,} cells to learn from, "
            f"{int(store.held_out.sum()):,} held out, {total_steps:,} steps, run {run_dir}"
        )
        if processes.count > 1:
            monitor.say(f"{processes.count} processes, {cells_per_step} cells a step between them")
        loader = DataLoader(
            batches,
            batch_size=None,  # an item is a whole batch already
            sampler=range(step, total_steps),
            num_workers=settings.num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own: the global one belongs to dropout and must resume to the bit
        )
        if step == total_steps:
            monitor.say(f"all {total_steps:,} steps were taken already")
        path = begun.checkpoint or save()
        saved_step, saved_at, logged_at, since, summed = step, time.monotonic(), time.monotonic(), 0, 0.0
        began_at, first_step, waited, told_time = time.monotonic(), step, 0.0, False
        model.train()
        upcoming = iter(loader)
        while step < total_steps:
            asked_at = time.monotonic()
            batch = next(upcoming)
            waited += time.monotonic() - asked_at
            rate = learning_rate(step, total_steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            mine = processes.share(batch, parts)
            loss, norm = training_step(
                together, optimizer, scaler, mine, settings, device, precision, processes, batch.molecules
            )
            summed = summed + loss
            step, since = step + 1, since + 1
            monitor.step(step)

            now = time.monotonic()
            over, late, signalled = processes.any(
                now > deadline, now - saved_at > 60 * settings.checkpoint_every_minutes, stop.is_set()
            )
            ends = signalled or over or step in (total_steps, max_steps)
            save_now = ends or late or step % settings.checkpoint_every_steps == 0
            if step % settings.log_every_steps == 0 or save_now:  # what is saved was seen to be finite
                mean_loss = processes.summed(summed)[0] / since
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
                    "step_seconds": (now - logged_at) / since,
                    "data_seconds": waited / since,  # of which waiting for the loader
                }
                monitor.log(step, metrics)
                monitor.say(
                    f"step {step:>6,}/{total_steps:,}  loss {mean_loss:.4f}  lr {rate:.1e}  "
                    f"{metrics['cells_per_second']:.0f} cells/s"
                )
                if math.isfinite(deadline) and not told_time:
                    monitor.say(_time_left(deadline, (now - began_at) / (step - first_step) * (total_steps - step)))
                    told_time = True
                logged_at, since, summed, waited = now, 0, 0.0, 0.0
            if store.held_out.any() and (step % batches.steps_per_epoch == 0 or step == total_steps):
                before = time.monotonic()
                if processes.first:  # the others wait in the next step
                    held_out_loss = validation_loss(model, store, settings, device, precision)
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


def _time_left(deadline: float, to_come: float) -> str:
    """A line that compares the time until the deadline with the seconds that a run still takes."""
    left = max(0.0, deadline - time.monotonic())
    line = f"about {duration(to_come)} to go, {duration(left)} left"
    if to_come > left:
        line += ": the run will stop in time with a checkpoint; go on with --resume, or make the same call again"
    return line


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
