"""What a run tells while it works: a progress bar, console lines, `metrics.jsonl`, TensorBoard and, if asked, wandb."""

import contextlib
import json
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import psutil
from tqdm.auto import tqdm

from ..config import Config
from ..errors import DivergedError, InputError
from ..files import write_text
from ..hardware.system import usable_cores
from ..units import duration

if TYPE_CHECKING:  # the metrics are read without torch, too
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from ..data.store import Store
    from .distributed import Distributed

Batch = TypeVar("Batch")


class Steps(Protocol):
    """What must be known of the data set to count epochs and cells."""

    steps_per_epoch: int
    cells_per_step: int


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


class Logger:
    """Records what a run does, and says it: metrics at every `log_every_steps`, held-out loss at every epoch.

    `metrics.jsonl` has one JSON object a line, each with `step`. Rows of training also say what the machine was doing
    (`load`), for `scfm doctor`. Only time between the asking for a batch and the end of its step counts as a step's, so
    validation and saving do not slow `cells_per_second` down.

    Args:
        run_dir: where `metrics.jsonl` and `logs/` are.
        config: of the run.
        dataset: whose batches are the steps.
        first_step: steps taken before, by an earlier part of the run.
        device: that computes.
        precision: fp32, bf16 or fp16.
        distributed: the processes; only the first writes.
        deadline: by `time.monotonic()`; whether the run will be done by then is said once that is known.
        verbose: lines and a bar on standard error.
        tensorboard: write `logs/`.
        wandb: send metrics to Weights & Biases.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        dataset: Steps,
        first_step: int,
        device: "torch.device",
        precision: str,
        distributed: "Distributed",
        deadline: float = math.inf,
        *,
        verbose: bool = True,
        tensorboard: bool = True,
        wandb: bool = False,
    ):
        self.run_dir, self.settings, self.dataset, self.distributed = run_dir, config.training, dataset, distributed
        self.device, self.precision, self.deadline = device, precision, deadline
        self.first_step = first_step
        self.verbose = verbose and distributed.is_first
        self.process = psutil.Process()
        self.process.cpu_percent()  # the first answer is 0, the next ones are since the one before
        self.file = run_dir / "metrics.jsonl"
        self.history = read_metrics(self.file, before=first_step)
        if distributed.is_first:  # rows after the checkpoint would come twice
            write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.history))
        watched = sys.stderr.isatty() or in_notebook()
        self.total_steps = config.training.num_epochs * dataset.steps_per_epoch
        self.bar = tqdm(
            total=self.total_steps, initial=first_step, unit="step", disable=not (self.verbose and watched), leave=False
        )
        self.tensorboard = self.wandb = None
        if tensorboard and distributed.is_first:
            self.tensorboard = self._beside("tensorboard", lambda: _tensorboard(run_dir, first_step))
        if wandb and distributed.is_first:
            self.wandb = self._beside("wandb", lambda: _wandb(run_dir, config))
        self._asked_at = time.monotonic()
        self._since_log()

    def _since_log(self) -> None:
        self._steps, self._molecules, self._seconds, self._waited = 0, 0.0, 0.0, 0.0
        self._nats: list[torch.Tensor] = []  # of each step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.tensorboard:
            self._beside("tensorboard", self.tensorboard.close)
        if self.wandb:
            self._beside("wandb", self.wandb.finish)

    def _beside(self, name: str, use: Callable[[], Any]) -> Any:
        """What `use` gives; where it fails, that is said, and training goes on without TensorBoard or wandb.

        Raises:
            InputError: the package is not installed.
        """
        try:
            return use()
        except InputError:
            raise
        except Exception as error:  # a full disk, no network, no account: as many kinds as they have versions
            setattr(self, name, None)
            self.say(f"{name} failed ({(str(error) or type(error).__name__)[:100]}); training goes on without it")
            return None

    def say(self, line: str) -> None:
        """A line on standard error (standard output belongs to `--json`)."""
        if self.verbose:
            self.bar.write(line, file=sys.stderr)

    def begin(self, store: "Store", parameters: int) -> None:
        """Says what will be done, and of a new run what preparation kept and left out."""
        for line in [] if self.first_step else store.report:
            self.say(line)
        held_out = int(store.held_out.sum())
        self.say(
            f"{parameters:,} parameters, {len(store) - held_out:,} cells to learn from, {held_out:,} held out, "
            f"{self.total_steps:,} steps, run {self.run_dir}"
        )
        if self.distributed.world_size > 1:
            cells = self.dataset.cells_per_step
            self.say(f"{self.distributed.world_size} processes, {cells} cells a step between them")
        if self.first_step == self.total_steps:
            self.say(f"all {self.total_steps:,} steps were taken already")

    def end(self, step: int, checkpoint: Path, waits_no_more: bool = False) -> bool:
        """Says how it ended; whether all steps were taken, or the patience for a lower loss is over."""
        finished = step == self.total_steps
        if waits_no_more:
            self.say(f"done at step {step:,}: {self.settings.patience} epochs without a lower loss on held-out cells")
            return True
        self.say("done" if finished else f"stopped at step {step:,}; go on with --resume {checkpoint}")
        return finished

    def time_waiting(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches, while the time spent waiting for them is measured."""
        batches = iter(loader)
        while True:
            self._asked_at = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - self._asked_at
            if batch is None:
                return
            yield batch

    def step(
        self, step: int, loss: "torch.Tensor", molecules: float, grad_norm: "torch.Tensor", lr: float, *,
        now: bool,
    ) -> None:  # fmt: skip
        """Counts a step; every `log_every_steps`, or `now`, its metrics are recorded: means since the last time.

        The loss is a mean over molecules, as on held-out cells: steps of long half cells predict more of them.

        Args:
            step: steps taken.
            loss: nats per molecule of this step, this process's share of it: a scalar, still on the device.
            molecules: predicted in this step, by all processes.
            grad_norm: of the gradients before clipping.
            lr: the learning rate.
            now: record the metrics in any case.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        self._steps, self._molecules = self._steps + 1, self._molecules + molecules
        self._nats.append(loss * molecules)
        self.bar.update(step - self.bar.n)
        if not now and step % self.settings.log_every_steps:
            self._seconds += time.monotonic() - self._asked_at
            return
        mean_loss = self.distributed.all_reduce_sum(sum(self._nats))[0] / self._molecules  # waits for the device
        if not math.isfinite(mean_loss):
            wrong = [number for number, nats in enumerate(self._nats) if not math.isfinite(nats)]
            first = step - self._steps + 1 + (wrong[0] if wrong else 0)  # none here: it was another process's share
            raise DivergedError(f"the loss is {mean_loss} at step {first}", first)
        self._seconds += time.monotonic() - self._asked_at
        seconds = self._seconds / self._steps
        metrics = {
            "epoch": step / self.dataset.steps_per_epoch,
            "loss": mean_loss,
            "learning_rate": lr,
            "grad_norm": float(grad_norm),
            "cells_per_second": self.dataset.cells_per_step / seconds,
            "step_seconds": seconds,
            "data_seconds": self._waited / self._steps,  # of which waiting for the loader
        }
        self.log(step, metrics | self.load())
        total = self.total_steps
        speed = f"{metrics['cells_per_second']:.0f} cells/s"
        self.say(f"step {step:>6,}/{total:,}  loss {mean_loss:.4f}  lr {lr:.1e}  {speed}")
        if math.isfinite(self.deadline):
            self.say(_time_left(self.deadline, seconds * (total - step)))
            self.deadline = math.inf  # said once
        self._since_log()

    def validation(self, step: int, loss: float, waited: int = 0) -> None:
        """Records the loss on held-out cells, in nats per molecule, `waited` epochs after the lowest."""
        self.log(step, {"validation_loss": loss})
        lowest = f", no lower for {waited} of {self.settings.patience} epochs" if waited else ""
        self.say(f"epoch {step // self.dataset.steps_per_epoch}: loss on held-out cells {loss:.4f}{lowest}")

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Records metrics at a step."""
        row = {"step": step, **values}
        self.history.append(row)
        if self.distributed.is_first:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.tensorboard:
            self._beside("tensorboard", lambda: _to_tensorboard(self.tensorboard, step, values))
        if self.wandb:
            self._beside("wandb", lambda: self.wandb.log(values, step=step))

    def load(self) -> dict[str, Any]:
        """What this process uses: `cpu_percent` (100 is one core) since it was last asked, of `cores`; `ram_bytes`.

        On an NVIDIA card also `card`, `compute_capability`, `gpu_memory_bytes` in use (by anyone), and, where its
        driver says so, `gpu_percent`: the share of the last second or less in which some kernel ran. Worker processes
        are not counted.
        """
        figures = {
            "device": self.device.type,
            "precision": self.precision,
            "cpu_percent": self.process.cpu_percent(),
            "cores": usable_cores(),
            "ram_bytes": self.process.memory_info().rss,
        }
        return figures | (card_load(self.device) if self.device.type == "cuda" else {})


