"""How long training takes: measured here in a few seconds of real steps, or for another card by its published figures.

Steps differ in length, so what is measured is seconds per floating-point operation, over random batches of the real
loader; an epoch's operations are then counted from the shapes of its batches. Padding counts, since it is computed.
"""

import itertools
import time
from dataclasses import dataclass

import numpy as np
import torch

from ..checkpoint import TrainState
from ..config import Config
from ..dataset import Batch
from ..hardware.gpus import Card
from ..hardware.threads import without_onednn
from ..runtime.threads import Threads, threads_for
from ..start import new_model
from ..train import new_state, training_step
from .memory import Trace
from .workload import Workload, padded_flops

PART_SECONDS = 0.3  # steps that take longer are measured in parts, such as those of LARGE on a CPU,
PART_ROWS = 16  # of so many half cells: with two, LARGE fits the caches and looked a fifth faster than it is
WARM_UP = 3  # steps that are not counted: the first ones allocate
# What share of a card's published compute and bandwidth such steps reach, and what an operation takes to be launched
# (s): worst, typical, best. From experience with eager torch at these sizes, NOT measured by us: no GPU was at hand.
COMPUTE_SHARE = (0.15, 0.35, 0.60)
BANDWIDTH_SHARE = (0.40, 0.60, 0.80)
LAUNCH = (25e-6, 10e-6, 5e-6)
LOADING = 20e-9  # s for each expressed gene of a half cell, on one core (benchmarks/loader.py)


@dataclass(frozen=True)
class Speed:
    """Of this machine at this config: a step takes `per_step + per_flop * its operations` seconds."""

    per_step: float  # AdamW, clipping and what is not a product of matrices
    per_flop: float
    spread: tuple[float, float]  # per_flop's 10th and 90th percentile over steps, as a share of `per_flop`
    steps: int  # that were timed


def calibrate(
    config: Config, batches: list[Batch], genes: int, device: torch.device, precision: str, seconds: float = 4.0
) -> Speed:
    """Times real training steps of a fresh model of so many genes, for about `seconds` with those that warm up.

    Where a whole step takes long, as LARGE does on a CPU, parts of batches are timed.
    """
    ends = time.perf_counter() + seconds
    state = new_state(new_model(config.model, 0, genes=genes).to(device), config.training, device, precision)
    threads = Threads(threads_for(device, config.model.dropout, config.training.threads))
    with threads as state.threads, without_onednn(precision == "fp32"):
        return _measured(state, config, batches, genes, ends)


def _measured(state: TrainState, config: Config, batches: list[Batch], genes: int, ends: float) -> Speed:
    """The speed by steps of this state, taken until `ends`."""

    def timed(batch: Batch) -> float:
        started = time.perf_counter()
        loss, _ = training_step(state, [batch], config.training.learning_rate)
        loss.item()  # waits for the device
        return time.perf_counter() - started

    def flops_of(batch: Batch) -> float:
        return padded_flops(config.model, [batch], genes)

    smallest = min(batches, key=lambda batch: batch.most_tokens)
    tiny = smallest.split(max(1, len(smallest.cells) // 2))[0]  # two half cells
    timed(tiny)
    per_step = min(timed(tiny) for _ in range(WARM_UP))
    probe = batches[0].split(max(1, len(batches[0].cells) // 8))[0]
    probed = timed(probe) - per_step
    # the optimizer's operations are in both; the floor is for batches of few cells, which hardly differ
    rate = max(probed, 1e-9) / max(flops_of(probe) - flops_of(tiny), 0.1 * flops_of(probe))
    per_step = max(0.0, per_step - rate * flops_of(tiny))
    ratios, flops, total = [], 0.0, 0.0
    for number, batch in enumerate(itertools.cycle(batches)):
        count = round(rate * flops_of(batch) / PART_SECONDS)
        count = max(1, min(count, len(batch.cells) // PART_ROWS))
        part = batch.split(count)[number % min(count, len(batch.cells))]
        took = timed(part)
        if number < WARM_UP:
            continue
        work = flops_of(part)
        ratios.append(max(took - per_step, 0.0) / work)
        flops, total = flops + work, total + took
        if time.perf_counter() > ends and number >= 2 * WARM_UP:
            break
    # the floor is for tiny models, whose steps are nearly all fixed costs
    per_flop = max(total - per_step * len(ratios), 0.05 * total) / flops
    low, high = np.quantile(ratios, [0.1, 0.9]) / per_flop
    return Speed(per_step, per_flop, (min(1.0, float(low)), max(1.0, float(high))), len(ratios))


def epoch_seconds(speed: Speed, work: Workload, num_workers: int) -> tuple[float, float, float]:
    """Seconds of an epoch here, its validation included: low, typical, high.

    Workers prepare batches while steps are taken, if there are cores to spare; without any, preparing adds up.
    """
    seconds = []
    for share in (speed.spread[0], 1.0, speed.spread[1]):
        rate = share * speed.per_flop
        step = speed.per_step + rate * work.flops
        step = max(step, work.loader_seconds) if num_workers else step + work.loader_seconds
        seconds.append(step * work.steps_per_epoch + rate * work.validation_flops)
    return tuple(seconds)


def card_epoch_seconds(
    card: Card, trace: Trace, work: Workload, parts: int, precision: str
) -> tuple[tuple[float, float, float], str]:
    """Seconds of an epoch on a card, its validation included: low, typical, high; and what sets the pace.

    From published figures. The bytes a step reads and writes, and how many operations it launches, are those of the
    traced passes of its `parts` and of the optimizer. The card works while the host launches operations, and workers
    prepare batches (for which any host is taken to be like ours): the slowest of the three counts.
    """
    peak = 1e12 * (card.fp32_tflops if precision == "fp32" else card.half_tflops)
    traffic = parts * trace.traffic + trace.update_traffic
    operations = parts * trace.operations + trace.update_operations
    loading = LOADING * work.mean_genes * work.average.rows * parts
    seconds = []
    for compute, bandwidth, launch in zip(COMPUTE_SHARE, BANDWIDTH_SHARE, LAUNCH, strict=True):
        busy = work.flops / (peak * compute) + traffic / (1e9 * card.bandwidth_gb_per_s * bandwidth)
        paces = {"the card": busy, "the host's launch rate": operations * launch, "the loader": loading}
        step = max(paces.values())
        seconds.append(step * work.steps_per_epoch + step * work.validation_flops / work.flops)
        if len(seconds) == 2:
            pace = max(paces, key=paces.get)
    high, typical, low = seconds
    return (low, typical, high), pace
