"""How good are vectors? Scores on labels that no method saw, beside the baselines, all by one protocol.

`evaluate` judges a trained model and itself before training; `judge` any vectors in `obsm`. How each score is made
stands in `scores.PROTOCOL`, which goes into every result.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from .baselines import BASELINES, Baseline, baselines_for
from .checkpoint import checkpoint_config, load_checkpoint, model_of, trained_on
from .config import Config, load_config, with_changes
from .data.read import read_adata
from .data.seen import split_cells
from .data.sources import find_data
from .embed import embed
from .hardware.threads import use_all_cores
from .model import CellTransformer
from .scores.embedding import Scored, held_out_scores, left_out_scores, scores
from .scores.inputs import Labelled, check_fit, checked_vectors, labelled
from .scores.protocol import PROTOCOL
from .start import new_model
from .train import train
from .versions import versions

Data = str | Path | ad.AnnData
Say = Callable[[str], None]
Made = dict[str, Any]  # method -> its vectors (cells, dimensions), None where it was not run


def evaluate(
    checkpoint: str | Path, data: Data, *,
    label_key: str = "cell_type", batch_key: str | None = None, split_key: str | None = None,
    layer: str | None = None, scvi: bool = True, full: bool = False,
    beside: Mapping[str, CellTransformer] | None = None, say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Judges a trained model on labelled cells, beside itself before training and the baselines.

    Args:
        checkpoint: file or run.
        data: labelled cells, as `find_data` takes.
        label_key: column of `obs` with cell types.
        batch_key: column of `obs` with batches; adds `ilisi`, and scVI is told them.
        split_key: column of `obs` with groups such as donors; adds `leave_out_accuracy`, for which each method is
            fitted, and the model trained, once more for each group.
        layer: where the counts are.
        scvi: fit scVI too, if it is installed.
        full: also scVI on all genes, which takes minutes.
        beside: more models to judge, by name, as they are.
        say: told what is being done.

    Returns:
        As `judge`, and `step` of the checkpoint, `unseen` (cells,) bool, which no method was fitted on, `held_out` and
        `held_out_ranges` (as `embeddings` and `ranges`, on those cells; None for every method where there are none, or
        where it cannot be known), and `learned_from`, a sentence on which of these cells the model learned from;
        `cells` has `seen`, their number (None where it cannot be known).

    Raises:
        InputError: no such key, or labels that cannot be judged.
    """
    use_all_cores()
    started, saved = time.monotonic(), load_checkpoint(checkpoint)
    config, adata = checkpoint_config(saved), read_adata(find_data(data), layer)
    cells = labelled(adata.obs, label_key, batch_key, split_key, say)
    fit, unseen, seen, learned_from = split_cells(trained_on(checkpoint, saved), adata, config.data)
    check_fit(fit)
    say(learned_from)

    def vectors_of(saved: dict[str, Any]) -> dict[str, np.ndarray]:
        ours = models(saved, checkpoint_config(saved)) | dict(beside or {})
        return {name: embed(model, adata, layer="counts") for name, model in ours.items()}

    def trained_without(others: np.ndarray) -> dict[str, np.ndarray]:
        part, here = adata[others].copy(), with_changes(config, {"data.layer": "counts"})
        if here.data.batch_key in part.obs and part.obs[here.data.batch_key].nunique() == 1:
            here.data.batch_key = None  # nothing sets the one that is left apart
        with tempfile.TemporaryDirectory() as folder:
            run = train(here, part, run_dir=Path(folder) / "run", verbose=False, tensorboard=False)
            if not run.finished:
                raise KeyboardInterrupt
            return vectors_of(load_checkpoint(run.checkpoint))

    say("the model untrained, at its start and trained")
    ours = vectors_of(saved)  # first: genes that do not match are found before minutes of scVI
    if split_key:
        say(f"{len(cells.group_names)} trainings will follow, each without one {split_key} and as long as a whole one")
    wanted = baselines_for(adata.layers["counts"][fit], config, scvi=scvi, full=full, say=say)
    result = _judge(data, adata, cells, ours, trained_without, wanted, fit, config, say)

    def on_held_out(vectors: Any) -> Scored | None:
        return held_out_scores(vectors[cells.judged], cells.y, fit[cells.judged], unseen[cells.judged])

    result["held_out"], result["held_out_ranges"] = _tables(result["vectors"], on_held_out, lambda line: None)
    result["cells"] |= {"held_out": int((unseen & cells.judged).sum()), "seen": seen}
    result |= {"unseen": unseen, "learned_from": learned_from}
    return result | {"step": saved["step"], "seconds": round(time.monotonic() - started, 1)}


