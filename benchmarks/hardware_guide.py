"""HARDWARE.md: the guide to hardware, its figures from the estimator and from what was measured on one machine.

    python benchmarks/hardware_guide.py                            # HARDWARE.md, from the files below
    python benchmarks/hardware_guide.py --measure [--data pbmc3k]  # first measures this machine: minutes, alone on it

`hardware_template.md` has the words and places for figures, `{{name}}` or `{{name argument}}` (see `figure`),
`hardware_claims.yaml` the claims of the last section, `scfm_lib/hardware/gpus.yaml` cards and prices, and
`results/guide.json` the measurements. The same files give the same document: what the estimator would time on the spot
is read from the last.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import scfm_lib as scfm
from scfm_lib.estimator.advice import outlook
from scfm_lib.estimator.speed import Speed, calibrate
from scfm_lib.estimator.target import Cost, Target, card_target, cost, rules
from scfm_lib.estimator.text import dollars
from scfm_lib.estimator.workload import NOMINAL_GENES, Workload, typical_store, workload
from scfm_lib.hardware.gpus import Machine, find_card, machines
from scfm_lib.hardware.system import cpu_model
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.hardware.torch_probe import cpu_flops
from scfm_lib.units import duration, gb
from scfm_lib.versions import versions

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "results" / "guide.json"
JOBS = rules()["jobs"]  # cells and epochs of each preset
OLDEST = 7.5  # compute capability for which torch from PyPI has kernels (gpus.yaml)
PEAK = """
import sys, torch, scfm_lib as scfm
config = scfm.load_config("default", {"training.checkpoint_every_steps": 10**6})
scfm.train(config, sys.argv[1], run_dir=sys.argv[2], verbose=False, tensorboard=False, max_steps=int(sys.argv[3]))
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measure(data: str) -> dict[str, Any]:
    """Seconds of each preset's steps here, and peak memory and disk (bytes) of short runs on copies of real cells."""
    use_all_cores()
    found: dict[str, Any] = {"cpu": cpu_model(), "threads": torch.get_num_threads(), "system": platform.platform()}
    found |= {"fp32_flops": cpu_flops(), "speed": {}, "runs": {}}
    for preset in JOBS:
        config = scfm.load_config(preset)
        work, batches = workload(config, typical_store(config.model.n_genes), JOBS[preset]["cells"])
        speed = calibrate(config, batches, work.longest.genes, torch.device("cpu"), "fp32", seconds=10)
        row = {"per_step": speed.per_step, "per_flop": speed.per_flop, "spread": speed.spread}
        found["speed"][preset] = row | {"loader_seconds": work.loader_seconds}
        print(preset, found["speed"][preset], flush=True)
    adata = scfm.read_adata(scfm.find_data(data))
    for cells in (10_000, 100_000, 500_000):
        with tempfile.TemporaryDirectory() as folder:
            many = adata[np.arange(cells) % adata.n_obs].copy()
            many.obs_names = [f"cell{number}" for number in range(cells)]
            many.X = many.layers.pop("counts")
            many.write_h5ad(Path(folder) / "many.h5ad")
            del many
            peak = peak_bytes(Path(folder) / "many.h5ad", Path(folder) / "run", steps=3)
            store = sum(file.stat().st_size for file in Path(folder, "run", "store").iterdir())
            found["runs"][str(cells)] = {"peak_bytes": peak, "store_bytes": store}
            print(cells, found["runs"][str(cells)], flush=True)
    found["long_run"] = long_run(data)
    return found | {"data": data, "versions": versions()}


def long_run(data: str, steps: int = 120) -> dict[str, Any]:
    """Peak memory (bytes) of more steps of DEFAULT on the data set itself."""
    with tempfile.TemporaryDirectory() as folder:
        return {"data": data, "steps": steps, "peak_bytes": peak_bytes(data, Path(folder) / "run", steps)}


