"""Options that several commands share, and what they do with them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import scfm_lib as scfm

PATHS_HELP = ".h5ad, 10x .h5 or folder, store, URL, or bundled, pbmc3k, zheng_pbmc_facs; repeat it for several"
RESUME_HELP = 'a checkpoint or run to continue; alone is enough. "auto": --run-dir, if a run is there'
Preset = Annotated[str | None, typer.Option(help="minimal, default or large")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="a YAML file, from `scfm config`")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as training.batch_size=16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
Layer = Annotated[str | None, typer.Option(help="where the counts are; looked for when unset")]
NewRunDir = Annotated[Path | None, typer.Option("--run-dir", help="a new folder; runs/DATE-TIME when unset")]
LabelKey = Annotated[str, typer.Option(help="column of obs with cell types")]
BatchKey = Annotated[str | None, typer.Option(help="column of obs with batches: how well they mix")]
SplitKey = Annotated[str | None, typer.Option(help="column of obs with donors, say: all is fitted anew without each")]
Scvi = Annotated[bool, typer.Option(help="fit scVI too, if it is installed (minutes)")]
Full = Annotated[bool, typer.Option("--full", help="also scVI on all genes (more minutes)")]
Checkpoint = Annotated[Path, typer.Argument(help="a checkpoint or run")]


def config_from(
    preset: str | None,
    config: Path | None,
    pairs: list[str] | None,
    layer: str | None = None,
    init: Path | None = None,
) -> scfm.Config:
    """The config that the options ask for: a preset's or file's, else like that of `--init`, with changes on top."""
    from ..config import parse_overrides, with_changes

    if preset and config:
        raise scfm.InputError("--preset and --config are both given; choose one (`scfm config` writes a YAML file)")
    overrides = parse_overrides(pairs or []) | ({"data.layer": layer} if layer else {})
    if init and not (preset or config):
        from ..checkpoint import config_like

        return with_changes(config_like(init), overrides)
    return scfm.load_config(config or preset or "minimal", overrides)


def say(line: str) -> None:
    """A line on standard error: standard output belongs to results."""
    print(line, file=sys.stderr, flush=True)


def print_report(result: dict[str, Any], checkpoint: Path | None, folder: Path | None, as_json: bool) -> None:
    """Writes the report of a result, and prints the result."""
    from ..reporting.report import result_text, told

    report = scfm.write_report(result, checkpoint, folder)
    if as_json:
        print(json.dumps(told(result) | {"report": str(report)}))
    else:
        print(f"\n{result_text(result)}\nReport: {report}")
