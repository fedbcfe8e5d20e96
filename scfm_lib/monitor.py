"""What a run tells while it works: a progress bar, console lines, `metrics.jsonl`, TensorBoard and, if asked, wandb."""

import contextlib
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
from tqdm.auto import tqdm

from .config import Config, InputError
from .files import write_text
from .machine import usable_cores

if TYPE_CHECKING:
    import torch


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


class Monitor:
    """Writes a run's metrics. `metrics.jsonl` has one JSON object a line, each with `step`.

    Rows of training also say what the machine was doing (`load`), if the device is known: for `scfm doctor`.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        first_step: int,
        total_steps: int,
        *,
        verbose: bool,
        tensorboard: bool,
        wandb: bool,
        writes: bool = True,
        device: "torch.device | None" = None,
        precision: str = "fp32",
    ):
        self.verbose, self.writes = verbose, writes
        self.device, self.precision = device, precision
        self.process = psutil.Process()
        self.process.cpu_percent()  # the first answer is 0, the next ones are since the one before
        self.file = run_dir / "metrics.jsonl"
        self.history = read_metrics(self.file, before=first_step)
        if writes:
            text = "".join(json.dumps(row) + "\n" for row in self.history)
            write_text(self.file, text)
        watched = sys.stderr.isatty() or in_notebook()
        self.bar = tqdm(
            total=total_steps, initial=first_step, unit="step", disable=not (verbose and watched), leave=False
        )
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run_dir / "logs"), purge_step=first_step or None)
        self.wandb = None
        if wandb:
            try:
                import wandb as package
            except ImportError:
                raise InputError(
                    "--wandb needs wandb: pip install wandb, then wandb login (or WANDB_MODE=offline)"
                ) from None
            known = run_dir / "wandb_id.txt"  # a run that goes on is the same run there, too
            if not known.exists():
                known.write_text(secrets.token_hex(4), encoding="utf-8")
            names = {"id": known.read_text(encoding="utf-8"), "name": run_dir.name, "dir": str(run_dir)}
            self.wandb = package.init(project="scfm", config=config.model_dump(), resume="allow", **names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()

    def say(self, line: str) -> None:
        """A line on standard error (standard output belongs to `--json`)."""
        if self.verbose:
            self.bar.write(line, file=sys.stderr)

    def step(self, step: int) -> None:
        """Moves the bar."""
        self.bar.update(step - self.bar.n)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Records metrics at a step."""
        if self.device is not None and "loss" in values:
            values = values | self.load()
        row = {"step": step, **values}
        self.history.append(row)
        if self.writes:  # of several processes only the first
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.writer:
            for name, value in values.items():
                if not isinstance(value, str):
                    self.writer.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(values, step=step)

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


def card_load(device: "torch.device") -> dict[str, Any]:
    """The part of `Monitor.load` that is about a card; without `gpu_percent` where the driver does not say."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    figures = {
        "card": torch.cuda.get_device_name(device),
        "compute_capability": major + minor / 10,
        "gpu_memory_bytes": total - free,
    }
    with contextlib.suppress(Exception):  # slices of a card (MIG), some drivers in WSL: each is silent in its own way
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
