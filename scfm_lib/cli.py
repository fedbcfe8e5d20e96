"""The commands: each reads its options, calls one function and prints what it returned."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .config import PRESETS, InputError, load_config, parse_overrides, preset_text

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DataOption = Annotated[
    list[str],
    typer.Option(
        "--data-path",
        "--data_path",
        help=".h5ad, 10x .h5 or folder, store, URL, or bundled, pbmc3k, zheng_pbmc_facs; repeat it for several",
    ),
]
PresetOption = Annotated[str | None, typer.Option(help="minimal, default or large")]
ConfigOption = Annotated[Path | None, typer.Option(help="a YAML file, from `scfm config`")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as training.batch_size=16")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
LayerOption = Annotated[str | None, typer.Option(help="where the counts are; looked for when unset")]


def _config(preset: str | None, config: Path | None, pairs: list[str] | None, layer: str | None) -> Any:
    if preset and config:
        raise InputError("--preset and --config are both given; choose one (a YAML file can start from `scfm config`)")
    overrides = parse_overrides(pairs or []) | ({"data.layer": layer} if layer else {})
    return load_config(config or preset or "minimal", overrides)


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
    print(preset_text(preset), end="")


@app.command("check")
def check_command(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="where runs will be written")] = Path(),
    json_: JsonOption = False,
) -> None:
    """Say what is in this machine, and which presets it can train."""
    from .check import check
    from .tables import check_text

    found = check(run_dir)
    print(json.dumps(found) if json_ else check_text(found))


@app.command("estimate")
def estimate_command(
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    gpu: Annotated[str | None, typer.Option(help='a card such as "RTX 3080"; this machine when unset')] = None,
    cells: Annotated[int | None, typer.Option(help="in the data set; 10,000 when unset")] = None,
    epochs: Annotated[int | None, typer.Option(help="the preset's when unset")] = None,
    data: Annotated[str | None, typer.Option("--data", "--data-path", "--data_path", help="cells to look at")] = None,
    genes_per_cell: Annotated[float | None, typer.Option(help="expressed vocabulary genes of a cell")] = None,
    budget_vram: Annotated[str | None, typer.Option(help="find what fits in so much memory, such as 4GB")] = None,
    deadline: Annotated[str | None, typer.Option(help="find what is done in time, such as 2h or 30min")] = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Say what training would take: parameters, memory, disk, time, cost, and what would save some."""
    from .estimate import best_fit, estimate
    from .quantities import parse_bytes, parse_seconds
    from .tables import estimate_text, fit_text

    if budget_vram or deadline:
        if config or set_:
            raise InputError("--budget-vram and --deadline choose the settings; leave out --config and --set")
        fit = best_fit(
            budget_bytes=parse_bytes(budget_vram) if budget_vram else None,
            deadline_seconds=parse_seconds(deadline) if deadline else None,
            cells=cells,
            epochs=epochs,
            data=data,
            mean_genes=genes_per_cell,
            gpu=gpu,
            device=device,
            presets=(preset.lower(),) if preset else PRESETS,
        )
        print(json.dumps(fit) if json_ else fit_text(fit))
        return
    pairs = [*(set_ or []), *([f"training.num_epochs={epochs}"] if epochs is not None else [])]
    found = estimate(
        _config(preset, config, pairs, None),
        cells=cells,
        data=data,
        genes_per_cell=genes_per_cell,
        gpu=gpu,
        device=device,
    )
    print(json.dumps(found) if json_ else estimate_text(found))


@app.command("prepare")
def prepare_command(
    data: Annotated[list[str], typer.Argument(help="one or more data sets, aligned by gene")],
    out: Annotated[Path, typer.Option(help="folder to write; must not exist")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    layer: LayerOption = None,
) -> None:
    """Check the counts, choose the genes and write a memory-mapped store."""
    from .datasets import find_data
    from .store import prepare

    store = prepare([find_data(source) for source in data], _config(preset, config, set_, layer), out)
    for line in store.report:
        print(line)
    print(store.dir)


@app.command("train")
def train_command(
    data_path: DataOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    layer: LayerOption = None,
    device: DeviceOption = "auto",
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="a new folder; runs/DATE-TIME when unset")] = None,
    resume: Annotated[
        str | None,
        typer.Option(help='a checkpoint or run to continue; alone is enough. "auto": --run-dir, if a run is there'),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="stop after this step, with a checkpoint")
    ] = None,
    max_hours: Annotated[float | None, typer.Option("--max-hours", help="stop in time, with a checkpoint")] = None,
    wandb: Annotated[bool, typer.Option(help="send metrics to Weights & Biases")] = False,
    tensorboard: Annotated[bool, typer.Option(help="write logs/ for TensorBoard")] = True,
    json_: JsonOption = False,
) -> None:
    """Train a model, or go on with one."""
    from .processes import is_first
    from .train import train

    if resume and resume != "auto" and (preset or config or set_ or layer):
        raise InputError("--resume brings its own config; leave out --preset, --config, --set and --layer")
    settings = None if resume and resume != "auto" else _config(preset, config, set_, layer)
    run = train(
        settings,
        data_path or None,
        resume=resume,
        run_dir=run_dir,
        device=device,
        wandb=wandb,
        tensorboard=tensorboard,
        max_steps=max_steps,
        max_hours=max_hours,
    )
    losses = {
        key: next((r[key] for r in reversed(run.history) if key in r), None) for key in ("loss", "validation_loss")
    }
    result = {
        "run": str(run.dir),
        "checkpoint": str(run.checkpoint),
        "step": run.step,
        "finished": run.finished,
        **losses,
    }
    if is_first():
        print(json.dumps(result) if json_ else run.checkpoint)
    if run.signal:
        raise typer.Exit(128 + run.signal)


