"""Where the time of a training step goes, and what other ways of taking it give.

    SCFM_DATA_DIR=... python benchmarks/step.py [--data zheng_pbmc_facs] [--rounds 5] [--out FILE] [--profile FILE]

MINIMAL on real batches. Ways take turns, so that a busy machine slows all of them: what is shipped (coarse threads),
torch's own threads, and each change alone on top of what is shipped: `torch.compile`, the bag as an embedding bag with
dense and with sparse gradients, the gradient of the loss by hand, bf16 autocast. Milliseconds of a step, the median of
the rounds with their range. With --profile the operations of one thread's steps are written there as a table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from rows import Rows
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import scfm_lib as scfm
from scfm_lib.checkpoint import TrainState
from scfm_lib.dataset import Batch, HalfCells
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.model import CellTransformer, prediction_loss
from scfm_lib.runtime.threads import Threads
from scfm_lib.start import new_model, pca_start
from scfm_lib.train import new_state, training_step
from scfm_lib.versions import versions

STEPS = 15  # a round


class Bagged(CellTransformer):
    """The bag without a dense table of cells and genes."""

    sparse = False

    def cell_start(self, genes: Tensor, values: Tensor) -> Tensor:
        bag = F.embedding_bag(genes, self.bag_embedding, mode="sum", per_sample_weights=values, sparse=self.sparse)
        return self.cell_token + self.bag_to_cell(bag - self.bag_centre)


class SparseBagged(Bagged):
    sparse = True


class HandWritten(torch.autograd.Function):
    """`prediction_loss`, whose gradient is molecules x softmax - counts: one table instead of three."""

    @staticmethod
    def forward(ctx: object, logits: Tensor, genes: Tensor, counts: Tensor) -> Tensor:
        molecules, log_total = counts.sum(1), logits.logsumexp(1)
        ctx.save_for_backward(logits, genes, counts, molecules, log_total)
        return (molecules * log_total - (logits.gather(1, genes) * counts).sum(1)).sum()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, genes, counts, molecules, log_total = ctx.saved_tensors
        out = (logits - log_total[:, None]).exp_().mul_((gradient * molecules)[:, None])
        return out.scatter_add_(1, genes, -gradient * counts), None, None


def shipped(state: TrainState, batch: Batch) -> None:
    training_step(state, [batch], 1e-4)


def by_hand(state: TrainState, batch: Batch) -> None:
    module = __import__("sys").modules["scfm_lib.train"]
    module.prediction_loss = HandWritten.apply
    try:
        training_step(state, [batch], 1e-4)
    finally:
        module.prediction_loss = prediction_loss


def compiled(model: CellTransformer) -> CellTransformer:
    model.compile(dynamic=True)
    return model


def kind(cls: type[CellTransformer]) -> Callable[[CellTransformer], CellTransformer]:
    def change(model: CellTransformer) -> CellTransformer:
        model.__class__ = cls
        return model

    return change


WAYS: dict[str, tuple[Callable, Callable, str, int]] = {  # model, step, precision, coarse threads (0: torch's own)
    "shipped: coarse threads": (lambda model: model, shipped, "fp32", 2),
    "torch's threads": (lambda model: model, shipped, "fp32", 0),
    "one thread": (lambda model: model, shipped, "fp32", 1),
    "torch.compile": (compiled, shipped, "fp32", 0),
    "embedding bag": (kind(Bagged), shipped, "fp32", 2),
    "embedding bag, sparse gradients": (kind(SparseBagged), shipped, "fp32", 2),
    "the loss's gradient by hand": (lambda model: model, by_hand, "fp32", 2),
    "bf16 autocast": (lambda model: model, shipped, "bf16", 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="zheng_pbmc_facs")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("step.jsonl"))
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args()
    use_all_cores()
    cores = torch.get_num_threads()
    config = scfm.load_config("minimal")
    with TemporaryDirectory() as folder:
        store = scfm.prepare(scfm.find_data(arguments.data), config, Path(folder) / "store")
        data = HalfCells(store, None, config.training.batch_size, 0, config.training.token_share)
        batches = [data[step] for step in range(STEPS)]
        start = pca_start(store, data.cells, config.model.gene_embedding_dim, 0)
    states, failed = {}, {}
    for name in arguments.ways:
        change, _, precision, _ = WAYS[name]
        model = change(new_model(config.model, 0, start))
        states[name] = new_state(model, config.training, torch.device("cpu"), precision)

    def round_of(name: str) -> float:
        _, step, _, threads = WAYS[name]
        torch.set_num_threads(1 if threads == 1 else cores)
        with Threads(cores if threads == 2 else 1) as states[name].threads:
            started = time.perf_counter()
            for batch in batches:
                step(states[name], batch)
        return 1000 * (time.perf_counter() - started) / len(batches)

    for name in arguments.ways:
        try:
            round_of(name)  # which compiles, and makes AdamW's states
        except Exception as error:
            failed[name] = str(error).strip().splitlines()[0][:120] or type(error).__name__
    found: dict[str, list[float]] = {name: [] for name in arguments.ways if name not in failed}
    for _ in range(arguments.rounds):
        for name, times in found.items():
            times.append(round_of(name))
    rows = Rows(arguments.out, ("way", "data"))
    for name in arguments.ways:
        row = {"way": name, "data": arguments.data, "failed": failed.get(name)}
        if name in found:
            times = np.round(sorted(found[name]), 1).tolist()
            row |= {"milliseconds": times, "median": round(statistics.median(times), 1)}
        rows.add(row | {"cores": cores, "versions": versions()})
        print(json.dumps({key: row.get(key) for key in ("way", "median", "milliseconds", "failed")}), flush=True)
    if arguments.profile:
        torch.set_num_threads(1)
        state = states[arguments.ways[0]]
        with Threads(1) as state.threads, profile(activities=[ProfilerActivity.CPU]) as seen:
            for batch in batches:
                shipped(state, batch)
        table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=50)
        arguments.profile.write_text(f"{len(batches)} steps of MINIMAL on {arguments.data}, one thread\n{table}\n")


if __name__ == "__main__":
    main()
