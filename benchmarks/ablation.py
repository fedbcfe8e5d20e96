"""What each part of the model and of its training is worth: one change at a time, three seeds, two data sets or three.

    SCFM_DATA_DIR=... python benchmarks/ablation.py [--out FILE] [--data zheng_pbmc_facs pbmc3k] [--seeds 0 1 2]

MINIMAL on 80 % of the cells, to the end of its epochs. The first three rows are the way from the first edition's model
to this one; each of the others changes one thing of `shipped`. Scores are those of `scfm evaluate`: probes and clusters
over all cells, and the held-out loss in nats per molecule (of another vocabulary in `first`, so not comparable).

Rows are written to FILE as they are made, and rows that are there are not made again. Ends with a table of means and
standard deviations over the seeds. With one thread a row takes two to three minutes, so two calls, one a data set, use
two cores well: `OMP_NUM_THREADS=1 python benchmarks/ablation.py --data pbmc3k`. With `--data simulated` on the
cells of quality.py.
"""

import argparse
import itertools
import json
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
import torch
import torch.nn.functional as F
from quality import SIMULATED
from rows import Row, Rows, markdown
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import scfm_lib as scfm
from scfm_lib.checkpoint import TrainState
from scfm_lib.config import Config
from scfm_lib.data.read import read_adata
from scfm_lib.data.store import Store, prepare
from scfm_lib.dataset import Batch, HalfCells, log_normalise
from scfm_lib.embed import token_batches
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.model import Block, CellTransformer
from scfm_lib.scores.embedding import scores
from scfm_lib.start import new_model, pca_start
from scfm_lib.train import learning_rate, new_state, training_step, validation_loss
from scfm_lib.versions import versions

AVERAGE_OVER = 0.99  # of an average weight this much is kept at each step: about the last hundred steps
SHOWN = {
    "knn_f1": "kNN F1", "knn_cosine_f1": "cosine", "logistic_f1": "logistic F1", "nmi": "NMI", "ari": "ARI",
    "silhouette": "silhouette", "held_out_loss": "held-out loss",
}  # fmt: skip


def as_it_is(model: CellTransformer) -> None:
    pass


def no_bag(model: CellTransformer) -> None:
    model.cell_start = lambda genes, values: model.cell_token.expand(len(genes), -1)


def bag_alone(model: CellTransformer) -> None:
    """No gene is a token, so that the blocks are a feed-forward network on [CELL]."""

    def read(self: CellTransformer, genes: Tensor, values: Tensor, most_tokens: int | None = None):
        return self.cell_start(genes, values)[:, None], torch.ones(len(genes), 1, 1, 1, dtype=torch.bool)

    model.read = types.MethodType(read, model)


def no_value_network(model: CellTransformer) -> None:
    model.value_out.requires_grad_(False).weight.zero_()


def first_value_network(model: CellTransformer) -> None:
    """As in the first edition: every unit starts either always on or always off."""
    nn.init.normal_(model.value_in.weight, std=0.5)
    nn.init.zeros_(model.value_in.bias)


def one_table(model: CellTransformer) -> None:
    """The bag's vectors are the tokens' too, with the spread along each direction that the tokens' have."""
    scale = model.gene_embedding.std(0) / model.bag_embedding[: model.config.n_genes].std(0)

    def tokens(self: CellTransformer, genes: Tensor, values: Tensor) -> Tensor:
        table = self.gene_to_token(self.bag_embedding[: self.config.n_genes] * scale)
        identity, slope = F.embedding(genes, table).chunk(2, dim=-1)
        value = values.unsqueeze(-1)
        return identity + slope * value + self.value_out(F.relu(self.value_in(value)))

    model.tokens = types.MethodType(tokens, model)


def zero_outputs(model: CellTransformer) -> None:
    for block in model.blocks:
        block.attention_out.weight.zero_()
        block.ff_out.weight.zero_()


class OtherBlock(Block):
    """`Block` with ReLU^2 for GELU (So et al. 2021), or queries and keys of length one (Henry et al. 2020)."""

    squared, normed_queries = False, False

    def forward(self, x: Tensor, attend: Tensor, cell_only: bool = False) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.normed_queries:
            q, k = (F.rms_norm(t, (t.shape[-1],)) for t in (q, k))
        if cell_only:
            q, x = q[:, :, :1], x[:, :1]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        inside = self.ff_in(self.ff_norm(x))
        return x + self.ff_out(F.relu(inside).square() if self.squared else F.gelu(inside))


