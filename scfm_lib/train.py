"""Training, in the open: the schedule, the optimizer, one step, and the loop. Read it from top to bottom.

What happens around a step is in `runtime/` (logger, stop conditions, several processes) and changes no weight.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from torch.utils.data import DataLoader

from .checkpoint import Checkpoints, TrainState, config_like, find_checkpoint, load_checkpoint, trained_on
from .config import Config, TrainingConfig, load_config
from .data.store import Store, open_store
from .dataset import Batch, HalfCells
from .errors import DivergedError
from .hardware.device import autocast, choose_device, choose_precision, describe_device
from .hardware.threads import return_freed_memory, use_all_cores, without_onednn
from .model import CellTransformer, prediction_loss
from .runtime.distributed import ALONE, Distributed, join_processes
from .runtime.logger import Logger
from .runtime.run_dir import RunDir, find_run, new_run, resumed_run, with_batch
from .runtime.stopping import Stop
from .runtime.threads import Threads, threads_for
from .start import new_model, pca_start, start_from, trained_model

VALIDATION_CELLS = 5_000  # more would not make the loss clearer, only the epoch longer
BAG_RATE = 0.1  # the bag's vectors start as the PCA's and should stay close to it


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

    def last_losses(self) -> dict[str, float | None]:
        """The last `loss` and `validation_loss`, in nats per molecule; None where none was recorded."""
        keys = ("loss", "validation_loss")
        return {key: next((row[key] for row in reversed(self.history) if key in row), None) for key in keys}


def learning_rate(step: int, total_steps: int, settings: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the highest rate."""
    warmup = max(1, round(settings.warmup_fraction * total_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(model: CellTransformer, settings: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW. Each group's `lr_scale` is its rate over `settings.learning_rate`.

    Biases, norms and the [CELL] token are not decayed (nanoGPT's rule: fewer than two dimensions).
    """
    bag, decay = model.bag_embedding, settings.weight_decay
    others = [weight for weight in model.parameters() if weight is not bag]
    groups = [
        {"params": [weight for weight in others if weight.dim() >= 2], "weight_decay": decay, "lr_scale": 1.0},
        {"params": [weight for weight in others if weight.dim() < 2], "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": [bag], "weight_decay": decay, "lr_scale": BAG_RATE},
    ]
    # fused: one kernel for all parameters instead of hundreds
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=device.type in {"cpu", "cuda"})


def new_state(
    model: CellTransformer, settings: TrainingConfig, device: torch.device, precision: str = "fp32"
) -> TrainState:
    """A model that is on its device, with a fresh optimizer, before the first step."""
    model.gradient_checkpointing = settings.gradient_checkpointing
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return TrainState(model, new_optimizer(model, settings, device), scaler, settings, device, precision)


def training_step(
    state: TrainState,
    micro_batches: list[Batch],
    lr: float,
    molecules: float | torch.Tensor | None = None,
    distributed: Distributed = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step: the loss in nats per molecule (a scalar) and the gradients' norm before clipping.

    Args:
        state: its weights and optimizer are changed.
        micro_batches: this process's part of the step; their gradients add up to that of the whole.
        lr: the learning rate.
        molecules: to predict in this step in all processes; those of `micro_batches` when unset.
        distributed: the processes that work on this step; the loss is then this one's share.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    molecules = sum(batch.molecules for batch in micro_batches) if molecules is None else molecules

    def loss_of(batch: Batch) -> torch.Tensor:
        batch = batch.to(state.device)
        with autocast(state.device, state.precision):
            logits = state.model(batch.genes, batch.values, batch.most_tokens, batch.batch)
        return prediction_loss(logits, batch.target_genes, batch.target_counts) / molecules

    weights = list(state.model.parameters())
    parts = [part for batch in micro_batches for part in batch.split(state.threads.count)]
    loss = state.threads.backward(loss_of, parts, weights, state.scaler.scale)
    distributed.sum_gradients(weights)
    state.scaler.unscale_(state.optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(weights, state.settings.max_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, grad_norm


def validation_loss(state: TrainState, store: Store) -> float:
    """Nats per molecule on held-out cells (a random sample, if they are many), with the same coins every time."""
    model, settings, held_out = state.model, state.settings, np.flatnonzero(store.held_out)
    if len(held_out) > VALIDATION_CELLS:
        held_out = np.random.default_rng(settings.seed).choice(held_out, VALIDATION_CELLS, replace=False)
    at_a_time = max(1, settings.batch_size // state.threads.count)  # each thread takes a batch of its own
    dataset = HalfCells(store, held_out, at_a_time, settings.seed)

    @torch.inference_mode()
    def judge(batch: Batch) -> np.ndarray:
        batch = batch.to(state.device)
        with autocast(state.device, state.precision):
            logits = model(batch.genes, batch.values, batch.most_tokens, batch.batch)
        nats = prediction_loss(logits, batch.target_genes, batch.target_counts)
        return np.array([float(nats), float(batch.molecules)])

    training = model.training
    model.eval()
    nats, molecules = sum(state.threads.map(judge, (dataset[step] for step in range(len(dataset)))))
    model.train(training)
    return float(nats / max(1.0, molecules))


def training_loop(state: TrainState, data: HalfCells, logger: Logger, checkpoints: Checkpoints, stop: Stop) -> None:
    """Takes steps from `state.step` to the last epoch's end, or until `stop` says so."""
    settings, distributed = state.settings, data.distributed
    total_steps = settings.num_epochs * data.steps_per_epoch
    loader = DataLoader(
        data,
        batch_size=None,  # an item is a whole batch already
        sampler=range(state.step, 0 if state.waits_no_more else min(total_steps, stop.last_step)),
        num_workers=settings.num_workers,
        pin_memory=state.device.type == "cuda",
        generator=torch.Generator(),  # its own: the global one belongs to dropout and must resume to the bit
    )
    state.model.train()
    for batch in logger.time_waiting(loader):
        lr = learning_rate(state.step, total_steps, settings)
        molecules = data.molecules(state.step)
        loss, grad_norm = training_step(state, batch.split(state.micro_batches), lr, molecules, distributed)
        state.step += 1
        ends = state.step == total_steps or stop.now(state.step)
        ends, due = distributed.any(ends, checkpoints.due(state.step))
        logger.step(state.step, loss, molecules, grad_norm, lr, now=ends or due)  # not finite: raises, not saved
        if state.step % data.steps_per_epoch == 0 and data.store.held_out.any():
            if distributed.is_first:
                loss = validation_loss(state, data.store)
                state.judge_epoch(loss)
                logger.validation(state.step, loss, state.waited)
            ends = any(distributed.any(ends, state.waits_no_more))
        if ends or due:
            checkpoints.save(state)
        if ends:
            break
    state.model.eval()


def train(
    config: Config | str | Path | None = None,
    data: str | Path | ad.AnnData | list[str | Path | ad.AnnData] | None = None,
    *,
    init: str | Path | None = None,
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
        init: a checkpoint, run or shared model to start from; its dimensions and training settings are the default.
        resume: a checkpoint or run to continue; it knows its config and data. "auto": `run_dir`, if a run is there,
            else a new one, so that the same call can be made again after a session ended; a config must be the run's.
        run_dir: a new folder; `DATE-TIME` in `work_dir()` when unset.
        device: auto, cpu, cuda or mps.
        verbose: progress on standard error.
        tensorboard: write `logs/`.
        wandb: send metrics to Weights & Biases.
        max_steps: stop cleanly after this step, as a signal would; the schedule still spans `num_epochs`. A run that
            has come so far already takes no step.
        max_hours: stop cleanly after so long; on Colab and Kaggle, when unset, before the session ends.

    Returns:
        The run; `finished` is False when a signal or limit ended it, and `checkpoint` says where to go on.

    Raises:
        InputError: bad config or data, a run folder in use, or another process of the run that ended.
        DivergedError: the loss or a weight is no longer finite; the last good checkpoint is left, and the step's batch.
    """
    use_all_cores()
    torch_device, stop = choose_device(device), Stop(max_steps, max_hours)
    with join_processes() as distributed:
        asked = config if resume == "auto" else None
        if resume == "auto":
            resume = distributed.rank_zero_first(lambda: find_run(run_dir))
            data = data if resume is None else None  # a run that is found has its data
        begun = None
        if resume is not None:
            file = find_checkpoint(resume)
            begun = resumed_run(file, load_checkpoint(file), run_dir, data, asked)
            config = begun.config
        elif config is None and init is not None:
            config = config_like(init)
        elif not isinstance(config, Config):
            config = load_config(config or "minimal")
        precision = choose_precision(config.training, torch_device)
        if verbose and distributed.is_first:  # the first line of a run, before minutes of preparation
            print(describe_device(torch_device, precision), file=sys.stderr, flush=True)
        trained = None if init is None or begun else trained_model(init, config.model)
        begun = begun or distributed.rank_zero_first(lambda: new_run(config, data, run_dir, trained_on(init)))
        outputs = {"verbose": verbose, "tensorboard": tensorboard, "wandb": wandb}
        with begun.claim:
            return _train(begun, trained, torch_device, precision, distributed, stop, outputs)


def _train(
    begun: RunDir,
    trained: CellTransformer | None,
    device: torch.device,
    precision: str,
    distributed: Distributed,
    stop: Stop,
    outputs: dict[str, bool],
) -> Run:
    """Sets up what the loop needs, and runs it."""
    config, settings, saved = begun.config, begun.config.training, begun.saved
    store = open_store(begun.store)
    per_forward = settings.batch_size * distributed.world_size
    cells_per_step = saved["cells_per_step"] if saved else per_forward * settings.gradient_accumulation_steps
    dataset = HalfCells(store, None, cells_per_step, settings.seed, settings.token_share, distributed)

    start = saved["start"] if saved else pca_start(store, dataset.cells, config.model.gene_embedding_dim, settings.seed)
    model = new_model(config.model, settings.seed, start)
    model.symbols, model.ensembl = store.symbols, store.ensembl
    if trained is not None:
        store.report.append(start_from(model, trained))
    model.to(device)
    return_freed_memory(settings.gradient_checkpointing and device.type == "cpu")
    state = new_state(model, settings, device, precision)
    state.micro_batches = max(1, round(cells_per_step / per_forward))
    torch.manual_seed(settings.seed + distributed.rank)
    if saved:
        state.restore(saved, random_state=distributed.is_first)
    distributed.same_weights(model)
    count = threads_for(device, config.model.dropout, (saved or {}).get("threads") or settings.threads)

    constants = {
        "config": config.model_dump(),
        "cells_per_step": cells_per_step,
        "symbols": store.symbols.tolist(),
        "ensembl": store.ensembl.tolist(),
        "batches": store.batches,
        "start": start,
        "began_from": begun.began_from,
        "threads": count if device.type == "cpu" else None,
        "store": "store" if store.dir.parent == begun.path else str(store.dir.resolve()),
    }
    checkpoints = Checkpoints(begun.path, settings, constants, begun.checkpoint, distributed.is_first)
    logger = Logger(begun.path, config, dataset, state.step, device, precision, distributed, stop.deadline, **outputs)
    with logger, stop, Threads(count) as state.threads, without_onednn(precision == "fp32"):
        logger.begin(store, sum(p.numel() for p in model.parameters()))
        if checkpoints.newest is None:
            checkpoints.save(state)
        try:
            training_loop(state, dataset, logger, checkpoints, stop)
        except DivergedError as error:
            batch = dataset[error.step - 1] if distributed.is_first else None
            lr = learning_rate(error.step - 1, logger.total_steps, settings)
            raise with_batch(error, batch, lr, begun, checkpoints.newest) from None
        finished = logger.end(state.step, checkpoints.newest, state.waits_no_more)
    if state.best:
        model.load_state_dict(state.best["model"])
    return Run(begun.path, config, model, logger.history, checkpoints.newest, state.step, finished, stop.signal)
