"""What would make a run smaller or faster: the hardware guide's levers, each with what it saves here."""

from dataclasses import replace
from typing import Any

import torch

from .config import PRESETS, Config, load_config, with_changes
from .formulas import parameters, training_flops
from .speed import Workload
from .target import Cost, Target, cost, precision_of
from .typical import genes_per_cell


def _scaled(work: Workload, old: Config, new: Config) -> Workload:
    """The workload of another config on the same cells: genes by the profile of PBMC3k, operations by formula."""
    share = genes_per_cell(new.vocabulary_size) / genes_per_cell(old.vocabulary_size)
    padded = max(1, round(work.padded * share))
    lengths = torch.full((1,), padded), torch.full((1,), work.padded)
    per_half = training_flops(new.model, lengths[0]) / training_flops(old.model, lengths[1])
    batch = new.training.batch_size / old.training.batch_size
    step = batch * new.training.gradient_accumulation_steps / old.training.gradient_accumulation_steps
    # recomputing each block's forward pass adds one to the three that a training step counts as
    passes = [4 if c.training.gradient_checkpointing else 3 for c in (new, old)]
    again = passes[0] / passes[1]
    return replace(
        work,
        rows=max(2, round(work.rows * batch)),
        longest=tuple(max(1, round(genes * share)) for genes in work.longest),
        padded=padded,
        mean_genes=work.mean_genes * share,
        flops=work.flops * per_half * step * again,
        validation_flops=work.validation_flops * per_half,
        loader_seconds=work.loader_seconds * share * step,
        steps_per_epoch=max(1, round(work.steps_per_epoch / step)),
    )


def cost_if(target: Target, config: Config, work: Workload, changes: dict[str, Any], exact: bool = True) -> Cost:
    """What the config takes with these dotted keys changed; at once by formula if not `exact`."""
    new = with_changes(config, changes)
    return cost(target, new, _scaled(work, config, new), exact)


def max_batch_size(target: Target, config: Config, work: Workload) -> int | None:
    """The most cells in a forward pass whose longest batch fits; 0 if none does, None if the memory is not known."""
    if target.room is None:
        return None
    size = config.training.batch_size
    costs = [cost_if(target, config, work, {"training.batch_size": cells}) for cells in (size, 2 * size)]
    one, two = (found.memory_bytes["total"] for found in costs)
    per_cell = (two - one) / size  # memory is a straight line in the batch size
    room = target.room - (one - per_cell * size)
    return max(0, int(room / per_cell))


def levers(target: Target, config: Config, work: Workload, cells: int) -> list[dict[str, Any]]:
    """Each lever: the keys to set, bytes and seconds it saves (negative: costs), most memory first, then most time."""
    base = cost(target, config, work, exact=False)  # by formula on both sides, so that the difference is of one kind
    training = config.training
    tried: list[tuple[str, dict[str, Any], str]] = []
    if training.batch_size > 1:
        half = training.batch_size // 2
        twice = training.gradient_accumulation_steps * 2
        changes = {"training.batch_size": half, "training.gradient_accumulation_steps": twice}
        tried.append(("smaller batch with accumulation", changes, "the same steps, in more passes"))
    smaller = _smaller_model(config)
    if smaller:
        tried.append(("smaller model", smaller, "learns less from large data"))
    fewer = max(2, config.vocabulary_size // 2)
    changes = {"model.n_genes": fewer, "data.preprocessing.n_top_genes": None}
    tried.append(("fewer genes", changes, "rarer cell types may lose their markers"))
    if precision_of(target, training) == "fp32":
        half_type = "training.bf16" if target.kind == "cpu" or not target.card or target.card.bf16 else "training.fp16"
        note = "no faster on CPUs, as measured" if target.kind == "cpu" else "and faster where the card has it"
        tried.append(("mixed precision", {half_type: True}, note))
    if not training.gradient_checkpointing:
        tried.append(("gradient checkpointing", {"training.gradient_checkpointing": True}, "recomputes each block"))
    rows = []
    for name, changes, note in tried:
        new = cost_if(target, config, work, changes, exact=False)
        rows.append(
            {
                "lever": name,
                "set": [f"{key}={'null' if value is None else str(value).lower()}" for key, value in changes.items()],
                "saves_bytes": base.memory_bytes["total"] - new.memory_bytes["total"],
                "saves_seconds": base.seconds[1] - new.seconds[1],
                "note": note,
            }
        )
    subsample = {"lever": "subsample the cells", "set": [f"data.n_obs={cells // 2}"], "saves_bytes": 0}
    rows.append(subsample | {"saves_seconds": base.seconds[1] / 2, "note": "half the cells: half the time"})
    return sorted(rows, key=lambda row: (-row["saves_bytes"], -row["saves_seconds"]))


def _smaller_model(config: Config) -> dict[str, Any] | None:
    """The next smaller preset's dimensions, or half of these where no preset is smaller."""
    size = sum(parameters(config.model).values())
    presets = [load_config(name).model for name in reversed(PRESETS)]
    keys = ("n_genes", "gene_embedding_dim", "hidden_dim", "num_layers", "num_heads", "ff_dim")
    for model in presets:
        if sum(parameters(model).values()) < size:
            return {f"model.{key}": getattr(model, key) for key in keys} | {"data.preprocessing.n_top_genes": None}
    halves = {"hidden_dim": config.model.hidden_dim // 2, "ff_dim": config.model.ff_dim // 2}
    if halves["hidden_dim"] < 1 or halves["ff_dim"] < 1 or halves["hidden_dim"] % config.model.num_heads:
        return None
    return {f"model.{key}": value for key, value in halves.items()}
