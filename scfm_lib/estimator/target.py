"""Where training would run, and what it takes there: memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from ..config import Config, TrainingConfig
from ..dataset import Batch
from ..hardware.device import choose_device, choose_precision, precision_rule
from ..hardware.gpus import Card, find_card
from ..hardware.system import memory as ram
from ..hardware.threads import use_all_cores
from .memory import formula, memory, trace
from .speed import Speed, calibrate, card_epoch_seconds, epoch_seconds
from .workload import Workload


@cache
def rules() -> dict[str, Any]:
    """`verdicts.yaml`: jobs, thresholds and their reasons."""
    return yaml.safe_load(Path(__file__).with_name("verdicts.yaml").read_text(encoding="utf-8"))


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
    pace: str | None = None  # what sets it on a card: the card, the host's launch rate or the loader


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
    sizes = memory(config, work.longest, precision, "cpu" if target.kind == "cpu" else "cuda", exact)
    if target.card:
        one = config.model_copy(deep=True)
        one.training.gradient_accumulation_steps = 1
        average = work.average, precision
        step = trace(one, *average, "cuda") if exact else formula(one.model, one.training, *average, True)
        seconds, pace = card_epoch_seconds(target.card, step, work, parts, precision)
    else:
        seconds, pace = epoch_seconds(target.speed, work, config.training.num_workers), None
    return Cost(sizes, tuple(s * config.training.num_epochs for s in seconds), pace)


def card_target(gpu: str) -> Target:
    """A card of `gpus.yaml` as a target."""
    card = find_card(gpu)
    kind = "cuda" if card.compute_capability else "mps"
    size = None if card.memory_gib is None else int(card.memory_gib * 2**30)
    return Target(card.name, kind, size, card=card)


def this_machine(
    config: Config, batches: list[Batch], genes: int, device: str = "auto", seconds: float = 4.0
) -> Target:
    """This machine as a target, its speed measured with real steps of a model of so many genes in all."""
    use_all_cores()
    chosen = choose_device(device)
    speed = calibrate(config, batches, genes, chosen, choose_precision(config.training, chosen), seconds)
    if chosen.type == "cuda":
        free, _ = torch.cuda.mem_get_info(chosen)
        return Target(torch.cuda.get_device_name(chosen), "cuda", free, speed=speed)
    name = f"this machine, {torch.get_num_threads()} CPU threads" if chosen.type == "cpu" else "this Mac's GPU"
    return Target(name, chosen.type, ram()["available"], speed=speed)