def peak_bytes(data: str | Path, run_dir: Path, steps: int) -> int:
    """Peak memory of a process of its own that prepares the data and trains DEFAULT for so many steps."""
    command = [sys.executable, "-c", PEAK, str(data), str(run_dir), str(steps)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@cache
def measured() -> dict[str, Any]:
    """What `measure` found, as stored."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


@cache
def job(preset: str) -> tuple[scfm.Config, Workload]:
    """A preset's job, with the stored time to prepare a batch in the place of the one measured on the spot."""
    config = scfm.load_config(preset, {"training.num_epochs": JOBS[preset]["epochs"]})
    work, _ = workload(config, typical_store(config.model.n_genes), JOBS[preset]["cells"])
    return config, replace(work, loader_seconds=measured()["speed"][preset]["loader_seconds"])


def target(preset: str, where: str) -> Target:
    """A card of gpus.yaml, or "8 cores": the measured CPU, from half of what more cores could gain to all of it."""
    if not where.endswith(" cores"):
        return card_target(where)
    row, more = measured()["speed"][preset], int(where.split()[0]) / measured()["threads"]
    low, high = 1 / more, 1 / (1 + (more - 1) / 2)
    middle = (low + high) / 2
    speed = Speed(row["per_step"] * middle, row["per_flop"] * middle, (low / middle, high / middle), 0)
    return Target(f"CPU, {where}", "cpu", 16 * 10**9, speed=speed)


@cache
def takes(preset: str, where: str) -> Cost:
    """Memory (bytes) and time (s) of a preset's job on a card or a CPU."""
    return cost(target(preset, where), *job(preset))


def hours(preset: str, where: str) -> str:
    """Typical time of a preset's job, and its range."""
    low, typical, high = (duration(seconds) for seconds in takes(preset, where).seconds)
    return typical if low == high else f"{typical} ({low} to {high})"


def verdict(preset: str, where: str) -> str:
    """The word `scfm check` has for a preset's job there."""
    config, work = job(preset)
    return outlook(config, JOBS[preset]["cells"], target(preset, where), work)["verdict"]


@cache
def estimate(preset: str, card: str = "RTX 3060", full: bool = False) -> dict[str, Any]:
    """What `scfm estimate` says of a job on a card, if wanted in fp32; its seconds, partly timed here, are not used."""
    config = scfm.load_config(preset, {"training.bf16": False, "training.fp16": False} if full else None)
    return scfm.estimate(config, gpu=card, cells=JOBS[preset]["cells"])


def needs(preset: str, full: bool = False) -> int:
    """Bytes of a card's memory for a preset's job, in half precision or in fp32."""
    return estimate(preset, full=full)["memory_bytes"]["total"]


def states(preset: str) -> int:
    """Bytes of parameters, gradients and what the optimizer keeps."""
    return sum(estimate(preset)["memory_bytes"][part] for part in ("parameters", "gradients", "optimizer"))


def half_saves(preset: str) -> float:
    """Per cent of the memory in fp32 that half precision saves."""
    return 100 * (1 - needs(preset) / needs(preset, full=True))


def loader_share(preset: str) -> float:
    """Per cent of a step on the measured CPU that preparing its batch takes."""
    row = measured()["speed"][preset]
    step = row["per_step"] + row["per_flop"] * job(preset)[1].flops + row["loader_seconds"]
    return 100 * row["loader_seconds"] / step


def usd(preset: str, machine: Machine) -> tuple[float, float]:
    """US dollars for a preset's job: least hours at the lowest price, most hours at the highest."""
    low, _, high = takes(preset, machine.card).seconds
    return machine.usd_per_hour[0] * low / 3600, machine.usd_per_hour[1] * high / 3600


def usd_anywhere(preset: str) -> tuple[float, float]:
    """The same over all machines that cost something and whose card current torch can use."""
    paid = [machine for machine in machines() if machine.usd_per_hour[1] > 0]
    ranges = [usd(preset, m) for m in paid if float(find_card(m.card).compute_capability) >= OLDEST]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def rented(name: str) -> Machine:
    """A rented or free machine of gpus.yaml."""
    return next(machine for machine in machines() if machine.name == name)


def price(machine: Machine) -> str:
    """US dollars an hour."""
    low, high = machine.usd_per_hour
    return "free" if high == 0 else f"${low:.2f}" if low == high else f"${low:.2f} to ${high:.2f}"


def offer(machine: Machine) -> str:
    """Cells of a table: the card, the price and its month, US dollars for DEFAULT's and for LARGE's job."""
    jobs = (dollars(*usd(preset, machine)) for preset in ("default", "large"))
    return " | ".join([machine.card, price(machine), machine.priced, *jobs])


def lever(name: str) -> str:
    """What a lever of `scfm estimate` saves of DEFAULT's and of LARGE's memory in fp32 on a card."""
    found = [{row["lever"]: row for row in estimate(p, full=True)["levers"]} for p in ("default", "large")]
    return " | ".join(gb(levers[name]["saves_bytes"]) for levers in found)


def claims() -> list[dict[str, Any]]:
    """The claims of `hardware_claims.yaml`, with what holds `here` filled in and a `verdict` each."""
    return [answered(claim) for claim in yaml.safe_load((HERE / "hardware_claims.yaml").read_text(encoding="utf-8"))]


def answered(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim with its figures; one with a `range` gets its verdict: it agrees where the range and ours overlap."""
    answer = {"here": filled(claim.get("here", "{{" + claim.get("figure", "") + "}}"))}
    if "range" in claim:
        name, first, rest = f"{claim['figure']} ".split(" ", 2)
        (low, high), ours = claim["range"], BOUNDS[name](first, rest.strip())
        answer["verdict"] = "too high" if max(ours) < low else "too low" if min(ours) > high else "agrees"
    return claim | answer


# What stands in the place of {{name preset argument}}; without a preset, the cells of all three.
OF_PRESET: dict[str, Callable[[str, str], str]] = {
    "parameters": lambda preset, _: f"{estimate(preset)['parameters']:,}",
    "verdict": verdict,
    "hours": hours,
    "states": lambda preset, _: gb(states(preset)),
    "activations": lambda preset, _: gb(estimate(preset)["memory_bytes"]["activations"]),
    "memory": lambda preset, _: gb(needs(preset)),
    "full_memory": lambda preset, _: gb(needs(preset, full=True)),
    "half_saves": lambda preset, _: f"{half_saves(preset):.0f} %",
    "largest_batch": lambda preset, card: f"{estimate(preset, card)['max_batch_size']:,}",
    "cpu_memory": lambda preset, _: gb(takes(preset, "2 cores").memory_bytes["total"]),
    "disk": lambda preset, _: gb(estimate(preset)["disk_bytes"]["total"]),
    "loader": lambda preset, _: f"{loader_share(preset):.1f} %",
    "usd": lambda preset, _: dollars(*usd_anywhere(preset)),
}
# What stands in the place of {{name argument}}.
OTHERS: dict[str, Callable[[str], str]] = {
    "genes": lambda _: f"{NOMINAL_GENES:,}",
    "machine": lambda _: "{cpu}, {threads} threads, torch {versions[torch]}".format(**measured()),
    "gflops": lambda _: f"{measured()['fp32_flops'] / 1e9:.0f}",
    "thresholds": lambda _: ", ".join(f"*{row['verdict']}* up to {row['hours']} h" for row in rules()["verdicts"]),
    "store": lambda cells: gb(measured()["runs"][cells]["store_bytes"]),
    "peak": lambda cells: gb(measured()["runs"][cells]["peak_bytes"]),
    "long_run": lambda _: "{steps} steps on {data} reached {peak}".format(
        **measured()["long_run"], peak=gb(measured()["long_run"]["peak_bytes"])
    ),
    "price": lambda name: price(rented(name)),
    "offer": lambda name: offer(rented(name)),
    "lever": lever,
    "claims": lambda _: "\n".join("| {claim} | {here} | {how} | {verdict} |".format(**claim) for claim in claims()),
}
# The figures that claims are compared with, in the claims' units.
BOUNDS: dict[str, Callable[[str, str], Sequence[float]]] = {
    "parameters": lambda preset, _: [estimate(preset)["parameters"] / 1e6],
    "hours": lambda preset, where: [seconds / 3600 for seconds in takes(preset, where).seconds],
    "memory": lambda preset, _: [needs(preset) / 1e9, needs(preset, full=True) / 1e9],
    "half_saves": lambda preset, _: [half_saves(preset)],
    "usd": lambda preset, _: usd_anywhere(preset),
    "peak": lambda cells, _: [measured()["runs"][cells]["peak_bytes"] / 1e9],
}


def figure(place: re.Match) -> str:
    """The text for a {{place}} of the template or of a claim."""
    name, argument = place[1], place[2]
    if name not in OF_PRESET:
        return OTHERS[name](argument)
    first, _, rest = argument.partition(" ")
    return OF_PRESET[name](first, rest) if first in JOBS else " | ".join(OF_PRESET[name](p, argument) for p in JOBS)


def filled(text: str) -> str:
    """The text with its figures."""
    return re.sub(r"{{(\w+) ?([^}]*)}}", figure, text)


def document() -> str:
    """HARDWARE.md."""
    return filled((HERE / "hardware_template.md").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure this machine first (minutes)")
    parser.add_argument("--data", default="pbmc3k", help="data set whose cells are copied for the runs")
    options = parser.parse_args()
    if options.measure:
        MEASURED.write_text(json.dumps(measure(options.data), indent=1) + "\n", encoding="utf-8")
    (HERE.parent / "HARDWARE.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
