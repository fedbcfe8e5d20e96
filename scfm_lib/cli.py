"""`scfm`: its commands by name, and how errors are told. The functions behind them are in `commands/`."""

import json
import sys
from typing import Annotated

import typer

import scfm_lib as scfm

from .commands import judging, planning, training
from .errors import DivergedError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, invoke_without_command=True, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip
COMMANDS = (
    planning.config_command, planning.check_command, planning.estimate_command, planning.prepare_command,
    training.train_command, judging.embed_command, judging.evaluate_command, judging.judge_command,
    judging.annotate_command, training.doctor_command, training.demo_command,
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__.removesuffix("_command"))(command)


@app.callback()
def version_option(version: Annotated[bool, typer.Option("--version", is_eager=True)] = False) -> None:
    """Learn how a single-cell foundation model works by training one on the computer you have."""
    if version:
        from .versions import versions

        print(json.dumps(versions()))
        raise typer.Exit


def main() -> None:
    """Runs a command. Bad input and a refusing disk are one line on standard error and exit code 2."""
    try:
        app(standalone_mode=True)
    except scfm.InputError as error:
        line = str(error)
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        line = f"{error.strerror or error}{where}; free some space or choose a folder that can be written"
    print("error: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(2)
