"""The commands: each reads its options, calls one function and prints what it returned."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import scfm_lib as scfm

app = typer.Typer(
    add_completion=False, no_args_is_help=True, invoke_without_command=True, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip


PATHS_HELP = ".h5ad, 10x .h5 or folder, store, URL, or bundled, pbmc3k, zheng_pbmc_facs; repeat it for several"
RESUME_HELP = 'a checkpoint or run to continue; alone is enough. "auto": --run-dir, if a run is there'
Preset = Annotated[str | None, typer.Option(help="minimal, default or large")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="a YAML file, from `scfm config`")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as training.batch_size=16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
Layer = Annotated[str | None, typer.Option(help="where the counts are; looked for when unset")]
NewRunDir = Annotated[Path | None, typer.Option("--run-dir", help="a new folder; runs/DATE-TIME when unset")]
Checkpoint = Annotated[Path, typer.Argument(help="a checkpoint or run")]


def _config(preset: str | None, config: Path | None, pairs: list[str] | None, layer: str | None = None) -> Any:
    from .config import parse_overrides

    if preset and config:
        raise scfm.InputError(
            "--preset and --config are both given; choose one (a YAML file can start from `scfm config`)"
        )
    overrides = parse_overrides(pairs or []) | ({"data.layer": layer} if layer else {})
    return scfm.load_config(config or preset or "minimal", overrides)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@app.callback()
def version_option(version: Annotated[bool, typer.Option("--version", is_eager=True)] = False) -> None:
    """Learn how a single-cell foundation model works by training one on the computer you have."""
    if version:
        from .versions import versions

        print(json.dumps(versions()))
        raise typer.Exit


@app.command("config")
def config_command(preset: Annotated[str, typer.Argument(help="minimal, default or large")]) -> None:
    """Print a preset as YAML, to edit: scfm config minimal > my.yaml."""
    from .config import preset_text

    print(preset_text(preset), end="")


@app.command("check")
def check_command(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="where runs will be written")] = Path(), json_: Json = False
) -> None:
    """Say what is in this machine, and which presets it can train."""
    from .estimator.text import check_text

    found = scfm.check(run_dir)
    print(json.dumps(found) if json_ else check_text(found))


@app.command("estimate")
def estimate_command(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    gpu: Annotated[str | None, typer.Option(help='a card such as "RTX 3080"; this machine when unset')] = None,
    cells: Annotated[int | None, typer.Option(help="in the data set; 10,000 when unset")] = None,
    epochs: Annotated[int | None, typer.Option(help="the preset's when unset")] = None,
    data: Annotated[str | None, typer.Option("--data", "--data-path", "--data_path", help="cells to look at")] = None,
    genes_per_cell: Annotated[float | None, typer.Option(help="expressed genes of a cell")] = None,
    budget_vram: Annotated[str | None, typer.Option(help="find what fits in so much memory, such as 4GB")] = None,
    deadline: Annotated[str | None, typer.Option(help="find what is done in time, such as 2h or 30min")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Say what training would take: parameters, memory, disk, time, cost, and what would save some."""
    from .estimator.text import estimate_text, fit_text
    from .units import parse_bytes, parse_seconds

    where: dict[str, Any] = {"cells": cells, "data": data, "gpu": gpu, "device": device}
    if not (budget_vram or deadline):
        pairs = [*(set_ or []), *([f"training.num_epochs={epochs}"] if epochs is not None else [])]
        found = scfm.estimate(_config(preset, config, pairs), genes_per_cell=genes_per_cell, **where)
        print(json.dumps(found) if json_ else estimate_text(found))
        return
    if config or set_:
        raise scfm.InputError("--budget-vram and --deadline choose the settings; leave out --config and --set")
    where |= {"presets": (preset.lower(),)} if preset else {}
    where["budget_bytes"] = parse_bytes(budget_vram) if budget_vram else None
    where["deadline_seconds"] = parse_seconds(deadline) if deadline else None
    fit = scfm.best_fit(epochs=epochs, mean_genes=genes_per_cell, **where)
    print(json.dumps(fit) if json_ else fit_text(fit))


@app.command("prepare")
def prepare_command(
    data: Annotated[list[str], typer.Argument(help="one or more data sets, aligned by gene")],
    out: Annotated[Path, typer.Option(help="folder to write; must not exist")],
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    layer: Layer = None,
) -> None:
    """Check the counts, choose the genes and write a memory-mapped store."""
    store = scfm.prepare([scfm.find_data(source) for source in data], _config(preset, config, set_, layer), out)
    print("\n".join([*store.report, str(store.dir)]))