def judge(
    data: Data, obsm: str | Iterable[str] | Mapping[str, np.ndarray], *,
    label_key: str = "cell_type", batch_key: str | None = None, split_key: str | None = None,
    layer: str | None = None, scvi: bool = True, full: bool = False, say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Puts any vectors of labelled cells beside the baselines, by the protocol of `evaluate`.

    Args:
        data: labelled cells with counts, as `find_data` takes.
        obsm: keys of `obsm`, or vectors by name, each (cells, dimensions).
        label_key: as in `evaluate`, like all that follow. With `split_key` the vectors are used as they are: whether
            they saw the group that is left out, only their maker knows.
        batch_key: column of `obs` with batches.
        split_key: column of `obs` with groups such as donors.
        layer: where the counts are.
        scvi: fit scVI too, if it is installed.
        full: also scVI on all genes.
        say: told what is being done.

    Returns:
        `data` (its name), `embeddings` (method -> score -> value, None for a method that was not run), `ranges`
        (method -> score -> [5 %, 95 %]), `vectors` (method -> (cells, dimensions)), `labels`, `adata` (the cells, with
        `layers["counts"]`), `seconds`, `cells`, `protocol` and `versions`.

    Raises:
        InputError: no such key, labels that cannot be judged, or vectors that are no numbers or not of these cells.
    """
    use_all_cores()
    started, config, adata = time.monotonic(), load_config("minimal"), read_adata(find_data(data), layer)
    cells = labelled(adata.obs, label_key, batch_key, split_key, say)
    keys, given = [obsm] if isinstance(obsm, str) else list(obsm), obsm if isinstance(obsm, Mapping) else adata.obsm
    ours = {key: checked_vectors(key, given, adata.n_obs, BASELINES) for key in keys}
    wanted = baselines_for(adata.layers["counts"], config, scvi=scvi, full=full, say=say)
    result = _judge(data, adata, cells, ours, lambda others: ours, wanted, np.ones(adata.n_obs, bool), config, say)
    return result | {"seconds": round(time.monotonic() - started, 1)}


def _judge(
    data: Data, adata: ad.AnnData, cells: Labelled, ours: Made, without: Callable[[np.ndarray], Made],
    wanted: dict[str, Baseline], fit: np.ndarray, config: Config, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """The baselines, fitted on the cells in `fit`, and our vectors: each with its scores. `without` makes ours anew."""

    def fitted(fit: np.ndarray, ours: Made) -> Made:
        made: Made = dict.fromkeys(BASELINES)
        for name, baseline in wanted.items():
            say(f"{name}, fitted on {fit.sum():,} cells")
            made[name] = baseline(adata, fit, config, cells.batches)
        return made | ours

    vectors, batches = fitted(fit, ours), None if cells.batches is None else cells.batches[cells.judged]
    table, ranges = _tables(vectors, lambda vectors: scores(vectors[cells.judged], cells.y, batches), say)
    if cells.groups is not None:
        for name, found in left_out_scores(cells, lambda others: fitted(fit & others, without(others))).items():
            table[name] |= found.values
            ranges[name] |= found.ranges
    return {
        "data": f"{adata.n_obs:,} cells" if isinstance(data, ad.AnnData) else Path(data).name,
        "embeddings": table,
        "ranges": ranges,
        "cells": {"all": int(adata.n_obs), "judged": int(cells.judged.sum())},
        "protocol": PROTOCOL,
        "versions": versions(),
        "vectors": vectors,
        "labels": cells.labels,
        "adata": adata,
    }


def _tables(vectors: Made, score: Callable[[Any], Scored | None], say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every method's scores, and their ranges; None for a method that was not run."""
    found: dict[str, Scored | None] = dict.fromkeys(vectors)
    for name in (name for name, made in vectors.items() if made is not None):
        say(f"scores of {name}")
        found[name] = score(vectors[name])
    return {name: f and f.values for name, f in found.items()}, {name: f and f.ranges for name, f in found.items()}


def models(state: dict[str, Any], config: Config) -> dict[str, CellTransformer]:
    """The model of a checkpoint untrained (random weights), at its PCA start, and trained."""
    trained, seed = model_of(state), config.training.seed
    untrained = new_model(config.model, seed, genes=len(trained.symbols))
    before = {"untrained": untrained, "start": new_model(config.model, seed, state["start"])}
    for model in before.values():
        model.symbols, model.ensembl = trained.symbols, trained.ensembl
        model.eval()
    return before | {"trained": trained}
