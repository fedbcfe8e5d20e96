"""Training a model, seeing why it is slow, and the demonstration of it all."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import scfm_lib as scfm

from .options import (
    PATHS_HELP,
    RESUME_HELP,
    ConfigFile,
    Device,
    Json,
    Layer,
    NewRunDir,
    Preset,
    Set,
    config_from,
    print_report,
    say,
)


def train_command(
    data_path: Annotated[list[str] | None, typer.Option("--data-path", "--data_path", help=PATHS_HELP)] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    layer: Layer = None,
    device: Device = "auto",
    run_dir: NewRunDir = None,
    init: Annotated[Path | None, typer.Option(help="a model to start from: checkpoint, run or shared folder")] = None,
    resume: Annotated[str | None, typer.Option(help=RESUME_HELP)] = None,
    max_steps: Annotated[int | None, typer.Option(help="stop after this step, with a checkpoint")] = None,
    max_hours: Annotated[float | None, typer.Option(help="stop in time, with a checkpoint")] = None,
    wandb: Annotated[bool, typer.Option(help="send metrics to Weights & Biases")] = False,
    tensorboard: Annotated[bool, typer.Option(help="write logs/ for TensorBoard")] = True,
    json_: Json = False,
) -> None:
    """Train a model, or go on with one."""
    from ..runtime.distributed import is_first

    goes_on = resume is not None and resume != "auto"
    if goes_on and (preset or config or set_ or layer or init):
        raise scfm.InputError("--resume brings its own config; leave out --preset, --config, --set, --layer and --init")
    asked = resume is None or preset or config or set_ or layer  # else "auto" goes on with whatever run is there
    settings = config_from(preset, config, set_, layer, init) if asked and not goes_on else None
    limits: dict[str, Any] = {"max_steps": max_steps, "max_hours": max_hours}
    outputs = {"wandb": wandb, "tensorboard": tensorboard}
    run = scfm.train(settings, data_path, init=init, resume=resume, run_dir=run_dir, device=device, **limits, **outputs)
    told: dict[str, Any] = {"run": str(run.dir), "checkpoint": str(run.checkpoint)}
    told |= {"step": run.step, "finished": run.finished} | run.last_losses()
    if is_first():
        print(json.dumps(told) if json_ else run.checkpoint)
    if run.signal:
        raise typer.Exit(128 + run.signal)


def doctor_command(
    run: Annotated[Path, typer.Argument(help="a run's folder; one that still trains will do")], json_: Json = False
) -> None:
    """Say why a run is slow, from what it recorded, and which settings to change."""
    from ..analysis.diagnose import doctor, doctor_text

    found = doctor(run)
    print(json.dumps(found) if json_ else doctor_text(found))


def demo_command(
    data: Annotated[str, typer.Option(help="bundled (no network) or pbmc3k, zheng_pbmc_facs, a path")] = "bundled",
    run_dir: NewRunDir = None,
    json_: Json = False,
) -> None:
    """Train MINIMAL on real cells, once from scratch and once from the model in data/, and judge both.

    Beside them stand the baselines and the model before training; the report is written into the first run.
    """
    from ..files import SHIPPED_MODEL
    from ..reporting.report import ranges_text, recorded_text
    from ..runtime.model_dir import is_model_dir

    source, config, beside = scfm.find_data(data), scfm.load_config("minimal"), {}
    run = scfm.train(config, source, run_dir=run_dir)
    if not run.signal and is_model_dir(SHIPPED_MODEL):
        say("once more, from the model in data/minimal, which has met cells like the bundled ones: it learned from")
        say("PBMC3k and from other cells of the study that the bundled ones come from (data/minimal/README.md)")
        beside["pretrained"] = scfm.load_model(SHIPPED_MODEL)
        adapted = scfm.train(config, source, init=SHIPPED_MODEL, run_dir=run.dir.with_name(f"{run.dir.name}-adapted"))
        run.signal, beside["adapted"] = adapted.signal, adapted.model
    elif not run.signal:
        say(f"{SHIPPED_MODEL} is not there (it comes with the project's files), so nothing is adapted from it")
    if run.signal:
        raise typer.Exit(128 + run.signal)
    result = scfm.evaluate(run.checkpoint, source, beside=beside, say=say)
    print_report(result, run.checkpoint, None, json_)
    if not json_:
        print("\nWhere the ranges (5 to 95 % of draws of the cells) overlap, these cells hardly tell methods apart:")
        print(f"{ranges_text(result)}\n\n{recorded_text('zheng_pbmc_facs')}".rstrip())
