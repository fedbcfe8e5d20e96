"""The hardware guide, audited: each claim beside what was measured or estimated here, and `HARDWARE.md` from that.

    python benchmarks/guide_audit.py --measure [--data pbmc3k]   # minutes, alone on the machine: results/guide.json
    python benchmarks/guide_audit.py                             # HARDWARE.md from that file, the claims and gpus.yaml

`guide_claims.yaml` has the claims, `guide_answers.yaml` what was found where no formula can tell, and the guide's
contradictions, `hardware_template.md` our own words with places for the tables.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import scfm_lib as scfm
from scfm_lib.estimator.advice import cost_if, judge
from scfm_lib.estimator.estimate import disk_bytes
from scfm_lib.estimator.memory import window_bytes
from scfm_lib.estimator.speed import Speed, Workload, calibrate, workload
from scfm_lib.estimator.target import Cost, Target, card_target, cost, rules
from scfm_lib.estimator.text import dollars
from scfm_lib.estimator.workload import parameters, typical_store
from scfm_lib.hardware.gpus import find_card, machines
from scfm_lib.hardware.system import cpu_model
from scfm_lib.hardware.torch_probe import cpu_flops
from scfm_lib.runtime.threads import use_all_cores
from scfm_lib.units import duration, gb
from scfm_lib.versions import versions

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "results" / "guide.json"
JOBS = {name: (job["cells"], job["epochs"]) for name, job in rules()["jobs"].items()}
PEAK = """
import sys, torch, scfm_lib as scfm
config = scfm.load_config("default", {"training.checkpoint_every_steps": 10**6})
scfm.train(config, sys.argv[1], run_dir=sys.argv[2], verbose=False, tensorboard=False, max_steps=3)
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measure(data: str) -> dict[str, Any]:
    """Speed of each preset here, and peak memory and disk of real runs on copies of a real data set."""
    use_all_cores()
    found: dict[str, Any] = {"cpu": cpu_model(), "threads": torch.get_num_threads(), "system": platform.platform()}
    found["fp32_flops"] = cpu_flops()
    found["speed"] = {}
    for preset in JOBS:
        config = scfm.load_config(preset)
        work, batches = workload(config, typical_store(config.model.n_genes), JOBS[preset][0])
        speed = calibrate(config, batches, torch.device("cpu"), "fp32", seconds=10)
        found["speed"][preset] = {
            "per_step": speed.per_step,
            "per_flop": speed.per_flop,
            "spread": speed.spread,
            "loader_seconds": work.loader_seconds,
        }
        print(preset, found["speed"][preset], flush=True)
    found["runs"] = {}
    adata = scfm.read_adata(scfm.find_data(data))
    for cells in (10_000, 50_000, 100_000, 500_000):
        with tempfile.TemporaryDirectory() as folder:
            take = np.arange(cells) % adata.n_obs
            many = adata[take].copy()
            many.obs_names = [f"cell{number}" for number in range(cells)]
            many.X = many.layers.pop("counts")
            many.write_h5ad(Path(folder) / "many.h5ad")
            del many
            command = [sys.executable, "-c", PEAK, f"{folder}/many.h5ad", f"{folder}/run"]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            store = sum(file.stat().st_size for file in Path(folder, "run", "store").iterdir())
            found["runs"][cells] = {"peak_bytes": peak, "store_bytes": store}
            print(cells, found["runs"][cells], flush=True)
    return found | {"data": data, "versions": versions()}


@cache
def measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text())


def work_of(preset: str, cells: int | None = None) -> tuple[scfm.Config, Workload]:
    """A preset's job with the loader's time as it was measured, so that the same file gives the same document."""
    config = scfm.load_config(preset)
    work, _ = workload(config, typical_store(config.model.n_genes), cells or JOBS[preset][0])
    return config, Workload(**vars(work) | {"loader_seconds": measured()["speed"][preset]["loader_seconds"]})


def cpu_target(preset: str, cores: int) -> Target:
    """A CPU with so many cores as the measured one has two: from half of the speed-up by cores to all of it."""
    row, more = measured()["speed"][preset], cores / measured()["threads"]
    low, high = 1 / more, 1 / (1 + (more - 1) / 2)
    middle = (low + high) / 2
    speed = Speed(row["per_step"] * middle, row["per_flop"] * middle, (low / middle, high / middle), 0)
    return Target(f"CPU, {cores} cores", "cpu", 16 * 10**9, speed=speed)


@cache
def cost_on(preset: str, where: str, cells: int | None = None, epochs: int | None = None) -> Cost:
    """A preset's job on a card of gpus.yaml, or on "8 cores"."""
    config, work = work_of(preset, cells)
    config.training.num_epochs = epochs or JOBS[preset][1]
    cores = int(where.split()[0]) if where.endswith("cores") else None
    return cost(cpu_target(preset, cores) if cores else card_target(where), config, work)