@app.command("embed")
def embed_command(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint or run")],
    data: Annotated[str, typer.Argument(help="cells to embed")],
    out: Annotated[Path, typer.Option(help=".h5ad to write, with obsm['X_scfm']; must not exist")],
    layer: LayerOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write the cells with their vectors in obsm["X_scfm"]; layers and obs are untouched."""
    from .datasets import find_data
    from .embed import embed_file
    from .hardware import choose_device, prepare_cpu

    prepare_cpu()
    adata, match = embed_file(checkpoint, find_data(data), out, layer=layer, device=choose_device(device))
    _say(match)
    print(f"{out}: obsm['X_scfm'] {adata.obsm['X_scfm'].shape}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint or run")],
    data: Annotated[str, typer.Argument(help="labelled cells")],
    label_key: Annotated[str, typer.Option("--label-key", help="column of obs with cell types")] = "cell_type",
    batch_key: Annotated[str | None, typer.Option("--batch-key", help="column of obs with batches")] = None,
    layer: LayerOption = None,
    scvi: Annotated[bool, typer.Option(help="fit scVI too, if it is installed (minutes)")] = True,
    out: Annotated[Path | None, typer.Option(help="folder of the report; RUN/report when unset")] = None,
    json_: JsonOption = False,
) -> None:
    """Judge a model beside PCA, scVI (if installed) and itself before training."""
    from .checkpoint import find_checkpoint
    from .evaluate import evaluate
    from .hardware import prepare_cpu
    from .report import write_report

    prepare_cpu()
    result = evaluate(checkpoint, data, label_key=label_key, batch_key=batch_key, layer=layer, scvi=scvi, say=_say)
    folder = out or find_checkpoint(checkpoint).resolve().parent.parent / "report"
    _finish(result, write_report(result, checkpoint, folder), json_)


@app.command("doctor")
def doctor_command(
    run: Annotated[Path, typer.Argument(help="a run's folder; one that still trains will do")],
    json_: JsonOption = False,
) -> None:
    """Say why a run is slow, from what it recorded, and which settings to change."""
    from .doctor import doctor, doctor_text

    found = doctor(run)
    print(json.dumps(found) if json_ else doctor_text(found))


@app.command("demo")
def demo_command(
    data: Annotated[str, typer.Option(help="bundled (no network) or pbmc3k, zheng_pbmc_facs, a path")] = "bundled",
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="a new folder; runs/DATE-TIME when unset")] = None,
    json_: JsonOption = False,
) -> None:
    """Train MINIMAL on real cells, judge it beside the baselines and write a report."""
    from .datasets import find_data
    from .evaluate import evaluate
    from .report import write_report
    from .train import train

    source = find_data(data)
    # 30 epochs instead of 50: on the bundled cells the held-out loss falls no further
    run = train(load_config("minimal", {"training.num_epochs": 30}), source, run_dir=run_dir)
    if run.signal:
        raise typer.Exit(128 + run.signal)
    result = evaluate(run.checkpoint, source, say=_say)
    _finish(result, write_report(result, run.checkpoint, run.dir / "report"), json_)


def _finish(result: dict[str, Any], report: Path, as_json: bool) -> None:
    from .report import table_text, verdict

    if as_json:
        numbers = {key: value for key, value in result.items() if key not in {"vectors", "labels"}}
        print(json.dumps(numbers | {"report": str(report)}))
        return
    print(f"\nAll {result['cells']['judged']:,} labelled cells, 5-fold\n{table_text(result['embeddings'])}")
    if result["held_out"]["trained"]:
        print(f"\n{result['cells']['held_out']:,} cells held out of everything\n{table_text(result['held_out'])}")
    print(f"\n{verdict(result['embeddings'])}\nReport: {report}")


def main() -> None:
    """Runs a command. Bad input and a refusing disk are one line on standard error and exit code 2."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; free some space or choose a folder that can be written")


def _fail(line: str) -> None:
    print("error: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(2)
