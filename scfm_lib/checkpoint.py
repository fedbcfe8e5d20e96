"""Checkpoints: everything a run needs to go on, in one file, written so that a crash cannot leave half of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .config import Config, InputError, parse_config
from .files import new_file, patiently
from .model import CellTransformer
from .versions import versions

FORMAT = "scfm-checkpoint-1"
SHARED_FORMAT = "scfm-model-1"  # of the folder that `share.save_pretrained` writes
WEIGHTS, MODEL_CONFIG, VOCABULARY, CARD = "model.safetensors", "config.json", "vocabulary.json", "README.md"


def save_checkpoint(run_dir: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes `checkpoints/checkpoint_step_N.pt`, then deletes all but the last `keep`.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left.
    """
    path = checkpoint_path(run_dir, step)
    folder = path.parent
    whole = {"format": FORMAT, "step": step, "versions": versions(), **state}

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(path) as temporary:
            torch.save(whole, temporary)
        for old in _by_step(folder)[:-keep]:
            old.unlink(missing_ok=True)

    patiently(write)
    return path


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_dir / "checkpoints" / f"checkpoint_step_{step}.pt"


def _by_step(folder: Path) -> list[Path]:
    files = [p for p in folder.glob("checkpoint_step_*.pt") if re.fullmatch(r"checkpoint_step_\d+", p.stem)]
    return sorted(files, key=lambda p: int(p.stem.rsplit("_", 1)[1]))


def find_checkpoint(path: str | Path) -> Path:
    """The file itself, or the newest checkpoint of a run's folder.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and _by_step(folder):
            return _by_step(folder)[-1]
    if (path / WEIGHTS).exists():
        raise InputError(
            f"{path} is a shared model, which can embed but not go on or be judged; give the run that it came from, or "
            "embed your cells and judge obsm['X_scfm']"
        )
    raise InputError(f"there is no checkpoint at {path}; give RUN or RUN/checkpoints/checkpoint_step_N.pt")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The stored state on the CPU. Only tensors and plain values are read: a checkpoint cannot run code.

    Raises:
        InputError: not one of this library's checkpoints, or damaged.
    """
    path = find_checkpoint(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(
            f"{path} cannot be read as a checkpoint ({reason}); it may be truncated: use an earlier one"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is a checkpoint of another model, not of scfm; give one written by `scfm train`")
    missing = {"model", "optimizer", "config", "symbols", "ensembl", "start", "store"} - state.keys()
    if missing:
        raise InputError(f"{path} is incomplete (no {', '.join(sorted(missing))}); use another checkpoint of the run")
    return state


def checkpoint_config(state: dict[str, Any]) -> Config:
    """The config a checkpoint was trained with; `model.n_genes` is the vocabulary it really has."""
    return parse_config(state["config"], "the checkpoint's config")


def load_model(path: str | Path) -> CellTransformer:
    """The trained model of a checkpoint, run or shared folder, on the CPU, in evaluation mode, with its gene names.

    Raises:
        InputError: as `load_checkpoint` or `load_pretrained`.
    """
    if any((Path(path) / name).exists() for name in (WEIGHTS, VOCABULARY)):
        return load_pretrained(path)
    state = load_checkpoint(path)
    model = CellTransformer(checkpoint_config(state).model)
    put_weights(model, state)
    return model.eval()


def load_pretrained(folder: str | Path) -> CellTransformer:
    """The model in a folder that `share.save_pretrained` wrote, as from `load_model`. No code of the folder is run.

    Raises:
        InputError: a file is missing, broken or of another model.
    """
    folder = Path(folder)
    for name in (WEIGHTS, MODEL_CONFIG, VOCABULARY):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; give a folder that save_pretrained wrote, and copy all of it")
    name = MODEL_CONFIG
    try:
        told = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        name = VOCABULARY
        names = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        name = WEIGHTS
        weights = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(f"{folder / name} cannot be read ({reason}); it may be truncated: copy it again") from None
    if not isinstance(told, dict) or told.get("format") != SHARED_FORMAT or not isinstance(names, dict):
        raise InputError(f"{folder} holds a model of another kind, not of scfm; give one that save_pretrained wrote")
    config = parse_config(told.get("config", {}), str(folder / MODEL_CONFIG))
    if any(len(names.get(key, ())) != config.model.n_genes for key in ("symbols", "ensembl")):
        raise InputError(f"{folder / VOCABULARY} does not name the model's {config.model.n_genes} genes; copy it again")
    model = CellTransformer(config.model)
    put_weights(model, {"model": weights, **names})
    return model.eval()


def put_weights(model: CellTransformer, state: dict[str, Any]) -> None:
    """Loads a checkpoint's weights and gene names into a model of the same dimensions.

    Raises:
        InputError: the dimensions differ.
    """
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise InputError(f"the checkpoint is of a model with other dimensions ({reason}); use its own config") from None
    model.symbols = np.array(state["symbols"], dtype=object)
    model.ensembl = np.array(state["ensembl"], dtype=object)
