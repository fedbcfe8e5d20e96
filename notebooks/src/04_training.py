# ---
# jupyter:
#   jupytext:
#     formats: ipynb,src//py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Training
#
# **You will be able to** write a training loop and explain each of its lines, say what its two optimizers do, test that it is correct before you wait
# for it, read a loss curve, choose a learning rate and a batch size by looking, and stop a run and go on with it.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 2, and about 70 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. If you pressed "use this" in notebook 01, your choice is trained here |

# %%
# Set-up: nothing happens on your own computer; Colab and Kaggle fetch the project and install what is missing.
import os
import sys

if os.environ.get("COLAB_RELEASE_TAG") or os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
    if not os.path.exists("../colab_setup.sh"):
        address = "https://example.org/PLACEHOLDER/scfm-workbook"
        get_ipython().system(f"[ -d scfm-workbook ] || git clone --quiet --depth 1 {address}")
        os.chdir("scfm-workbook/notebooks")
    get_ipython().system("bash ../colab_setup.sh")
    sys.path.insert(0, os.path.abspath(".."))  # this kernel began before the installation

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import exercises
import scfm_lib as scfm
from scfm_lib.reporting import BLUE, GREEN, ORANGE, RED

plt.rcParams.update({"figure.figsize": (7, 3.4), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. What the loop needs
#
# Four things: **cells**, a **model**, a **loss** that says how wrong the model is, and an **optimizer** that changes
# the weights so that it becomes less wrong. The cells first: 700 blood cells that come with scanpy, so nothing is
# downloaded. For more cells, write `name = "pbmc3k"` (2,638 cells, downloaded once).

# %%
work = scfm.work_dir() / "04_training"
name = "bundled"  # or "pbmc3k"
minimal = scfm.load_config("minimal")

folder = work / f"store_{name}"
if (folder / "store.json").exists():
    store = scfm.open_store(folder)
else:
    store = scfm.prepare([scfm.find_data(name)], minimal, folder)
print(f"{len(store)} cells, {len(store.symbols)} genes, {store.n_tokens} of them tokens")

# %% [markdown]
# Every gene is heard and predicted, and the most variable ones are tokens: 1,000 of them in MINIMAL. This small table
# has fewer, so here every gene is one.
#
# One cell in five is *held out*: nothing is learned from it, so that later it can tell us whether the model learned
# something that holds for new cells.

# %%
cells = np.flatnonzero(~store.held_out)  # numbers of the cells to learn from
print(len(cells), "cells to learn from,", int(store.held_out.sum()), "held out")

# %% [markdown]
# ### A batch
#
# Every molecule of a cell goes to half A or half B by the toss of a coin. The model reads one half and predicts the
# counts of the other. `HalfCells` makes the batches: item *i* is the batch of step *i*, always the same for the same
# seed.

# %%
from scfm_lib.dataset import HalfCells

settings = minimal.training
batches = HalfCells(store, cells, settings.batch_size, settings.seed)
batch = batches[0]
print("read:   ", tuple(batch.genes.shape), "genes and values (half cells, longest half)")
print("predict:", tuple(batch.target_genes.shape), "genes and counts of the other halves")
print(len(batches), "steps make an epoch: every cell used once, as two halves")

# %% [markdown]
# ### The model and its loss
#
# The model answers with one number per gene, the *logits*; their softmax is the share of molecules that it expects
# from each gene. The loss is the **multinomial negative log-likelihood**: for each molecule that is really there,
# minus the log of the share the model gave to its gene. In nats (natural logarithm) per molecule:
#
# $$\text{loss} = -\frac{1}{M} \sum_{\text{cells } c} \; \sum_{\text{genes } g} n_{cg} \, \log p_{cg}
# \qquad (n_{cg} \text{ molecules, } M \text{ of them in all, } p_{cg} \text{ the expected share})$$

# %%
from scfm_lib.start import new_model, pca_start

start = pca_start(store, cells, minimal.model.gene_embedding_dim, settings.seed)
for what, numbers in start.items():
    print(f"{what:10} {tuple(numbers.shape)}")

# %% [markdown]
# That is a PCA of the training cells, over all genes: `components`, the 64 directions in which the cells differ most,
# their `spread` along each, and the mean cell, `centre`; and `log_share`, the log of each gene's share of all
# molecules. A new model takes [CELL]'s bag and the genes' vectors from the first three (notebook 03), and the decoder's
# bias from the last, so it begins with what is simple. What it is to learn is the rest.

# %%
shape = minimal.model.model_copy()
shape.n_genes = store.n_tokens  # the data may have fewer genes than the preset asks for
model = new_model(shape, settings.seed, start)
logits = model(batch.genes, batch.values, batch.most_tokens)
print(tuple(logits.shape), "logits: half cells x genes")

# %% [markdown]
# The formula in plain code, then the library's `prediction_loss`, which leaves out the zeros:

# %%
from scfm_lib.model import prediction_loss

counts = torch.zeros_like(logits).scatter_add(1, batch.target_genes, batch.target_counts)  # (half cells, genes)
plain = -(counts * logits.log_softmax(dim=1)).sum() / counts.sum()
library = prediction_loss(logits, batch.target_genes, batch.target_counts) / batch.molecules
assert torch.isclose(plain, library, rtol=1e-4)
print(f"plain {plain.item():.2f}, library {library.item():.2f} nats per molecule")

# %% [markdown]
# How to read such a number: $e^{\text{loss}}$ is the number of genes among which the model hesitates, as if they were
# equally likely. A model that knows nothing hesitates among all of them.

# %%
print(f"knows nothing: {np.log(len(store.symbols)):.2f} nats, {len(store.symbols)} genes")
print(f"our start:     {library.item():.2f} nats, about {np.exp(library.item()):.0f} genes")

# %% [markdown]
# ### One step down
#
# `backward()` asks for every weight: in which direction would the loss rise? That is the *gradient*. One rare batch
# can give a huge one, so we **clip** it: if its norm is above 1, all gradients are scaled down by the same factor.

# %%
library.backward()
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)  # the norm before clipping
print(f"gradient norm {norm.item():.1f}, clipped to at most {settings.max_grad_norm}")

# %% [markdown]
# An **optimizer** turns gradients into steps. **AdamW** looks at each weight alone: it keeps a running average of the
# weight's gradient and one of its square, and steps by the first over the root of the second. So each weight moves by
# about the learning rate, be its gradient large or small. Its first step, for two weights:

# %%
weight = torch.tensor([1.0, 1.0], requires_grad=True)
one_rate = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.0)
weight.grad = torch.tensor([100.0, 0.001])
one_rate.step()
print("gradients 100 and 0.001; moved by", [round(moved, 4) for moved in (1 - weight).tolist()])

