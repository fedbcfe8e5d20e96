"""Can I train this here? What is in the machine, and a verdict for each preset with its reason and the way out.

Hours are estimated for the job the hardware guide gives each preset: on a CPU from the speed of a matrix product that
`probe.py` measures, on a card from its published figures. `scfm estimate` measures real steps and is nearer.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .cards import Card, find_card
from .config import PRESETS, Config, InputError, load_config
from .machine import machine, read_probe, start_probe
from .quantities import duration, gb
from .speed import Speed, Workload, workload
from .target import Target, cost, named, rules
from .typical import typical_store


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
        change = "a smaller preset"
        if fewer >= 1000:
            change = f"{fewer:,} cells (--set data.n_obs={fewer}) would be done overnight"
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