def between(low: float, high: float) -> str:
    """A range of seconds."""
    return duration(low) if duration(low) == duration(high) else f"{duration(low)} to {duration(high)}"


def compare(claim: dict[str, Any], low: float, high: float) -> str:
    """The claim's range against ours: agrees where they overlap."""
    if claim["low"] is not None and high < claim["low"]:
        return "too high"
    if claim["high"] is not None and low > claim["high"]:
        return "too low"
    return "agrees"


def answer(claim: dict[str, Any], answers: dict[str, Any]) -> dict[str, str]:
    """`ours`, `how` (measured, estimated, counted, listed, run, not checkable here) and `verdict` for a claim."""
    if claim["id"] in answers:
        return {key: value.format(**figures()) for key, value in answers[claim["id"]].items()}
    return globals()[f"audit_{claim['kind']}"](claim)


@cache
def figures() -> dict[str, str]:
    """What the answers in words quote."""
    here = cost_on("minimal", f"{measured()['threads']} cores")
    config, work = work_of("minimal")
    row = measured()["speed"]["minimal"]
    step = row["per_step"] + row["per_flop"] * work.flops + row["loader_seconds"]
    return {
        "minimal_memory": gb(here.memory_bytes["total"]),
        "minimal_2_cores": f"{duration(here.seconds[1])} (10,000 cells, {config.training.num_epochs} epochs)",
        "loader_share": f"{100 * row['loader_seconds'] / step:.1f} %",
    }


def audit_parameters(claim: dict[str, Any]) -> dict[str, str]:
    count = sum(parameters(scfm.load_config(claim["preset"]).model).values())
    return {"ours": f"{count:,}", "how": "counted", "verdict": compare(claim, count, count)}


def audit_memory(claim: dict[str, Any]) -> dict[str, str]:
    config, work = work_of("default")
    config.training.bf16 = config.training.fp16 = False
    size = cost(card_target("RTX 3060"), config, work).memory_bytes[claim["component"]]
    return {"ours": f"{gb(size)} (fp32)", "how": "estimated", "verdict": compare(claim, size / 1e9, size / 1e9)}


def audit_vram(claim: dict[str, Any]) -> dict[str, str]:
    config, work = work_of(claim["preset"])
    mixed = cost(card_target("RTX 3060"), config, work).memory_bytes["total"]
    config.training.bf16 = config.training.fp16 = False
    full = cost(card_target("RTX 3060"), config, work).memory_bytes["total"]
    ours = f"{gb(mixed)} in bf16, {gb(full)} in fp32, batches of 32"
    return {"ours": ours, "how": "estimated", "verdict": compare(claim, mixed / 1e9, full / 1e9)}


def audit_fits(claim: dict[str, Any]) -> dict[str, str]:
    card = {"A100": "A100-SXM4-40GB", "M1 Pro/Max/Ultra": "Apple M1 Pro"}.get(claim["card"], claim["card"])
    target = card_target(card)
    needs = cost_on(claim["preset"], card).memory_bytes["total"]
    if target.memory_bytes is None:
        return {"ours": f"needs {gb(needs)} of the shared memory", "how": "estimated", "verdict": "agrees"}
    fits = needs <= 0.9 * target.memory_bytes
    ours = f"needs {gb(needs)} of its {target.memory_bytes / 2**30:g} GiB"
    return {"ours": ours, "how": "estimated", "verdict": "agrees" if fits else "does not fit"}


def audit_hours(claim: dict[str, Any]) -> dict[str, str]:
    card = {"A100": "A100-SXM4-40GB"}.get(claim["card"], claim["card"])
    where = card if card != "cpu" else f"{claim.get('cores', 8)} cores"
    low, typical, high = cost_on(claim["preset"], where, claim["cells"], claim["epochs"]).seconds
    ours = f"{duration(typical)} ({between(low, high)})"
    if card == "cpu":
        here = cost_on(claim["preset"], f"{measured()['threads']} cores", claim["cells"], claim["epochs"]).seconds[1]
        ours = f"{between(low, high)} on {where}; {duration(here)} on {measured()['threads']} cores, as calibrated"
    return {"ours": ours, "how": "estimated", "verdict": compare(claim, low / 3600, high / 3600)}


def audit_ram(claim: dict[str, Any]) -> dict[str, str]:
    runs = measured()["runs"]
    cells = str(claim.get("cells") or JOBS.get(claim.get("preset"), (100_000,))[0])
    peak = runs[cells]["peak_bytes"]
    if claim.get("preset") in {"minimal", "large"}:
        _, work = work_of(claim["preset"])
        more = (
            cost_on(claim["preset"], "2 cores").memory_bytes["total"]
            - cost_on("default", "2 cores").memory_bytes["total"]
        )
        more += window_bytes(work.mean_genes, 2048)
        peak = max(peak, peak + more)
        return {
            "ours": f"{gb(peak)} at most, trained on the CPU",
            "how": "estimated",
            "verdict": compare(claim, peak / 1e9, peak / 1e9),
        }
    ours = f"{gb(peak)} at most, DEFAULT prepared and trained on the CPU, {int(cells):,} cells"
    return {"ours": ours, "how": "measured", "verdict": compare(claim, peak / 1e9, peak / 1e9)}