# %% [markdown]
# The W is for *weight decay*: each step also shrinks the weights by a little.
#
# ### Muon: a matrix as a whole
#
# Most of a block's weights stand in matrices, and a matrix does its work as a whole: it stretches some directions of
# what comes in and shrinks others. How much, its **singular values** tell, one for each direction. Those of a gradient
# are very uneven: a few directions dominate, and a step along the gradient hardly moves the rest. **Muon** brings them
# close to 1 before it steps, so that rare directions move as far as common ones. That is to *orthogonalise* it.
#
# No singular values need to be worked out for it. Five rounds of $X \leftarrow aX + b\,XX^\top X + c\,(XX^\top)^2 X$ change
# nothing but these values: each $s$ becomes $as + bs^3 + cs^5$, which with the right numbers is drawn towards 1.


# %%
def plain_orthogonal(matrix, a=3.4445, b=-4.7750, c=2.0315):
    """A matrix with the same directions, all of about the same weight."""
    x = matrix / matrix.norm()  # no singular value is above 1 now
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


small = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.5, 0.2]])
for label, matrix in (("before", small), ("after", plain_orthogonal(small))):
    print(f"{label:7}", [[round(x, 2) for x in row] for row in matrix.tolist()], end="  singular values ")
    print([round(s, 2) for s in torch.linalg.svdvals(matrix).tolist()])

