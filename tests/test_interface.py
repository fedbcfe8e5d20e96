"""What tests, notebooks and users rely on by name, frozen: a change here is a decision, never an accident.

`interface.json` was written before the library was rearranged. To change it on purpose:
SCFM_WRITE_INTERFACE=1 python -m pytest tests/test_interface.py
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import scfm_lib as scfm
from scfm_lib.cli import app, main

FILE = Path(__file__).with_name("interface.json")


def shape(value: Any) -> Any:
    """The keys of a JSON value, without what it says: lists by their first item, leaves as "."."""
    if isinstance(value, dict):  # which packages have a version depends on what is installed
        return {key: "." if key == "versions" else shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "."


def commands() -> dict[str, list[str]]:
    """Each command with its options and arguments, as they are typed."""
    found = typer.main.get_command(app).commands
    return {
        name: sorted(word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts))
        for name, command in found.items()
    }


@pytest.fixture
def as_json(capsys, monkeypatch):
    def run(*arguments: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["scfm", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    return run


def test_names_commands_keys_and_formats_are_as_they_were(as_json, trained: scfm.Run, tmp_path: Path) -> None:
    import torch

    data = trained.dir.parent / "cells.h5ad"
    flags = ["--set", "model.n_genes=60", "--set", "data.preprocessing.min_genes=5"]
    flags += ["--set", "training.num_epochs=1", "--set", "training.log_every_steps=5"]
    run = tmp_path / "run"
    with_vectors = tmp_path / "vectors.h5ad"
    cells = scfm.read_adata(data)
    cells.obsm["X_scfm"] = scfm.embed(trained.model, cells)
    cells.write_h5ad(with_vectors)
    answers = {
        "check": as_json("check"),
        "estimate": as_json("estimate", "--gpu", "T4"),
        "estimate --budget-vram": as_json("estimate", "--gpu", "T4", "--budget-vram", "4GB"),
        "train": as_json("train", "--data_path", data, "--run-dir", run, *flags),
        "evaluate": as_json("evaluate", run, data, "--no-scvi", "--batch-key", "batch"),
        "judge": as_json("judge", with_vectors, "--obsm", "X_scfm", "--no-scvi", "--split-key", "batch"),
        "annotate": as_json("annotate", run, data, "--reference", data, "--out", tmp_path / "named.h5ad"),
        "doctor": as_json("doctor", run),
    }
    answers["check"]["gpus"] = answers["check"]["notes"] = answers["check"]["platform"]["places"] = []  # of the machine
    answers["annotate"]["labels"] = {}
    answers["doctor"]["findings"] = answers["doctor"]["notes"] = []
    state = torch.load(next((run / "checkpoints").iterdir()), weights_only=True)
    shared = scfm.save_pretrained(run, tmp_path / "shared")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {
        "names": sorted(scfm.__all__),
        "commands": commands(),
        "json": {name: shape(answer) for name, answer in answers.items()},
        "config": shape(scfm.load_config("minimal").model_dump()),
        "presets": {name: scfm.load_config(name).model_dump() for name in ("minimal", "default", "large")},
        "run": sorted(path.name for path in run.iterdir()),
        "report": sorted(path.name for path in (run / "report").iterdir()),
        "metrics": sorted({key for row in rows for key in row}),
        "checkpoint": sorted(state),
        "weights": {name: list(tensor.shape) for name, tensor in state["model"].items()},
        "store": sorted(path.name for path in (run / "store").iterdir()),
        "store.json": sorted(json.loads((run / "store" / "store.json").read_text())),
        "shared": {path.name: sorted(json.loads(path.read_text())) for path in sorted(shared.glob("*.json"))},
        "obsm": scfm.embed(trained.model, data).shape[1],
    }
    if os.environ.get("SCFM_WRITE_INTERFACE"):
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    assert found == kept
