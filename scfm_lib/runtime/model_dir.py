"""A shared model's folder, as `reporting.hub` writes it: safetensors, JSON and a model card; and reading it.

The weights are plain numbers, not a pickle, so that a model from a stranger cannot run code.
"""

import json
from pathlib import Path
from typing import Any

from ..config import parse_config
from ..errors import InputError

FORMAT = "scfm-model-2"
WEIGHTS, MODEL_CONFIG, VOCABULARY, CARD = "model.safetensors", "config.json", "vocabulary.json", "README.md"


def is_model_dir(path: str | Path) -> bool:
    """Whether a shared model is there, or some of its files."""
    return any((Path(path) / name).exists() for name in (WEIGHTS, VOCABULARY))


def read_model_dir(folder: str | Path) -> dict[str, Any]:
    """`model` (weights by name), `config`, `symbols` and `ensembl`, as in a checkpoint.

    Raises:
        InputError: a file is missing, broken or of another model.
    """
    import pooch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for file in (MODEL_CONFIG, VOCABULARY, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{folder} has no {file}; give a folder that save_pretrained wrote, and copy all of it")
    try:
        file = MODEL_CONFIG
        told = json.loads((folder / file).read_text(encoding="utf-8"))
        written = told.get("sha256") or {}
        for file in (VOCABULARY, WEIGHTS):
            if file in written and written[file] != pooch.file_hash(str(folder / file)):
                raise ValueError("it is not the file that was written with this model")
        file = VOCABULARY
        names = json.loads((folder / file).read_text(encoding="utf-8"))
        file = WEIGHTS
        weights = load_file(folder / file)
    except (ValueError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(f"{folder / file} cannot be read ({reason}); it is damaged: copy it again") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(names, dict):
        raise InputError(f"{folder} holds a model of another kind, not of scfm; give one that save_pretrained wrote")
    parse_config(told.get("config", {}), str(folder / MODEL_CONFIG))
    genes = len(weights.get("output_bias", ()))
    if any(len(names.get(key, ())) != genes for key in ("symbols", "ensembl")):
        raise InputError(f"{folder / VOCABULARY} does not name the model's {genes} genes; copy it again")
    return {"model": weights, "config": told["config"], **names}
