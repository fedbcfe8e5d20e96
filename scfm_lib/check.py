"""Can I train this here? What is in the machine, and a verdict for each preset with its reason and the way out.

Hours are estimated for the job the hardware guide gives each preset: on a CPU from the speed of a matrix product that
`probe.py` measures, on a card from its published figures. `scfm estimate` measures real steps and is nearer.
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from .cards import Card, find_card
from .config import PRESETS, InputError, load_config
from .machine import machine, read_probe, start_probe
from .speed import Speed, Workload, workload
from .target import Target, cost
from .typical import genes_per_cell, typical_store


@cache
def rules() -> dict[str, Any]:
    """`verdicts.yaml`: jobs, thresholds and their reasons."""
    return yaml.safe_load((resources.files("scfm_lib") / "verdicts.yaml").read_text(encoding="utf-8"))


def check(run_dir: str | Path = ".") -> dict[str, Any]:
    """The machine, and under `presets` the verdict, reason, hours and way out of each; ready for JSON.

    Args:
        run_dir: where runs will be written; its disk is looked at.
    """
    probe = start_probe()  # imports torch while we count
    jobs = {name: _job(name) for name in PRESETS}
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
    name = f"CPU, {found['cpu']['usable_cores']} cores"
    return Target(name, "cpu", found["memory_bytes"]["available"]), "; ".join(failed) or "there is no GPU"


def _known(gpu: dict[str, Any]) -> Card | None:
    try:
        return find_card(gpu["name"], gpu["memory_total"])
    except InputError:
        return None


def judge(preset: str, target: Target, work: Workload, cpu_flops: float | None) -> dict[str, Any]:
    """A preset's verdict on a target: `verdict`, `reason`, `change` (what would change it), `hours`, `memory_bytes`."""
    words, job = rules(), rules()["jobs"][preset]
    config = load_config(preset, {"training.num_epochs": job["epochs"]})
    task = f"{job['cells']:,} cells x {job['epochs']} epochs"
    low, high = words["spread"]
    if target.kind == "cpu" and cpu_flops:
        per_flop = 1 / (words["cpu_share"][preset] * cpu_flops)
        target = Target(target.name, "cpu", target.memory_bytes, speed=Speed(0.0, per_flop, (low, high), 0))
    if target.card is None and target.speed is None:
        speed = Speed(0.0, float("nan"), (1.0, 1.0), 0)
        unknown = Target(target.name, target.kind, target.memory_bytes, speed=speed)
        size = cost(unknown, config, work, exact=False).memory_bytes
        told = "its speed is not known: the card is not in gpus.yaml; add it, or run `scfm estimate`"
        return {"verdict": None, "reason": told, "change": None, "hours": None, "memory_bytes": size["total"]}
    needs = cost(target, config, work, exact=False)
    hours = [seconds / 3600 for seconds in needs.seconds]
    answer = {
        "hours": dict(zip(("low", "typical", "high"), hours, strict=True)),
        "memory_bytes": needs.memory_bytes["total"],
    }
    room = None if target.memory_bytes is None else words["memory_share"] * target.memory_bytes
    size = f"{needs.memory_bytes['total'] / 1e9:.1f} GB"
    if room is not None and needs.memory_bytes["total"] > room:
        return answer | {
            "verdict": "not practical",
            "reason": f"needs {size} for batches of {config.training.batch_size}; {room / 1e9:.1f} GB are to be had",
            "change": f"scfm estimate --preset {preset} --budget-vram {max(room, 1e8) / 1e9:.1f}GB finds what fits",
        }
    fitting = next((row for row in words["verdicts"] if hours[1] <= row["hours"]), None)
    about = f"{task} take about {_hours(hours[1])} ({_hours(hours[0])} to {_hours(hours[2])}) and {size}"
    overnight = next(row["hours"] for row in words["verdicts"] if row["verdict"] == "good")
    if fitting and hours[1] <= overnight:
        return answer | {"verdict": fitting["verdict"], "reason": f"{about}: {fitting['reason']}", "change": None}
    fewer = int(job["cells"] * overnight / hours[1])
    change = (
        f"{fewer:,} cells (--set data.n_obs={fewer}) would be done overnight" if fewer >= 1000 else "a smaller preset"
    )
    change += "" if target.kind == "cuda" else "; so would a free cloud GPU help: see `scfm estimate --gpu T4`"
    verdict = fitting["verdict"] if fitting else "not practical"
    reason = fitting["reason"] if fitting else f"more than {words['verdicts'][-1]['hours']} h"
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


def _job(preset: str) -> Workload:
    config, job = load_config(preset), rules()["jobs"][preset]
    store = typical_store(config.model.n_genes, genes_per_cell(config.model.n_genes))
    return workload(config, store, job["cells"])[0]


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"
