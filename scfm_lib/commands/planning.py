"""Before training: what is here, what it would take, the config and the counts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import scfm_lib as scfm

from .options import ConfigFile, Device, Json, Layer, Preset, Set, config_from, say


def config_command(preset: Annotated[str, typer.Argument(help="minimal, default or large")]) -> None:
    """Print a preset as YAML, to edit: scfm config minimal > my.yaml."""
    from ..config import preset_text

    print(preset_text(preset), end="")


def check_command(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="where runs will be written")] = Path(), json_: Json = False
) -> None:
    """Say what is in this machine, and which presets it can train."""
    from ..estimator.text import check_text

    found = scfm.check(run_dir)
    print(json.dumps(found) if json_ else check_text(found))


def estimate_command(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    gpu: Annotated[str | None, typer.Option(help='a card such as "RTX 3080"; this machine when unset')] = None,
    cells: Annotated[str | None, typer.Option(help="in the data set: 20000, 20k; 10,000 when unset")] = None,
    epochs: Annotated[int | None, typer.Option(help="the preset's when unset")] = None,
    data: Annotated[str | None, typer.Option("--data", "--data-path", "--data_path", help="cells to look at")] = None,
    genes_per_cell: Annotated[float | None, typer.Option(help="expressed genes of a cell")] = None,
    budget_vram: Annotated[
        str | None, typer.Option(help="find what fits in so much memory: 4GB, 4GiB; 4 is GB")
    ] = None,
    deadline: Annotated[str | None, typer.Option(help="find what is done in time: 2h, 30min; 2 is hours")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Say what training would take: parameters, memory, disk, time, cost, and what would save some."""
    from ..estimator.text import estimate_text, fit_text
    from ..units import parse_bytes, parse_count, parse_seconds

    where: dict[str, Any] = {"cells": parse_count(cells) if cells else None, "data": data, "gpu": gpu, "device": device}
    if not (budget_vram or deadline):
        pairs = [*(set_ or []), *([f"training.num_epochs={epochs}"] if epochs is not None else [])]
        found = scfm.estimate(config_from(preset, config, pairs), genes_per_cell=genes_per_cell, **where)
        print(json.dumps(found) if json_ else estimate_text(found))
        return
    if config or set_:
        raise scfm.InputError("--budget-vram and --deadline choose the settings; leave out --config and --set")
    where |= {"presets": (preset.lower(),)} if preset else {}
    where["budget_bytes"] = parse_bytes(budget_vram) if budget_vram else None
    where["deadline_seconds"] = parse_seconds(deadline) if deadline else None
    fit = scfm.best_fit(epochs=epochs, mean_genes=genes_per_cell, say=say, **where)
    print(json.dumps(fit) if json_ else fit_text(fit))


def prepare_command(
    data: Annotated[list[str], typer.Argument(help="one or more data sets, aligned by gene")],
    out: Annotated[Path, typer.Option(help="folder to write; must not exist")],
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    layer: Layer = None,
) -> None:
    """Check the counts, choose the genes and write a memory-mapped store."""
    store = scfm.prepare([scfm.find_data(source) for source in data], config_from(preset, config, set_, layer), out)
    print("\n".join([*store.report, str(store.dir)]))
