"""Can I train this here, and what would help? A verdict for each preset with its reason, and the levers that save some.

Hours of a verdict are estimated for the job the hardware guide gives each preset: on a CPU from the speed of a matrix
product that `hardware/torch_probe.py` measures, on a card from its published figures. `scfm estimate` measures real
steps and is nearer. Thresholds and their reasons are in `verdicts.yaml`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import PRESETS, Config, load_config, with_changes
from ..errors import InputError
from ..hardware.gpus import Card, find_card
from ..hardware.system import machine, read_probe, start_probe
from ..units import duration, gb
from .speed import Speed
from .target import Cost, Target, cost, named, precision_of, rules
from .workload import Workload, parameters, scaled, typical_store, workload


def check(run_dir: str | Path = ".") -> dict[str, Any]:
    """The machine, and under `presets` the verdict, reason, hours and way out of each; ready for JSON.

    Args:
        run_dir: where runs will be written; its disk is looked at.
    """
    probe = start_probe()  # imports torch while we count
    jobs = {name: job_workload(name) for name in PRESETS}
    found = machine(run_dir, read_probe(probe))
    target, why = best_target(found)
    return found | {
        "threads": threads_advice(found),
        "target": {"name": target.name, "kind": target.kind, "memory_bytes": target.memory_bytes, "why": why},
        "presets": {name: judge(name, target, jobs[name], found["cpu"]["fp32_flops"]) for name in PRESETS},
    }


def best_target(found: dict[str, Any]) -> tuple[Target, str]:
    """The card that works and has the most memory, else the CPU; and why."""
    works = [gpu for gpu in found["gpus"] if gpu["works"]]
    for gpu in sorted(works, key=lambda g: -(g["memory_total"] or 0)):
        free = gpu["memory_free"] if gpu["memory_free"] is not None else gpu["memory_total"]
        return Target(gpu["name"], gpu["device"], free, card=_known(gpu)), "a kernel ran on it"
    failed = [f"{gpu['name']}: {gpu['problem']}" for gpu in found["gpus"]]
    if "tpu" in found["platform"]["places"]:
        failed.append("a TPU was chosen, which this project cannot use: choose a T4 GPU in the notebook's settings")
    name = f"CPU, {found['cpu']['usable_cores']} cores"
    return Target(name, "cpu", found["memory_bytes"]["available"]), "; ".join(failed) or "there is no GPU"


def _known(gpu: dict[str, Any]) -> Card | None:
    try:
        return find_card(gpu["name"], gpu["memory_total"])
    except InputError:
        return None


def job_workload(preset: str) -> Workload:
    """What an epoch of a preset's job looks like."""
    config = load_config(preset)
    return workload(config, typical_store(config.model.n_genes), rules()["jobs"][preset]["cells"])[0]


def judge(preset: str, target: Target, work: Workload, cpu_flops: float | None) -> dict[str, Any]:
    """The outlook for the job that the hardware guide gives a preset, `work` being what an epoch of it looks like."""
    job = rules()["jobs"][preset]
    config = load_config(preset, {"training.num_epochs": job["epochs"]})
    return outlook(config, job["cells"], with_cpu_speed(target, config, cpu_flops), work)


def with_cpu_speed(target: Target, config: Config, cpu_flops: float | None) -> Target:
    """A CPU whose speed is guessed from a matrix product; any other target as it is.

    Wider models come nearer to the matrix product: the share is interpolated between the presets' by `hidden_dim`.
    """
    if target.kind != "cpu" or target.speed or not cpu_flops:
        return target
    widths = [load_config(name).model.hidden_dim for name in PRESETS]
    shares = [rules()["cpu_share"][name] for name in PRESETS]
    share = float(np.interp(np.log(config.model.hidden_dim), np.log(widths), shares))
    return replace(target, speed=Speed(0.0, 1 / (share * cpu_flops), tuple(rules()["spread"]), 0))


def outlook(config: Config, cells: int, target: Target, work: Workload) -> dict[str, Any]:
    """At once, by formula: `verdict`, `reason`, `change` (what would change it), `hours`, `memory_bytes`, `fits`.

    Args:
        config: what would be trained.
        cells: in the data set.
        target: where; a CPU needs a speed, see `with_cpu_speed`.
        work: what an epoch looks like.
    """
    words = rules()
    if target.card is None and target.speed is None:
        unknown = replace(target, speed=Speed(0.0, float("nan"), (1.0, 1.0), 0))
        size = cost(unknown, config, work, exact=False).memory_bytes
        told = "its speed is not known: the card is not in gpus.yaml; add it, or run `scfm estimate`"
        answer = {"verdict": None, "reason": told, "change": None, "hours": None}
        return answer | {"memory_bytes": size["total"], "fits": None}
    needs = cost(target, config, work, exact=False)
    total, hours = needs.memory_bytes["total"], [seconds / 3600 for seconds in needs.seconds]
    room = target.room
    answer = {
        "hours": named(hours),
        "memory_bytes": total,
        "fits": None if room is None else total <= room,
    }
    if answer["fits"] is False:
        return answer | {
            "verdict": "not practical",
            "reason": f"needs {gb(total)} for batches of {config.training.batch_size}; {gb(room)} are to be had",
            "change": f"scfm estimate --budget-vram {max(room, 1e8) / 1e9:.1f}GB finds what fits",
        }
    task = f"{cells:,} cells x {config.training.num_epochs} epochs"
    low, typical, high = (duration(seconds) for seconds in needs.seconds)
    about = f"{task} take about {typical} ({low} to {high}) and {gb(total)}"
    fitting = next((row for row in words["verdicts"] if hours[1] <= row["hours"]), None)
    reason = fitting["reason"] if fitting else f"more than {words['verdicts'][-1]['hours']} h"
    overnight = next(row["hours"] for row in words["verdicts"] if row["verdict"] == "good")
    change = None
    if hours[1] > overnight:
        fewer = int(cells * overnight / hours[1])
        fewer_cells = f"{fewer:,} cells (--set data.n_obs={fewer}) would be done overnight"
        change = fewer_cells if fewer >= 1000 else "a smaller preset"
        change += "" if target.kind == "cuda" else "; a free cloud GPU may do: scfm estimate --gpu T4"
    verdict = fitting["verdict"] if fitting else "not practical"
    return answer | {"verdict": verdict, "reason": f"{about}: {reason}", "change": change}