class SquaredBlock(OtherBlock):
    squared = True


class NormedBlock(OtherBlock):
    normed_queries = True


def blocks_of(kind: type[Block]) -> Callable[[CellTransformer], None]:
    def change(model: CellTransformer) -> None:
        for block in model.blocks:
            block.__class__ = kind

    return change


class SplitGenes(HalfCells):
    """All molecules of a gene go to one half: a single coin is tossed for it."""

    def halves(self, cells: np.ndarray, epoch: int, most_tokens: int | None = None) -> Batch:
        with_one_molecule = replace(self.store, counts=np.ones_like(self.store.counts))
        coins = HalfCells(with_one_molecule, self._given, self.cells_per_step, self.seed)
        batch = coins.halves(cells, epoch, most_tokens)
        dense, rows = self.store.matrix(np.tile(cells, 2)).toarray(), np.arange(2 * len(cells))[:, None]
        read = dense[rows, batch.genes] * (batch.values.numpy() > 0)
        batch.values = torch.from_numpy(log_normalise(read, self.store.library_size[np.tile(cells, 2)] / 2))
        batch.target_counts *= torch.from_numpy(dense[rows, batch.target_genes])
        return batch


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024), for the matrices of the blocks.

    torch.optim.Muon's rule, but in the gradients' precision: torch computes in bfloat16, which took 64 times as long
    on a CPU without it.
    """

    def __init__(self, params: list[nn.Parameter], lr_scale: float, weight_decay: float):
        super().__init__([{"params": params, "lr_scale": lr_scale}], {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum"].lerp_(weight.grad, 0.05)
                x = weight.grad.lerp(momentum, 0.95)
                tall = x.shape[0] > x.shape[1]
                x = (x.mT if tall else x) / x.norm().clamp(min=1e-7)
                for _ in range(5):
                    gram = x @ x.mT
                    x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(
                    x.mT if tall else x, alpha=-group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                )


class Optimizers:
    """Several that a training step takes for one."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


def with_muon(state: TrainState, lr_scale: float) -> None:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    inside = [p for p in state.model.blocks.parameters() if p.dim() == 2]
    for group in state.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not other for other in inside)]
    state.optimizer = Optimizers(Muon(inside, lr_scale, state.settings.weight_decay), state.optimizer)


@dataclass(frozen=True)
class Variant:
    """One change of the recipe, or a few."""

    change: Callable[[CellTransformer], None] = as_it_is
    then: Callable[[CellTransformer], None] = as_it_is
    tokens_only: bool = False  # only genes that are tokens are predicted
    start: bool = True  # from the PCA
    rate: float = 1.0  # the learning rate over the shipped one
    muon: float = 0.0  # its rate over AdamW's; 0: AdamW for all weights. Muon's usual 0.02 is ten times ours
    split: type[HalfCells] = HalfCells
    by_molecules: bool = False  # a step counts by the molecules it predicts; shipped: all steps alike


VARIANTS = {
    "first": Variant(no_bag, first_value_network, tokens_only=True),
    "all genes predicted": Variant(no_bag),
    "shipped": Variant(),
    "bag alone": Variant(bag_alone),
    "Muon": Variant(muon=10),
    "Muon at half the rate": Variant(muon=5),
    "half the learning rate": Variant(rate=0.5),
    "twice the learning rate": Variant(rate=2),
    "no PCA start": Variant(start=False),
    "genes split": Variant(split=SplitGenes),
    "steps by molecules": Variant(by_molecules=True),
    "one table": Variant(one_table),
    "no value network": Variant(no_value_network),
    "first value network": Variant(first_value_network),
    "ReLU squared": Variant(blocks_of(SquaredBlock)),
    "QK-norm": Variant(blocks_of(NormedBlock)),
    "zero outputs": Variant(zero_outputs),
}


def only_tokens(store: Store) -> Store:
    """The store without the genes that are no tokens."""
    kept = np.asarray(store.genes) < store.n_tokens
    indptr = np.concatenate([[0], np.cumsum(kept)])[store.indptr]
    names = {"symbols": store.symbols[: store.n_tokens], "ensembl": store.ensembl[: store.n_tokens]}
    return replace(store, genes=store.genes[kept], counts=store.counts[kept], indptr=indptr, **names)