def _tensorboard(run_dir: Path, first_step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "logs"), purge_step=first_step or None)


def _to_tensorboard(writer: "SummaryWriter", step: int, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, str):
            writer.add_scalar(name, value, step)


def _wandb(run_dir: Path, config: Config) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError("--wandb needs wandb: pip install wandb, then wandb login (or WANDB_MODE=offline)") from None
    known = run_dir / "wandb_id.txt"  # a resumed run keeps its name in wandb
    if not known.exists():
        known.write_text(secrets.token_hex(4), encoding="utf-8")
    names = {"id": known.read_text(encoding="utf-8"), "name": run_dir.name, "dir": str(run_dir)}
    return wandb.init(project="scfm", config=config.model_dump(), resume="allow", **names)


def _time_left(deadline: float, to_come: float) -> str:
    """A line that compares the time until the deadline with the seconds that a run still takes."""
    left = max(0.0, deadline - time.monotonic())
    line = f"about {duration(to_come)} to go, {duration(left)} left"
    if to_come > left:
        line += ": the run will stop in time with a checkpoint; go on with --resume, or make the same call again"
    return line


def card_load(device: "torch.device") -> dict[str, Any]:
    """The part of `Logger.load` that is about a card; without `gpu_percent` where the driver does not say."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    figures = {
        "card": torch.cuda.get_device_name(device),
        "compute_capability": major + minor / 10,
        "gpu_memory_bytes": total - free,
    }
    with contextlib.suppress(Exception):  # MIG slices and some drivers in WSL raise different errors
        figures["gpu_percent"] = torch.cuda.utilization(device)
    return figures


def read_metrics(file: Path, before: int | None = None) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, up to and with step `before`; a last line cut short by a crash is left out."""
    rows = []
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if before is None or row["step"] <= before:
                rows.append(row)
    return rows