# %% [markdown]
# One direction had 14 times the weight of the other, now it has 1.6 times. Near 1 is near enough, since only the direction
# counts. Now a real gradient, of the matrix that widens tokens in the first block:

# %%
from scfm_lib.optimizer import orthogonalise

gradient = model.blocks[0].ff_in.weight.grad  # (512, 128)
even = orthogonalise(gradient)  # the library's, which turns tall matrices first: X X' is then the smaller product
assert torch.allclose(even, plain_orthogonal(gradient.T).T, atol=1e-4)
for label, matrix in (("before", gradient), ("after", even)):
    s = torch.linalg.svdvals(matrix)  # (128,), the largest first
    print(
        f"{label:7}{tuple(matrix.shape)}: the 8 strongest of 128 directions have {s[:8].sum() / s.sum():.0%}", end=", "
    )
    print(f"the 33rd is {s[32] / s[0]:.3f} of the first")

# %%
figure, axes = plt.subplots()
for label, matrix, colour, style in (
    ("the gradient", gradient, ORANGE, "--"),
    ("what Muon makes of it", even, BLUE, "-"),
):
    s = torch.linalg.svdvals(matrix)
    axes.semilogy(s / s[0], style, color=colour, label=label)
axes.set(xlabel="direction, the strongest first", ylabel="singular value (largest: 1)", ylim=(1e-5, 2))
axes.set_title("Muon lifts the weak directions")
axes.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# *Figure: the 128 singular values of a gradient in falling order, each over the largest, on a logarithmic axis. Dashed,
# the gradient's own: they fall steeply over several powers of ten. What Muon makes of them stays level for some thirty
# directions and then falls too, far above the dashed line.*
#
# Five rounds lift a tiny singular value by $3.4445^5$, some 480 times, and no more. So what the gradient hardly has
# stays small, noise included; directions of some weight become even.
#
# Muon is for matrices inside the network. Vectors of genes, biases and norms stay with AdamW. The library makes both:

# %%
from scfm_lib.optimizer import new_optimizers

optimizers = new_optimizers(model, settings, torch.device("cpu"))
names = {weight: name for name, weight in model.named_parameters()}
for optimizer in optimizers:
    for group in optimizer.param_groups:
        some = ", ".join([names[weight] for weight in group["params"]][:3])
        print(
            f"{type(optimizer).__name__:6} lr_scale {group['lr_scale']:>4}: {len(group['params']):>2} tensors ({some} ...)"
        )

# %% [markdown]
# `lr_scale` is a group's learning rate over that of the config. Muon's steps may be ten times as long, because no
# direction of them is longer than the others. The bag's vectors go at a tenth: they start as a good PCA, and should stay
# close to it. Now the step. First Muon's by hand for our matrix: it keeps one average, the *momentum*, and looks a little
# ahead of it.

# %%
rate = settings.learning_rate
momentum = 0.05 * gradient  # 0.95 of the old, here 0, and 0.05 of the new
ahead = 0.05 * gradient + 0.95 * momentum
step = 10 * rate * (512 / 128) ** 0.5 * orthogonalise(ahead)  # the root: a tall matrix may go further
matrix = model.blocks[0].ff_in.weight
by_hand = (matrix * (1 - 10 * rate * settings.weight_decay) - step).detach()
print(f"longest step of a single number: {step.abs().max():.4f}")

# %%
for optimizer in optimizers:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    optimizer.step()
assert torch.allclose(matrix, by_hand, atol=1e-5)
model.zero_grad(set_to_none=True)  # backward() adds to what is there: empty it after each step
print("Muon's step by hand and by the library: the same")

# %% [markdown]
# **Exercise 4.1** (medium, 6 minutes). Written with singular values, what Muon aims at is one line. If
# `u, s, vh = torch.linalg.svd(matrix, full_matrices=False)`, the matrix is `u @ torch.diag(s) @ vh`. Write
# `even(matrix)`, which returns the matrix with the same directions and all singular values exactly 1. Then
# `answer = even`.