def trained(variant: Variant, store: Store, config: Config) -> tuple[CellTransformer, CellTransformer, list[float]]:
    """The model, its averaged weights, and the held-out loss after each epoch."""
    settings, device = config.training, torch.device("cpu")
    store = only_tokens(store) if variant.tokens_only else store
    cells = np.flatnonzero(~store.held_out)
    data = variant.split(store, cells, settings.batch_size, settings.seed, settings.token_share)
    start = pca_start(store, cells, config.model.gene_embedding_dim, settings.seed)
    if not variant.start:
        start["components"] = start["components"][:, :0]
    model = new_model(config.model, settings.seed, start)
    if not variant.start:  # the bag is still that of a cell less that of the mean cell
        values = log_normalise(store.matrix(cells), store.library_size[cells])
        model.bag_centre += torch.from_numpy(np.asarray(values.mean(0)).ravel()) @ model.bag_embedding.detach()
    model.symbols, model.ensembl = store.symbols, store.ensembl
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_OVER))
    with torch.no_grad():
        variant.change(model)
        variant.then(model)
    state = new_state(model, settings, device)
    if variant.muon:
        with_muon(state, variant.muon)
    losses, steps = [], settings.num_epochs * data.steps_per_epoch
    model.train()
    mean_molecules = torch.stack([data[step].molecules for step in range(data.steps_per_epoch)]).mean()
    for step in range(steps):
        batch = data[step]
        molecules = mean_molecules if variant.by_molecules else batch.molecules
        training_step(state, [batch], variant.rate * learning_rate(step, steps, settings), molecules)
        averaged.update_parameters(model)
        if (step + 1) % data.steps_per_epoch == 0:
            losses.append(round(validation_loss(state, store), 4))
    model.eval()
    return model, averaged.module.eval(), losses


@torch.inference_mode()
def vectors_of(model: CellTransformer, adata: ad.AnnData) -> np.ndarray:
    """The cells' vectors (cells, dimensions), as many dimensions as `encode` gives."""
    found = None
    for rows, genes, values in token_batches(model, adata, layer="counts"):
        here = model.encode(genes, values).numpy()
        found = np.zeros((adata.n_obs, here.shape[1]), dtype=np.float32) if found is None else found
        found[rows] = here
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["zheng_pbmc_facs", "pbmc3k"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--epochs", type=int, default=scfm.load_config("minimal").training.num_epochs)
    parser.add_argument("--out", type=Path, default=Path("ablation.jsonl"))
    arguments = parser.parse_args()
    use_all_cores()
    rows = Rows(arguments.out, ("data", "seed", "epochs", "variant"))
    for name in arguments.data:
        adata = read_adata(scfm.simulate(**SIMULATED) if name == "simulated" else scfm.find_data(name))
        with TemporaryDirectory() as folder:
            config = scfm.load_config("minimal", {"training.num_epochs": arguments.epochs})
            store = prepare(adata, config, Path(folder) / "store")
            config.model.n_genes = store.n_tokens
            for seed, variant in itertools.product(arguments.seeds, arguments.variants):
                key = {"data": name, "seed": seed, "epochs": arguments.epochs, "variant": variant}
                if not rows.has(**key):
                    config.training.seed = seed
                    for row in judged(variant, adata, store, config):
                        rows.add(key | row)
                        print(json.dumps(rows.rows[-1]), flush=True)
    print(json.dumps({"versions": versions()}))
    for name in arguments.data:
        table: dict[str, list[Row]] = {}
        for row in rows.of(data=name, epochs=arguments.epochs):
            table.setdefault(row["variant"], []).append(row)
        print(f"\n{name}, {arguments.epochs} epochs, mean (sd) over seeds\n\n{markdown(table, SHOWN)}")


def judged(name: str, adata: ad.AnnData, store: Store, config: Config) -> Iterator[Row]:
    """The row of a variant, and of what else could be taken from the training of `shipped`."""
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    started = time.process_time()
    model, averaged, losses = trained(VARIANTS[name], store, config)
    seconds = round(time.process_time() - started, 1)

    def row(variant: str, model: CellTransformer, loss: float) -> Row:
        found = scores(vectors_of(model, adata), labels).values
        return {"variant": variant, "held_out_loss": loss, "cpu_seconds": seconds} | found

    yield row(name, model, losses[-1]) | {"held_out_losses": losses}
    if name == "shipped":
        loss = validation_loss(new_state(averaged, config.training, torch.device("cpu")), store)
        yield row("averaged weights", averaged, round(loss, 4))
        model.to_latent = nn.Identity()
        yield row("vector: [CELL], not narrowed", model, losses[-1])
        model.norm = nn.Identity()
        yield row("vector: [CELL] before the last norm", model, losses[-1])


if __name__ == "__main__":
    main()