def audit_storage(claim: dict[str, Any]) -> dict[str, str]:
    preset = claim.get("preset", "large")
    config, _ = work_of(preset)
    size = disk_bytes(config, JOBS[preset][0], typical_store(config.model.n_genes))["total"]
    ours = f"{gb(size)} for store and checkpoints, beside the data and the installed packages"
    return {"ours": ours, "how": "estimated", "verdict": compare(claim, size / 1e9, size / 1e9)}


def audit_store_size(claim: dict[str, Any]) -> dict[str, str]:
    size = measured()["runs"][str(claim["cells"])]["store_bytes"]
    return {"ours": gb(size), "how": "measured", "verdict": compare(claim, size / 1e9, size / 1e9)}


def audit_saving(claim: dict[str, Any]) -> dict[str, str]:
    config, work = work_of("default")
    config.training.bf16 = config.training.fp16 = False
    target = card_target("RTX 3060")
    size = claim.get("batch_size", 16)
    small = {"training.batch_size": size, "training.gradient_accumulation_steps": 32 // size}
    minimal = scfm.load_config("minimal").model.model_dump(exclude={"dropout"})
    changes = {
        "smaller_batch": small,
        "smaller_model": {f"model.{key}": value for key, value in minimal.items()},
        "fewer_genes": {"model.n_genes": 1000},
        "mixed_precision": {"training.bf16": True},
        "gradient_checkpointing": {"training.gradient_checkpointing": True},
    }.get(claim["lever"])
    if changes is None:
        return {"ours": "no memory; time and disk in proportion", "how": "counted", "verdict": "no memory saved"}
    base, new = (cost_if(target, config, work, c).memory_bytes for c in ({}, changes))
    share = 100 * (1 - new["total"] / base["total"])
    without = 100 * (1 - (new["total"] - new["overhead"]) / (base["total"] - base["overhead"]))
    ours = f"{share:.0f} % of {gb(base['total'])} (DEFAULT, fp32, 32 cells); {without:.0f} % of what is torch's own"
    verdict = compare(claim, share, without) if claim["low"] is not None else "agrees"
    return {"ours": ours, "how": "estimated", "verdict": verdict}


def audit_cost(claim: dict[str, Any]) -> dict[str, str]:
    preset, ranges = claim["preset"], []
    for machine in machines():
        if machine.usd_per_hour[1] == 0 or find_card(machine.card).compute_capability in {"5.2", "6.0", "6.1"}:
            continue
        seconds = cost_on(preset, machine.card, claim["cells"]).seconds
        ranges.append((machine.usd_per_hour[0] * seconds[0] / 3600, machine.usd_per_hour[1] * seconds[2] / 3600))
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    ours = f"{dollars(low, high)} over the rented cards of gpus.yaml"
    return {"ours": ours, "how": "estimated", "verdict": compare(claim, low, high)}


def _listed(claim: dict[str, Any]) -> Any:
    return next((m for m in machines() if m.name.lower().startswith(claim["machine"].lower())), None)


def audit_price(claim: dict[str, Any]) -> dict[str, str]:
    found = [m for m in machines() if m.name.lower().startswith(claim["machine"].lower())]
    low, high = min(m.usd_per_hour[0] for m in found), max(m.usd_per_hour[1] for m in found)
    ours = f"${low:.2f} to ${high:.2f} an hour ({found[0].priced}; {found[0].note})"
    return {"ours": ours, "how": "listed", "verdict": compare(claim, low, high)}


def audit_session(claim: dict[str, Any]) -> dict[str, str]:
    found = _listed(claim)
    hours = found.weekly_hours if "week" in (claim["unit"] or "") else found.session_hours
    return {"ours": f"{hours} h ({found.note})", "how": "listed", "verdict": compare(claim, hours, hours)}


def audit_card_memory(claim: dict[str, Any]) -> dict[str, str]:
    size = find_card(claim["card"]).memory_gib
    return {"ours": f"{size:g} GiB", "how": "listed", "verdict": compare(claim, size, size)}


def audit_class(claim: dict[str, Any]) -> dict[str, str]:
    flops, threads = measured()["fp32_flops"], measured()["threads"]
    found = []
    for preset in [claim["preset"]] if "preset" in claim else ["minimal", "default", "large"]:
        _, work = work_of(preset)
        if claim["card"] == "cpu":
            cores = claim.get("cores") or threads
            target, speed = Target(f"{cores} cores", "cpu", int(16e9)), flops * (1 + (cores / threads - 1) * 0.75)
        else:
            target, speed = card_target(claim["card"]), None
        found.append((preset, judge(preset, target, work, speed)["verdict"]))
    said = claim["verdict"]
    same = any(verdict == said for _, verdict in found)
    ours = ", ".join(f"{preset.upper()} {verdict}" for preset, verdict in found)
    return {
        "ours": ours,
        "how": "estimated",
        "verdict": "agrees" if same and len(found) == 1 else "depends on the preset" if len(found) > 1 else "too hard",
    }


def audit() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every claim with our answer, and the guide's contradictions."""
    claims = yaml.safe_load((HERE / "guide_claims.yaml").read_text())
    found = yaml.safe_load((HERE / "guide_answers.yaml").read_text())
    return [claim | answer(claim, found["answers"]) for claim in claims], found["contradictions"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows])