# %%
answer = ...
exercises.check("4.1", answer)

# %% [markdown]
# ### The learning rate's course
#
# How far a step goes is the *learning rate*. At the beginning the optimizers have seen little, so the rate rises slowly
# (*warm-up*); at the end small steps settle into the valley, so it falls along half a cosine. The plain version:


# %%
from scfm_lib.train import learning_rate


def plain_rate(step, total, highest, warmup_share):
    warmup = max(1, round(warmup_share * total))
    if step < warmup:
        return highest * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)  # 0 after the warm-up, 1 at the end
    return highest * (0.02 + 0.98 * (1 + np.cos(np.pi * progress)) / 2)


total = 8 * len(batches)  # eight epochs
plain_rates = [plain_rate(s, total, settings.learning_rate, settings.warmup_fraction) for s in range(total)]
rates = [learning_rate(s, total, settings) for s in range(total)]
assert np.allclose(plain_rates, rates)
print(f"plain and library agree on {total} steps; highest {max(rates):.4f}, last {rates[-1]:.5f}")

# %%
figure, axes = plt.subplots()
axes.plot(rates, color=BLUE)
axes.axvline(settings.warmup_fraction * total, color="grey", linestyle=":", label="end of warm-up")
axes.set(xlabel="optimizer step", ylabel="learning rate", title="The learning rate rises, then falls along a cosine")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: the learning rate over the steps of eight epochs. It rises in a straight line for the first tenth of the
# steps, to 0.002, and falls from there to 2 % of that along half a cosine. A dotted line marks the end of the
# warm-up.*

# %% [markdown]
# **Exercise 4.2** (easy, 3 minutes). You learn from 5,000 cells for 10 epochs, with `batch_size: 16` and
# `gradient_accumulation_steps: 2` (two forward passes for one optimizer step). How many optimizer steps does the run
# take?

# %%
answer = ...
exercises.check("4.2", answer)

# %% [markdown]
# ## 2. The loop, written out
#
# Here is all of it. Nothing is hidden: `HalfCells`, the loss, the optimizers and `learning_rate` you have just seen. `watch` is a
# function that we may pass in to look at the losses while it works.


# %%
def train_plainly(store, cells, shape, settings, steps, total, watch=None):
    """Trains a new model for some steps of a run of `total` steps; returns it and the loss of each step."""
    batches = HalfCells(store, cells, settings.batch_size, settings.seed)
    start = pca_start(store, cells, shape.gene_embedding_dim, settings.seed)
    model = new_model(shape, settings.seed, start)

    optimizers = new_optimizers(model, settings, torch.device("cpu"))  # Muon and AdamW

    losses = []
    model.train()
    for step in range(steps):
        rate = learning_rate(step, total, settings)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group["lr_scale"]

        batch = batches[step]
        logits = model(batch.genes, batch.values, batch.most_tokens)  # forward
        loss = prediction_loss(logits, batch.target_genes, batch.target_counts) / batch.molecules
        loss.backward()  # backward
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)  # clip
        for optimizer in optimizers:
            optimizer.step()  # move
        model.zero_grad(set_to_none=True)  # empty

        losses.append(loss.item())
        if watch and ((step + 1) % 10 == 0 or step + 1 == steps):
            watch(losses)
    return model.eval(), losses


# %% [markdown]
# Watch it learn: two epochs, and a curve that is drawn anew every 10 steps. matplotlib draws, and IPython's display
# handle puts the new picture in the place of the old.

# %% tags=["nbval-ignore-output"]
# the live loss curve
from IPython.display import display

figure, axes = plt.subplots()
(line,) = axes.plot([], [], color=BLUE)
axes.set(xlabel="optimizer step", ylabel="loss (nats per molecule)", title="Live: the loss of each step")
plt.close(figure)  # the handle shows it, not the end of the cell
handle = display(figure, display_id=True)


