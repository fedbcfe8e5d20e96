"""Why is my training slow? Answered from what the run itself recorded: `metrics.jsonl` and `config.yaml`.

A step waits for the loader, for many small operations, for arithmetic in the wrong precision or done twice, or for the
host that talks to its card. Which of them follows from shares of time, without a profiler. The rules for cards were
written without one at hand and tried on made-up figures only (`notebooks/exercises/data/`).
"""

import math
from pathlib import Path
from typing import Any

from ..config import Config, load_config
from ..data.store import MOST_GENES
from ..errors import InputError
from ..runtime.logger import read_metrics
from ..units import gb

# When a cause is named. Shares are of the time of a training step.
# LOADER is for waiting for batches: usual is 0.006 (HARDWARE.md, "Claims you will meet elsewhere").
LOADER = 0.20  # without it a run would be a quarter faster
# Cells of a forward pass at MINIMAL's width: one thread reached 61, 71, 92, 87 and 88 cells/s with 1, 2, 4, 8 and 32 of
# the bundled cells. LARGE reached as much with 1 as with 4, so the bound falls with the square of the width.
SMALL_CPU = 4
SMALL_CARD = 64  # cells of a forward pass: a card works on thousands of tokens at once, so fewer leave it idle
IDLE = 50  # per cent: a card that is busy less than half of the time waits (HARDWARE.md, "Watching a card")
TALK = 10  # steps between log rows: for each row the host waits for the card, and then the card for the host
TENSOR_CORES = 7.0  # compute capability from which cards have fast half precision; bf16 in hardware from 8.0
GUESSING = math.log(MOST_GENES)  # nats a molecule if every gene is thought as likely, of the most a store can have
BF16_TOLD = (
    "autocast casts every weight in every step: level with fp32 at best, sixteen times slower on CPUs without bf16"
)
TWICE_TOLD = "every block's forward pass is computed twice, so that less is kept: a third to half as long again"
TWICE_CURE = "switch gradient checkpointing off, if memory allows (scfm estimate)"
WARM_UP = 4  # with so many rows or more the first is left out: starting workers and a card is not a step's time


def doctor(run: str | Path) -> dict[str, Any]:
    """What slows a run down, in the order in which to try it.

    Args:
        run: a run's folder; one that still trains will do.

    Returns:
        `run`, `healthy`, `figures` (means over the steps, see `summary`), `findings` (each `cause`, `evidence`, `do`,
        and `set`, the changes for `--set`), and `notes` about what could not be judged.

    Raises:
        InputError: no run is there, or one that recorded no times.
    """
    folder = Path(run)
    if not (folder / "metrics.jsonl").is_file() or not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder} is no run: it needs config.yaml and metrics.jsonl; give a folder made by scfm train"
        )
    config = load_config(folder / "config.yaml")
    return {"run": str(folder)} | diagnose(read_metrics(folder / "metrics.jsonl"), config)