def threads_advice(found: dict[str, Any]) -> dict[str, Any]:
    """How many threads to use, and the lines that set them before torch is imported.

    Physical cores: two threads that share a core's arithmetic units gain nothing in matrix products.
    """
    cpu = found["cpu"]
    threads = min(cpu["usable_cores"], cpu["physical_cores"] or cpu["usable_cores"])
    return {
        "threads": threads,
        "shell": f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        "set_now": cpu["threads_set"],
    }


def cost_if(target: Target, config: Config, work: Workload, changes: dict[str, Any], exact: bool = True) -> Cost:
    """What the config takes with these dotted keys changed; at once by formula if not `exact`."""
    new = with_changes(config, changes)
    return cost(target, new, scaled(work, config, new), exact)


def max_batch_size(target: Target, config: Config, work: Workload) -> int | None:
    """The most cells in a forward pass whose longest batch fits; 0 if none does, None if the memory is not known."""
    if target.room is None:
        return None
    size = config.training.batch_size
    costs = [cost_if(target, config, work, {"training.batch_size": cells}) for cells in (size, 2 * size)]
    one, two = (found.memory_bytes["total"] for found in costs)
    per_cell = (two - one) / size  # memory is a straight line in the batch size
    room = target.room - (one - per_cell * size)
    return max(0, int(room / per_cell))


def levers(target: Target, config: Config, work: Workload, cells: int) -> list[dict[str, Any]]:
    """Each lever: the keys to set, bytes and seconds it saves (negative: costs), most memory first, then most time."""
    base = cost(target, config, work, exact=False)  # by formula on both sides, so that the difference is of one kind
    training = config.training
    tried: list[tuple[str, dict[str, Any], str]] = []
    if training.batch_size > 1:
        half = training.batch_size // 2
        twice = training.gradient_accumulation_steps * 2
        changes = {"training.batch_size": half, "training.gradient_accumulation_steps": twice}
        tried.append(("smaller batch with accumulation", changes, "the same steps, in more passes"))
    smaller = _smaller_model(config, work.longest.genes)
    if smaller:
        tried.append(("smaller model", smaller, "learns less from large data"))
    fewer = max(2, config.vocabulary_size // 2)
    changes = {"model.n_genes": fewer, "data.preprocessing.n_top_genes": None}
    tried.append(("fewer tokens", changes, "all genes are still read and predicted, fewer attend"))
    if precision_of(target, training) == "fp32":
        half_type = "training.bf16" if target.kind == "cpu" or not target.card or target.card.bf16 else "training.fp16"
        note = "no faster on CPUs, as measured" if target.kind == "cpu" else "and faster where the card has it"
        tried.append(("mixed precision", {half_type: True}, note))
    if not training.gradient_checkpointing:
        tried.append(("gradient checkpointing", {"training.gradient_checkpointing": True}, "recomputes each block"))
    if target.kind != "cpu":
        changes = {"training.batch_size": 4 * training.batch_size}
        tried.append(("larger batches", changes, "fewer, fuller steps; what they teach was not measured"))
    rows = []
    for name, changes, note in tried:
        new = cost_if(target, config, work, changes, exact=False)
        rows.append(
            {
                "lever": name,
                "set": [f"{key}={'null' if value is None else str(value).lower()}" for key, value in changes.items()],
                "saves_bytes": base.memory_bytes["total"] - new.memory_bytes["total"],
                "saves_seconds": base.seconds[1] - new.seconds[1],
                "note": note,
            }
        )
    subsample = {"lever": "subsample the cells", "set": [f"data.n_obs={cells // 2}"], "saves_bytes": 0}
    rows.append(subsample | {"saves_seconds": base.seconds[1] / 2, "note": "half the cells: half the time"})
    return sorted(rows, key=lambda row: (-row["saves_bytes"], -row["saves_seconds"]))


def _smaller_model(config: Config, genes: int) -> dict[str, Any] | None:
    """The next smaller preset's dimensions, or half of these where no preset is smaller."""
    size = sum(parameters(config.model, genes).values())
    presets = [load_config(name).model for name in reversed(PRESETS)]
    keys = ("n_genes", "gene_embedding_dim", "hidden_dim", "num_layers", "num_heads", "ff_dim")
    for model in presets:
        if sum(parameters(model, genes).values()) < size:
            return {f"model.{key}": getattr(model, key) for key in keys} | {"data.preprocessing.n_top_genes": None}
    halves = {"hidden_dim": config.model.hidden_dim // 2, "ff_dim": config.model.ff_dim // 2}
    if halves["hidden_dim"] < 1 or halves["ff_dim"] < 1 or halves["hidden_dim"] % config.model.num_heads:
        return None
    return {f"model.{key}": value for key, value in halves.items()}