def watch(losses):
    line.set_data(range(1, len(losses) + 1), losses)
    axes.relim()
    axes.autoscale_view()
    handle.update(figure)


plain_model, plain_losses = train_plainly(store, cells, shape, settings, 2 * len(batches), total, watch)

# %% [markdown]
# *Figure: the loss of each step over two epochs, drawn while the loop runs. Single steps go up and down, because each
# batch holds other cells.*

# %%
first, last = np.mean(plain_losses[:5]), np.mean(plain_losses[-5:])
print(f"mean of the first 5 steps {first:.1f}, of the last 5 {last:.1f} nats per molecule")

# %% [markdown]
# ### Does the library do the same?
#
# First its single step. `training_step` does what our loop does, and three things more: it can move a batch to a
# graphics card, compute in half precision (then a *scaler* keeps small gradients from vanishing; here it is off), and
# add up gradients over several *micro-batches*. All that changes while it trains, the weights, the optimizers'
# averages and the number of steps, is together in one `state`.

# %%
from scfm_lib.train import new_state, training_step

steps = 12
state = new_state(new_model(shape, settings.seed, start), settings, torch.device("cpu"))
state.model.train()
print(type(state).__name__, "with", " and ".join(type(o).__name__ for o in state.optimizers), "at step", state.step)

# %%
step_losses = []
for step in range(steps):
    loss, norm = training_step(state, [batches[step]], learning_rate(step, total, settings))
    step_losses.append(loss.item())

assert np.allclose(step_losses, plain_losses[:steps], atol=1e-4)
print("ours:   ", [round(x, 2) for x in plain_losses[:5]])
print("library:", [round(x, 2) for x in step_losses[:5]])

# %% [markdown]
# Then the whole of `scfm.train`, from the same seed and cells. `log_every_steps = 1` writes down every step's loss,
# and `max_steps` stops it early. The helper `anew` gives a small experiment an empty folder each time.

# %%
import shutil