def diagnose(rows: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """`doctor` for the rows of a `metrics.jsonl`.

    Raises:
        InputError: no row says how long a step took.
    """
    figures = summary(rows)
    settings, share, busy = config.training, figures["data_share"], figures.get("gpu_percent")
    on_card = figures["device"] == "cuda"
    starved = share >= LOADER
    idle = on_card and not starved and busy is not None and busy < IDLE
    cells = settings.batch_size
    small = cells < SMALL_CARD if on_card else cells * max(1, config.model.hidden_dim / 128) ** 2 < SMALL_CPU
    findings = []
    if starved:
        findings.append(_loader(figures, settings.num_workers))
    if small and (idle or not on_card):
        findings.append(_tiny_batch(figures, cells, on_card))
    pieces, talks = settings.gradient_accumulation_steps, settings.log_every_steps < TALK
    if idle and (talks or pieces > 1 or not small):
        findings.append(_host(figures, cells, pieces, settings.log_every_steps))
    if on_card and figures["precision"] == "fp32" and figures.get("compute_capability", 0) >= TENSOR_CORES:
        findings.append(_full_precision(figures))
    if not on_card and figures["precision"] == "bf16":
        findings.append(_finding("bf16 on a CPU", BF16_TOLD, "compute in fp32", "training.bf16=false"))
    if settings.gradient_checkpointing:
        findings.append(_finding("checkpointing", TWICE_TOLD, TWICE_CURE, "training.gradient_checkpointing=false"))
    losses = [row["loss"] for row in rows if "loss" in row]
    if losses and losses[-1] > GUESSING:
        evidence = f"the loss is {losses[-1]:.1f}: worse than guessing every gene alike, at most {GUESSING:.1f}"
        lower = f"training.learning_rate={settings.learning_rate / 4:g}"
        findings.append(_finding("loss", evidence, "begin anew with a lower learning rate", lower))
    notes = sorted({row["note"] for row in rows if "note" in row})
    if on_card and busy is None:
        notes.append("the driver did not say how busy the card was, so batch size and host were not judged")
    if on_card and starved:
        notes.append("mend the loader first, then ask again: how busy the card is says little while it waits for data")
    return {"healthy": not findings, "figures": figures, "findings": findings, "notes": notes}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the training steps that a run recorded on its last machine, weighted by the steps of each row.

    Returns:
        `steps` looked at, `step_seconds`, of which `data_seconds` waiting for the loader, their ratio `data_share`,
        `cells_per_second`; the last row's `device`, `precision` and `cores`, and on a card `card` and
        `compute_capability`; means of `cpu_percent`, `ram_bytes` and, if recorded, `gpu_percent`, `gpu_memory_bytes`.

    Raises:
        InputError: no row says how long a step took.
    """
    timed = [row for row in rows if "step_seconds" in row and "device" in row]
    if not timed:
        raise InputError(
            "no step was timed in this run: it just began (see training.log_every_steps), or an older version made it; "
            "train some steps and ask again"
        )
    weights = [row["step"] - before for row, before in zip(timed, [0, *(r["step"] for r in timed)], strict=False)]
    last = timed[-1]
    pairs = [(row, max(1, weight)) for row, weight in zip(timed, weights, strict=True)]
    pairs = [(row, weight) for row, weight in pairs if all(row.get(k) == last.get(k) for k in ("device", "card"))]
    pairs = pairs[1:] if len(pairs) >= WARM_UP else pairs
    steps = sum(weight for _, weight in pairs)

    def mean(key: str) -> float | None:
        known = [(row[key], weight) for row, weight in pairs if key in row]
        return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None

    names = ("step_seconds", "data_seconds", "cpu_percent", "ram_bytes", "gpu_percent", "gpu_memory_bytes")
    figures = {key: last.get(key) for key in ("device", "card", "compute_capability", "precision", "cores")}
    figures |= {"steps": steps} | {key: mean(key) for key in names}
    figures["data_share"] = figures["data_seconds"] / figures["step_seconds"]
    cells = sum(row["cells_per_second"] * row["step_seconds"] * weight for row, weight in pairs)
    figures["cells_per_second"] = cells / (figures["step_seconds"] * steps)
    return {key: value for key, value in figures.items() if value is not None}


def _finding(cause: str, evidence: str, do: str, *changes: str) -> dict[str, Any]:
    return {"cause": cause, "evidence": evidence, "do": do, "set": list(changes)}


def _loader(figures: dict[str, Any], workers: int) -> dict[str, Any]:
    share, cores = figures["data_share"], figures["cores"]
    evidence = (
        f"{share:.0%} of a step is spent waiting for the loader ({_ms(figures['data_seconds'])} of "
        f"{_ms(figures['step_seconds'])}); without that {1 / (1 - min(share, 0.99)):.1f} times as fast"
    )
    wanted = max(1, min(4, cores - 1)) if workers == 0 else min(2 * workers, max(1, cores - 1))
    do = "keep the store on a disk in this machine, not on a network drive"
    if wanted > workers:
        do += "; let other processes prepare batches while the model learns"
        return _finding("loader", evidence, do, f"training.num_workers={wanted}")
    return _finding("loader", evidence, do)


def _tiny_batch(figures: dict[str, Any], cells: int, on_card: bool) -> dict[str, Any]:
    busy = f", and the card is busy {figures['gpu_percent']:.0f} % of the time" if on_card else ""
    evidence = (
        f"{cells} cells a forward pass: {figures['cells_per_second']:.0f} cells/s in steps of "
        f"{_ms(figures['step_seconds'])}; so few share the fixed price of a step, such as starting its operations{busy}"
    )
    do = "take more cells at once, and choose the learning rate anew; scfm estimate says what fits"
    return _finding("tiny batch", evidence, do, f"training.batch_size={max(128, 2 * cells) if on_card else 32}")


def _host(figures: dict[str, Any], cells: int, pieces: int, log_every: int) -> dict[str, Any]:
    evidence = (
        f"the card is busy {figures['gpu_percent']:.0f} % of the time, and does not wait for the loader "
        f"({figures['data_share']:.0%}): it waits for the host"
    )
    changes, reasons = [], []
    if log_every < TALK:
        often = "every step" if log_every == 1 else f"every {log_every} steps"
        reasons.append(f"a row is logged {often}, and for each the host stops until the card has done all it was told")
        changes.append("training.log_every_steps=50")
    if pieces > 1:
        reasons.append(f"every step is sent in {pieces} pieces")
        changes += [f"training.batch_size={cells * pieces}", "training.gradient_accumulation_steps=1"]
    do = (
        "give the card more at a time, and ask it for numbers less often (as far as memory allows)"
        if changes
        else ("a larger batch gives the card more at a time; or look for .item(), .cpu() and print in what you added")
    )
    return _finding("host", "; ".join([evidence, *reasons]), do, *changes)


def _full_precision(figures: dict[str, Any]) -> dict[str, Any]:
    half = "bf16" if figures["compute_capability"] >= 8 else "fp16"
    busy = f", busy {figures['gpu_percent']:.0f} % of the time" if "gpu_percent" in figures else ""
    evidence = (
        f"{figures['card']} (compute capability {figures['compute_capability']:.1f}){busy}, computes in fp32; "
        f"what it has for {half} lies idle"
    )
    return _finding("no mixed precision", evidence, f"let the forward pass use {half}", f"training.{half}=true")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def doctor_text(found: dict[str, Any]) -> str:
    """The answer for people."""
    f = found["figures"]
    where = " ".join(str(f[key]) for key in ("device", "card", "precision") if key in f)
    lines = [
        f"{f['steps']:,} steps on {where}: {_ms(f['step_seconds'])} a step, {f['cells_per_second']:.0f} cells/s, "
        f"{f['data_share']:.0%} waiting for the loader",
        f"CPU {f['cpu_percent'] / 100:.1f} of {f['cores']} cores, RAM {gb(f['ram_bytes'])}"
        + (f", card busy {f['gpu_percent']:.0f} %" if "gpu_percent" in f else "")
        + (f", card memory {gb(f['gpu_memory_bytes'])}" if "gpu_memory_bytes" in f else ""),
    ]
    for number, finding in enumerate(found["findings"], start=1):
        lines += [f"{number}. {finding['cause'].upper()}: {finding['evidence']}.", f"   What to do: {finding['do']}"]
        lines += [f"   {' '.join(f'--set {change}' for change in finding['set'])}"] if finding["set"] else []
    if found["healthy"]:
        lines.append("Healthy: nothing here holds the training back.")
    return "\n".join([*lines, *(f"Note: {note}." for note in found["notes"])])