@app.command("train")
def train_command(
    data_path: Annotated[list[str] | None, typer.Option("--data-path", "--data_path", help=PATHS_HELP)] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    layer: Layer = None,
    device: Device = "auto",
    run_dir: NewRunDir = None,
    resume: Annotated[str | None, typer.Option(help=RESUME_HELP)] = None,
    max_steps: Annotated[int | None, typer.Option(help="stop after this step, with a checkpoint")] = None,
    max_hours: Annotated[float | None, typer.Option(help="stop in time, with a checkpoint")] = None,
    wandb: Annotated[bool, typer.Option(help="send metrics to Weights & Biases")] = False,
    tensorboard: Annotated[bool, typer.Option(help="write logs/ for TensorBoard")] = True,
    json_: Json = False,
) -> None:
    """Train a model, or go on with one."""
    from .runtime.distributed import is_first

    goes_on = resume is not None and resume != "auto"
    if goes_on and (preset or config or set_ or layer):
        raise scfm.InputError("--resume brings its own config; leave out --preset, --config, --set and --layer")
    settings = None if goes_on else _config(preset, config, set_, layer)
    limits: dict[str, Any] = {"max_steps": max_steps, "max_hours": max_hours}
    outputs = {"wandb": wandb, "tensorboard": tensorboard}
    run = scfm.train(settings, data_path, resume=resume, run_dir=run_dir, device=device, **limits, **outputs)
    told: dict[str, Any] = {"run": str(run.dir), "checkpoint": str(run.checkpoint)}
    told |= {"step": run.step, "finished": run.finished} | run.last_losses()
    if is_first():
        print(json.dumps(told) if json_ else run.checkpoint)
    if run.signal:
        raise typer.Exit(128 + run.signal)


@app.command("embed")
def embed_command(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Argument(help="cells to embed")],
    out: Annotated[Path, typer.Option(help=".h5ad to write, with obsm['X_scfm']; must not exist")],
    layer: Layer = None,
    device: Device = "auto",
) -> None:
    """Write the cells with their vectors in obsm["X_scfm"]; layers and obs are untouched."""
    from .embed import embed_file
    from .hardware.device import choose_device
    from .runtime.threads import use_all_cores

    use_all_cores()
    adata, match = embed_file(checkpoint, scfm.find_data(data), out, layer=layer, device=choose_device(device))
    _say(match)
    print(f"{out}: obsm['X_scfm'] {adata.obsm['X_scfm'].shape}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Argument(help="labelled cells")],
    label_key: Annotated[str, typer.Option(help="column of obs with cell types")] = "cell_type",
    batch_key: Annotated[str | None, typer.Option(help="column of obs with batches")] = None,
    layer: Layer = None,
    scvi: Annotated[bool, typer.Option(help="fit scVI too, if it is installed (minutes)")] = True,
    out: Annotated[Path | None, typer.Option(help="folder of the report; RUN/report when unset")] = None,
    json_: Json = False,
) -> None:
    """Judge a model beside PCA, scVI (if installed) and itself before training."""
    from .runtime.threads import use_all_cores

    use_all_cores()
    result = scfm.evaluate(checkpoint, data, label_key=label_key, batch_key=batch_key, layer=layer, scvi=scvi, say=_say)
    _report(result, checkpoint, out, json_)


@app.command("doctor")
def doctor_command(
    run: Annotated[Path, typer.Argument(help="a run's folder; one that still trains will do")], json_: Json = False
) -> None:
    """Say why a run is slow, from what it recorded, and which settings to change."""
    from .analysis.diagnose import doctor, doctor_text

    found = doctor(run)
    print(json.dumps(found) if json_ else doctor_text(found))


@app.command("demo")
def demo_command(
    data: Annotated[str, typer.Option(help="bundled (no network) or pbmc3k, zheng_pbmc_facs, a path")] = "bundled",
    run_dir: NewRunDir = None,
    json_: Json = False,
) -> None:
    """Train MINIMAL on real cells, judge it beside the baselines and write a report."""
    source = scfm.find_data(data)
    # 30 epochs instead of 50: on the bundled cells the held-out loss falls no further
    run = scfm.train(scfm.load_config("minimal", {"training.num_epochs": 30}), source, run_dir=run_dir)
    if run.signal:
        raise typer.Exit(128 + run.signal)
    _report(scfm.evaluate(run.checkpoint, source, say=_say), run.checkpoint, None, json_)


def _report(result: dict[str, Any], checkpoint: Path, folder: Path | None, as_json: bool) -> None:
    from .reporting.report import result_text

    report = scfm.write_report(result, checkpoint, folder)
    if as_json:
        numbers = {key: value for key, value in result.items() if key not in {"vectors", "labels"}}
        print(json.dumps(numbers | {"report": str(report)}))
    else:
        print(f"\n{result_text(result)}\nReport: {report}")


def main() -> None:
    """Runs a command. Bad input and a refusing disk are one line on standard error and exit code 2."""
    try:
        app(standalone_mode=True)
    except scfm.InputError as error:
        line = str(error)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        line = f"{error.strerror or error}{where}; free some space or choose a folder that can be written"
    print("error: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(2)