def anew(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def logged(run, key="loss"):
    return [row[key] for row in run.history if key in row]


# %%
config = scfm.load_config("minimal", {"training.num_epochs": 8, "training.log_every_steps": 1})
quiet = {"verbose": False, "tensorboard": False, "device": "cpu"}
short = scfm.train(config, store.dir, run_dir=anew(work / "same"), max_steps=steps, **quiet)

assert np.allclose(logged(short), plain_losses[:steps], atol=1e-4)
print(f"{short.step} steps of scfm.train: the same losses as our loop, step by step")

# %% [markdown]
# So there is no magic in `scfm.train`: our loop, plus checkpoints, logs, half precision, and a way to stop.
#
# **Exercise 4.3** (medium, 8 minutes). Write `clip(gradients, max_norm)`: it takes a list of tensors and returns a
# list of new ones, scaled down together so that the norm over *all* of them is at most `max_norm`. Then `answer =
# clip`.

# %%
answer = ...
exercises.check("4.3", answer)

# %% [markdown]
# ## 3. The test before the wait: overfit one batch
#
# A bug in a loop rarely crashes. It trains a little worse, and you never know. So ask first for something that a
# correct loop can certainly do: learn **one small batch by heart**. No schedule, no new cells, the same batch again
# and again.
#
# How low can the loss go? Not to 0: even who knows the shares exactly cannot know which molecule comes next. The
# floor is the entropy of the shares that the batch really has.

# %%
one = HalfCells(store, cells, 8, seed=0)[0]  # 8 cells' worth: 16 halves
counts = torch.zeros(len(one.cells), len(store.symbols)).scatter_add(1, one.target_genes, one.target_counts)
shares = counts / counts.sum(1, keepdim=True)
floor = -(counts * torch.log(shares.clamp(min=1e-12))).sum().item() / counts.sum().item()
print(f"{len(one.cells)} half cells, {int(one.molecules):,} molecules, floor {floor:.2f} nats per molecule")


# %%
def fresh():
    """A new model, and its optimizers at one rate that stays."""
    model = new_model(shape, seed=0, start=start)
    optimizers = new_optimizers(model, settings, torch.device("cpu"))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = settings.learning_rate * group["lr_scale"]
    return model, optimizers


# %%
model, optimizers = fresh()
heart = []
for _ in range(150):
    loss = prediction_loss(model(one.genes, one.values), one.target_genes, one.target_counts) / one.molecules
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad()
    heart.append(loss.item())

# %% tags=["nbval-ignore-output"]
closed = (heart[0] - heart[-1]) / (heart[0] - floor)
assert min(heart) >= floor - 1e-3  # below the floor would be a bug in the loss
print(f"from {heart[0]:.1f} to {heart[-1]:.1f} nats, floor {floor:.1f}: {closed:.0%} of the way")

# %%
figure, axes = plt.subplots()
axes.plot(heart, color=BLUE, label="loss on the one batch")
axes.axhline(floor, color=RED, linestyle="--", label="floor: entropy of its counts")
axes.set(xlabel="step", ylabel="loss (nats per molecule)", title="One batch: does the loss go to the floor?")
axes.set_ylim(bottom=floor - 0.3)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: the loss on one batch over 150 steps on it alone, and as a dashed line the floor, the lowest loss possible. It
# jumps once at the beginning, since these steps are at the full rate without a warm-up, and then falls to the line.
# If the curve stays far above the line, look for a bug before you train.*
#
# For comparison, the same test with a bug that is easily made: `zero_grad()` before `step()`, so that the optimizer
# finds nothing to do.

# %%
model, optimizers = fresh()
broken = []
for _ in range(20):
    loss = prediction_loss(model(one.genes, one.values), one.target_genes, one.target_counts) / one.molecules
    loss.backward()
    model.zero_grad()  # the bug: too early
    for optimizer in optimizers:
        optimizer.step()
    broken.append(loss.item())
print(f"with the bug: from {broken[0]:.2f} to {broken[-1]:.2f} nats; no error, and nothing learned")

# %% [markdown]
# ## 4. The library's run
#
# If notebook 01 left a `config.yaml`, it is yours and we take it; else MINIMAL. A lesson is short, so 8 epochs at
# most: leave that line out to train as long as your config says. (LARGE on a laptop takes long even so: see notebook
# 01.)

# %%
chosen = work.parent / "config.yaml"
config = scfm.load_config(chosen if chosen.exists() else "minimal")
config.training.num_epochs = min(8, config.training.num_epochs)
config.training.log_every_steps = 10
print("from notebook 01" if chosen.exists() else "MINIMAL", "with", config.training.num_epochs, "epochs")

# %% [markdown]
# `resume="auto"` means: if a run is in this folder, go on with it, else begin one. Run the cell again after a session
# has ended and it takes up where it was; when all steps were taken it only loads the model. (To train anew, delete the
# folder or choose another name. A run keeps the config it began with.)

# %%
folder = work / f"run_{name}"
run = scfm.train(config, scfm.find_data(name), run_dir=folder, resume="auto", verbose=False)
print("finished:", run.finished, "after", run.step, "steps")

# %% [markdown]
# `run.history` has the rows of `metrics.jsonl`. Every `log_every_steps` there is one with the mean training loss, and
# at the end of each epoch one with the loss on held-out cells.

# %%
row = next(row for row in run.history if "loss" in row)
print(", ".join(list(row)[:6]), "and more")
print(f"step {row['step']}: loss {row['loss']:.1f}, learning rate {row['learning_rate']:.4f}")

# %%
trained = [(row["step"], row["loss"]) for row in run.history if "loss" in row]
held_out = [(row["step"], row["validation_loss"]) for row in run.history if "validation_loss" in row]

figure, axes = plt.subplots()
axes.plot(*zip(*trained, strict=True), color=BLUE, label="cells it learns from")
axes.plot(*zip(*held_out, strict=True), "o--", color=ORANGE, label="held-out cells")
axes.set(xlabel="optimizer step", ylabel="loss (nats per molecule)", title="Do both losses fall together?")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: training loss (line) and loss on held-out cells (dots, one per epoch) over the steps of the run. As long as
# both fall, the model learns what holds for new cells too; where the dots turn upwards, it begins to learn by heart.*

# %%
step, lowest = min(held_out, key=lambda point: point[1])
print(f"held-out loss: {held_out[0][1]:.1f} after the first epoch, lowest {lowest:.1f}, last {held_out[-1][1]:.1f}")

# %% [markdown]
# A falling loss says that the model predicts counts better, not that its vectors tell cell types apart better than a
# simple method does. That is for notebook 06, beside PCA.
#
# **Exercise 4.4** (hard, 12 minutes). A batch too large for memory can be cut into parts whose gradients add up. Write
# `step_in_parts(model, optimizer, parts, max_norm)`: one optimizer step for a list of batches, equal to the step of
# the whole, that returns the loss in nats per molecule as a number. Each part has `.genes`, `.values`,
# `.target_genes`, `.target_counts` and `.molecules`. Then `answer = step_in_parts`.

# %%
answer = ...
exercises.check("4.4", answer)

# %% [markdown]
# ## 5. Stop, and go on
#
# Ctrl-C (in a notebook the stop button), a SIGTERM from a cluster, `max_steps`: each lets the step in work end and
# saves a checkpoint. Here one run goes 20 steps without a break, another stops after 8 and goes on.

# %%
config = scfm.load_config("minimal", {"training.num_epochs": 2, "training.log_every_steps": 1})
whole = scfm.train(config, store.dir, run_dir=anew(work / "whole"), max_steps=20, **quiet)
stopped = scfm.train(config, store.dir, run_dir=anew(work / "stopped"), max_steps=8, **quiet)
print("stopped at step", stopped.step, "finished:", stopped.finished, "file:", stopped.checkpoint.name)

# %%
went_on = scfm.train(resume=stopped.dir, max_steps=20, **quiet)
assert logged(went_on) == logged(whole)  # equal to the bit on a CPU, not only nearly
print(f"{len(logged(went_on))} losses, all equal to those of the run without a break")

# %%
figure, axes = plt.subplots()
axes.plot(range(1, 21), logged(whole), color=BLUE, linewidth=6, alpha=0.35, label="without a break")
axes.plot(range(1, 9), logged(stopped), "o-", color=GREEN, label="until the stop")
axes.plot(range(9, 21), logged(went_on)[8:], "s-", color=RED, markersize=4, label="after resume")
axes.set(xlabel="optimizer step", ylabel="loss (nats per molecule)", title="A resumed run takes the same way")
axes.set_xticks(range(0, 21, 4))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: losses of 20 steps. The wide pale line is the run without a break; the dots up to step 8 and the squares
# from step 9 on, before and after the stop, lie on it.*
#
# ### What is in a run's folder

# %%
for path in sorted(run.dir.glob("[!.]*")):
    inside = f"  ({len(list(path.iterdir()))} files)" if path.is_dir() and path.name != "logs" else ""
    print(path.name + ("/" if path.is_dir() else "") + inside)

# %% [markdown]
# * `config.yaml`: what was asked for, with the genes it really has
# * `checkpoints/`: the last few, three unless the config says otherwise
# * `metrics.jsonl`: one line of JSON per log entry; `logs/`: the same for TensorBoard (notebook 05)
# * `store/`: the prepared cells
#
# A checkpoint holds more than the weights. What else must it know for the next step to be the same?

# %%
from scfm_lib.checkpoint import load_checkpoint

state = load_checkpoint(run.checkpoint)
for key, why in {
    "model": "the weights",
    "optimizers": "Muon's and AdamW's averages of earlier gradients",
    "step": "place in the schedule and in the batches",
    "torch_rng": "random numbers, for dropout",
    "config": "the dimensions, to rebuild the model",
    "symbols": "the vocabulary: which number is which gene",
}.items():
    print(f"{key:10} {why}" if key in state else f"{key:10} missing")

# %% [markdown]
# ## 6. Learning rate and batch size: try them
#
# A small model (one block, 64 wide) and 30 steps, so that it answers in seconds. `try_out` uses our own loop.


# %%
def try_out(rate, batch_size, steps=30):
    """The losses of a small model's first steps, with this learning rate and batch size."""
    small = shape.model_copy(update={"hidden_dim": 64, "num_layers": 1, "ff_dim": 128})
    chosen = settings.model_copy(update={"learning_rate": rate, "batch_size": batch_size})
    return train_plainly(store, cells, small, chosen, steps, steps)[1]


def draw(curves, title):
    figure, axes = plt.subplots()
    for (label, losses), colour, style in zip(curves.items(), [BLUE, ORANGE, GREEN], ["-", "--", "-."], strict=False):
        axes.plot(range(1, len(losses) + 1), losses, style, color=colour, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per molecule)", title=title)
    axes.legend(frameon=False)
    plt.show()


# %% [markdown]
# With the mouse (the first curve comes at once; each change trains anew):

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

rate = widgets.Dropdown(options=[0.0001, 0.0005, 0.002, 0.01, 0.05], value=0.002, description="rate")
size = widgets.ToggleButtons(options=[8, 32, 128], value=32, description="cells")


def show(rate, size):
    draw({f"rate {rate}, {size} cells": try_out(rate, size)}, "Your choice: 30 steps of a small model")


display(widgets.VBox([rate, size]), widgets.interactive_output(show, {"rate": rate, "size": size}))

# %% [markdown]
# *Figure: the loss over 30 steps for the learning rate and the batch size that you chose.*
#
# The same without a mouse, in two lines:

# %%
curves = {f"learning rate {rate}": try_out(rate, 32) for rate in (0.0001, 0.002, 0.05)}
draw(curves, "Three learning rates, 30 steps each")

# %% [markdown]
# *Figure: three loss curves over 30 steps from the same start, with learning rates 0.0001, 0.002 and 0.05. The
# printed figures below say where each ends.*

# %%
for label, losses in curves.items():
    print(f"{label:21} first {losses[0]:.1f}, last five on average {np.mean(losses[-5:]):.1f}")

# %% [markdown]
# What to look for: a rate that is *too low* leaves the curve high, since each step is timid. One that is *too high*
# makes it jump or climb, since each step overshoots. Between the two is room: pick the largest rate whose curve is
# calm.
#
# The batch size trades in another way. Large batches give calmer gradients and use a graphics card better, but fewer
# steps per epoch and more memory. Small ones are noisy and take more steps. When you change it, try the rate anew.

# %% [markdown]
# ## Key takeaways
#
# * A training step is five lines: forward, loss, backward, clip, step; then empty the gradients.
# * AdamW scales the step of each weight by its own history; Muon evens out the directions of a matrix.
# * The loss has a scale: $e^{\text{loss}}$ is the number of genes the model hesitates among, and there is a floor
# above 0.
# * Before a long run, overfit one batch. If that fails, there is a bug, and more data will not help.
# * Watch two losses: on the cells it learns from, and on held-out cells. The second one counts.
# * A checkpoint is weights, optimizers, step and random state; with all of them a resumed run is the same run.
#
# ## Quiz

# %%
exercises.quiz("4.a")

# %%
# exercises.quiz("4.a", "b")

# %%
exercises.quiz("4.b")

# %%
# exercises.quiz("4.b", "b")

# %%
exercises.quiz("4.c")

# %%
# exercises.quiz("4.c", "b")

# %%
exercises.quiz("4.d")

# %%
# exercises.quiz("4.d", "b")

# %% [markdown]
# ## What next
#
# In [05 · Watching a run](05_monitoring.ipynb) you watch a run with TensorBoard and find out why one is slow. In
# [06 · How good is it, honestly?](06_evaluation.ipynb) the trained
# model has to show what its vectors are worth, beside PCA and scVI.
