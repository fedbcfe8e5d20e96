"""Sharing a trained model: a folder of safetensors, JSON and a model card, as Hugging Face's hub takes it.

The weights are plain numbers (safetensors), not a pickle, so that a model from a stranger cannot run code. The model
card is written from what the run recorded, not from memory.
"""

import html
import json
from pathlib import Path
from typing import Any

import pooch
import yaml
from safetensors.torch import save

from ..checkpoint import checkpoint_config, find_checkpoint, load_checkpoint, weights_of
from ..config import Config, config_text
from ..data.store import open_store
from ..errors import InputError
from ..files import new_folder
from ..runtime.logger import read_metrics
from ..runtime.model_dir import CARD, FORMAT, MODEL_CONFIG, VOCABULARY, WEIGHTS
from .report import table_text, verdict


def save_pretrained(
    source: Any, folder: str | Path, *, about: str = "", license: str = "unknown", half: bool = False
) -> Path:
    """Writes a run's model to `folder`: `model.safetensors`, `config.json`, `vocabulary.json` and `README.md`.

    Args:
        source: a run, its folder, or one of its checkpoints.
        folder: to write; must not exist. Made beside itself and renamed, so it is whole or not there.
        about: what the run cannot know of its cells: whose, which tissue, where they are published.
        license: an identifier that the hub knows, such as "mit" or "cc-by-4.0". It is yours to choose.
        half: write numbers of 16 bits: half the size, and vectors that differ in the third digit.

    Returns:
        The folder; `load_model` and `scfm embed` take it.

    Raises:
        InputError: `folder` exists, or `source` holds no checkpoint.
        OSError: no space; nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists and is left as it is; choose another folder or remove it")
    file = find_checkpoint(getattr(source, "checkpoint", source))
    state = load_checkpoint(file)
    told = {
        "format": FORMAT,
        "step": state["step"],
        "versions": state["versions"],
        "config": checkpoint_config(state).model_dump(),
    }
    names = {key: list(state[key]) for key in ("symbols", "ensembl")}
    with new_folder(folder) as made:
        weights = {key: w.half() if half else w.contiguous() for key, w in weights_of(state).items()}
        (made / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
        (made / VOCABULARY).write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
        told["sha256"] = {file: pooch.file_hash(str(made / file)) for file in (WEIGHTS, VOCABULARY)}
        (made / MODEL_CONFIG).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (made / CARD).write_text(model_card(file, state, folder.name, about, license), encoding="utf-8")
    return folder


def model_card(file: Path, state: dict[str, Any], name: str, about: str, license: str) -> str:
    """The card (Mitchell et al., FAT* 2019) in Markdown with the hub's YAML front matter, from what the run recorded.

    Args:
        file: the checkpoint; `metrics.jsonl`, the store and `report/scores.json` are looked for in its run.
        state: what `load_checkpoint` read from it.
        name: of the model; `about` and `license` are those of `save_pretrained`.
    """
    config, run_dir = checkpoint_config(state), file.resolve().parent.parent
    front = {"license": license, "library_name": "scfm-workbook", "pipeline_tag": "feature-extraction"}
    front |= {"tags": ["biology", "single-cell", "scRNA-seq", "transformer"]}
    count = sum(tensor.numel() for tensor in state["model"].values())
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {name}\n",
        f"A transformer of {count:,} parameters that turns the counts of a cell into a vector of "
        f"{config.model.gene_embedding_dim} numbers. It knows {len(state['symbols']):,} genes by symbol and, where "
        "the data gave it, Ensembl id (`vocabulary.json`).\n",
        "## Use\n",
        "```python\nimport scfm_lib as scfm\n\nmodel = scfm.load_model(FOLDER)\n"
        'adata.obsm["X_scfm"] = scfm.embed(model, adata)  # counts, not normalised values\n```\n',
        "## Data\n",
        *([f"{about}\n"] if about else []),
        *_data(run_dir / state["store"], config),
        "\n## Training\n",
        *_training(run_dir / "metrics.jsonl", state, config),
        *_scores(run_dir / "report" / "scores.json", state["step"]),
        "\n## Limits\n",
        "- Compare its vectors with PCA's on your own cells before you trust them.",
        "- It has seen no cells but those above. Other tissues, species, diseases and protocols are guesses.",
        "- Genes outside its vocabulary count only towards a cell's library size.",
        "- Vectors of different models, also of different seeds, cannot be compared with each other.",
        "- For research and teaching; not for diagnosis.",
        f"\n## Config\n\n```yaml\n{config_text(config)}```\n",
        "## Versions\n",
        ", ".join(f"{package} {version}" for package, version in state["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def _data(folder: Path, config: Config) -> list[str]:
    """What the model learned from, in the sentences of its store."""
    try:
        store = open_store(folder)
    except InputError:
        return ["- The prepared data were not there when this card was written: say here what the model learned from."]
    held_out = int(store.held_out.sum())
    lines = [f"- {html.escape(line, quote=False)}" for line in store.report]
    lines.append(f"- {len(store) - held_out:,} cells were learned from")
    lines.append(f"- {held_out:,} cells, chosen by their names (split_seed {config.data.split_seed}), were held out")
    return lines


def _scores(file: Path, step: int) -> list[str]:
    """What `scfm evaluate` found of this very checkpoint, beside PCA, scVI and the model before training."""
    lines = ["\n## Scores\n"]
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if result.get("step") != step:
        return [*lines, "It was not judged when this card was written: `scfm evaluate` on the run does it."]
    cells, held_out = result["cells"], result["held_out"]
    unseen = bool(held_out["trained"])
    which = f"{cells['held_out']:,} cells held out of everything" if unseen else f"{cells['judged']:,} cells, 5-fold"
    table = held_out if unseen else result["embeddings"]
    return [
        *lines,
        f"Judged on {html.escape(result['data'], quote=False)}: {which}. {verdict(table)} A dash: not run.\n",
        f"```text\n{table_text(table)}\n```",
    ]


def _training(metrics: Path, state: dict[str, Any], config: Config) -> list[str]:
    """Steps, settings and the last losses up to the checkpoint's step."""
    settings, last = config.training, {}
    for row in read_metrics(metrics, before=state["step"]):
        last |= {key: row[key] for key in ("loss", "validation_loss") if key in row}
    lines = [
        f"- {state['step']:,} steps of {state.get('cells_per_step', settings.batch_size)} cells, "
        f"seed {settings.seed}; planned: {settings.num_epochs} epochs",
        "- task: predict one half of a cell's molecules from the other half (multinomial loss)",
    ]
    for key, what in (("loss", "training cells"), ("validation_loss", "held-out cells")):
        lines.append(
            f"- last loss on {what}: {last[key]:.3f} nats per molecule"
            if key in last
            else f"- loss on {what}: not recorded"
        )
    return lines