def plain(quote: str) -> str:
    """A quote without Markdown."""
    return quote.replace("**", "").replace("`", "").strip("- ")


def tables(rows: list[dict[str, Any]], contradictions: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of the template, by name."""
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    say = ["line", "the guide says", "here", "how", ""]

    def claims(*kinds: str) -> str:
        chosen = [row for row in rows if row["kind"] in kinds]
        name = lambda row: (f"{row['preset'].upper()}: " if row.get("preset") else "") + plain(row["quote"])  # noqa: E731
        return table(say, [[str(r["line"]), name(r), r["ours"], r["how"], r["verdict"]] for r in chosen])

    cards = [
        "GTX 1650",
        "RTX 3050",
        "RTX 3060",
        "RTX 4060",
        "RTX 4070",
        "RTX 3080",
        "RTX 4090",
        "T4",
        "L4",
        "A100-SXM4-40GB",
        "Apple M1 Pro",
    ]
    hours = [
        [
            find_card(card).name,
            *(
                f"{duration(c.seconds[1])} ({between(c.seconds[0], c.seconds[2])})"
                for c in (cost_on(p, card) for p in JOBS)
            ),
        ]
        for card in cards
    ]
    hours += [
        [f"CPU, {n} cores", *(between(*cost_on(p, f"{n} cores").seconds[::2]) for p in JOBS)] for n in (2, 4, 8, 16)
    ]
    counts = {
        verdict: sum(row["verdict"] == verdict for row in rows) for verdict in sorted({row["verdict"] for row in rows})
    }
    info = measured()
    return {
        "measured_on": f"{info['cpu']}, {info['threads']} threads, {info['fp32_flops'] / 1e9:.0f} GFLOP/s in a matrix "
        f"product, torch {info['versions']['torch']}",
        "count": str(len(rows)),
        "verdicts": table(["verdict", "claims"], [[verdict, str(count)] for verdict, count in counts.items()]),
        "parameters": claims("parameters"),
        "classes": claims("class"),
        "hours": claims("hours"),
        "all_hours": table(["", "MINIMAL, 10k cells x 50", "DEFAULT, 10k x 100", "LARGE, 100k x 100"], hours),
        "vram": claims("vram", "fits"),
        "memory": claims("memory"),
        "ram": claims("ram", "store_size", "storage"),
        "savings": claims("saving"),
        "setups": claims("setup_price", "card_memory"),
        "cloud": claims("price", "session", "cost"),
        "rented": table(
            ["machine", "card", "$ an hour", "read", "note"],
            [
                [
                    m.name,
                    m.card,
                    "free" if m.usd_per_hour[1] == 0 else f"{m.usd_per_hour[0]:.2f} to {m.usd_per_hour[1]:.2f}",
                    m.priced,
                    m.note,
                ]
                for m in machines()
            ],
        ),
        "cells": claims("cells_needed"),
        "commands": claims("command", "behaviour"),
        "contradictions": table(["lines", "what they say"], [[c["lines"], c["text"]] for c in contradictions]),
        "kinds": str(len(by_kind)),
    }


def document() -> str:
    """HARDWARE.md."""
    text = (HERE / "hardware_template.md").read_text(encoding="utf-8")
    for name, value in tables(*audit()).items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure this machine first (minutes)")
    parser.add_argument("--data", default="pbmc3k", help="data set whose cells are copied for the runs")
    options = parser.parse_args()
    if options.measure:
        MEASURED.write_text(json.dumps(measure(options.data), indent=1) + "\n")
    text = document()
    (HERE.parent / "HARDWARE.md").write_text(text, encoding="utf-8")
    rows, _ = audit()
    for row in rows:
        keys = ("id", "line", "kind", "quote", "ours", "how", "verdict")
        print(json.dumps({key: row[key] for key in keys}))


if __name__ == "__main__":
    main()
