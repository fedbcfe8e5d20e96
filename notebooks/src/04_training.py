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
# **You will be able to** write a training loop and explain each of its lines, say what its optimizer does, test that it
# is correct before you wait for it, read a loss curve, choose a learning rate and a batch size from curves, and stop a
# run and resume it.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 2, and about 65 for you |
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
# Every gene is read and predicted, and the most variable ones are tokens: 1,000 of them in MINIMAL. This small table
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
# seed. In training a random share of the tokens is enough (`token_share`, half of them in MINIMAL; notebook 02).

# %%
from scfm_lib.dataset import HalfCells

settings = minimal.training
batches = HalfCells(store, cells, settings.batch_size, settings.seed, settings.token_share)
batch = batches[0]
print("read:   ", tuple(batch.genes.shape), "genes and values (half cells, longest half)")
print("predict:", tuple(batch.target_genes.shape), "genes and counts of the other halves")
print(len(batches), "steps make an epoch: every cell used once, as two halves")

# %% [markdown]
# Take one apart. The first half of the rows are the halves A of some cells, the second half their halves B. A value can
# be turned back into molecules, since it is the logarithm of 1 plus counts per 10,000, with *half* of the cell's
# library size. What row 0 reads and what it has to predict must be the whole cell:


# %%
def laid_out(genes, molecules):
    """Molecules by gene, (G,), a place for each gene."""
    return torch.zeros(len(store.symbols)).scatter_add(0, genes, molecules)


def read_by(row):
    """The molecules that a row's values stand for."""
    half_of_it = store.library_size[batch.cells[row].item()] / 2
    return laid_out(batch.genes[row], (torch.expm1(batch.values[row]) * half_of_it / 1e4).round())


# %%
a, b = 0, len(batch.cells) // 2  # the two halves of one cell
to_predict = laid_out(batch.target_genes[a], batch.target_counts[a])
cell = torch.tensor(store.matrix(batch.cells[[a]].numpy()).toarray()[0])  # (G,)
assert torch.equal(read_by(a) + to_predict, cell)
assert torch.equal(to_predict, read_by(b))  # what one half predicts is what the other reads
print(f"{read_by(a).sum():.0f} molecules to read and {to_predict.sum():.0f} to predict: the cell's {cell.sum():.0f}")

# %% [markdown]
# Which cells come together? The epoch's order is drawn from the seed. Then 2,048 cells at a time (here: all) are sorted
# by how many tokens they have and cut into steps of equal size, so that a batch needs little padding; the order of the
# steps is drawn again.

# %%
order = np.random.default_rng([settings.seed, 0]).permutation(cells.astype(np.uint32))  # epoch 0
by_tokens = order[np.argsort(store.tokens[order], kind="stable")]
first = np.random.default_rng([settings.seed, 0, 0]).permutation(len(batches))[0]
ends = np.arange(len(batches) + 1) * len(cells) // len(batches)
assert np.array_equal(by_tokens[ends[first] : ends[first + 1]], batch.cells[:b])
print("the cells of step 0 found by hand:", by_tokens[ends[first] : ends[first + 1]][:5], "...")

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
# their `spread` along each, and where the mean cell lies along them, `centre`; and `log_share`, the log of each gene's
# share of all molecules. (`batch_offset` has a row for each batch of the experiment, if there are any.) A new model
# takes [CELL]'s bag and the genes' vectors from the first three (notebook 03), and the decoder's bias from the last, so
# it begins with what is simple. Training has to learn the rest.

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
# How to read such a number: the model is as unsure as if it had to choose among $e^{\text{loss}}$ equally likely genes.
# A model that knows nothing has to choose among all of them.

# %%
print(f"knows nothing: {np.log(len(store.symbols)):.2f} nats, {len(store.symbols)} genes")
print(f"our start:     {library.item():.2f} nats, about {np.exp(library.item()):.0f} genes")

# %% [markdown]
# ### One step down
#
# `backward()` finds out, for every weight, how the loss would change if the weight grew. That is the *gradient*. One
# odd batch can give a huge one, and the optimizer's averages (below) would remember it for a hundred steps. So we
# **clip** it: if its norm is above 1, all gradients are scaled down by the same factor.

# %%
library.backward()
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)  # the norm before clipping
print(f"gradient norm {norm.item():.1f}, clipped to at most {settings.max_grad_norm}")

# %% [markdown]
# An **optimizer** turns gradients into steps. The plainest is *gradient descent*: each weight moves against its
# gradient, times a learning rate that is the same for all. But how large are gradients? Nine of the model's tensors,
# and the *median* of each: half of its gradients are smaller. (A gene that no cell of the batch has gets none.)

# %%
kinds = {
    "gene_embedding": "gene vectors of tokens",
    "output_embedding": "gene vectors of the decoder",
    "gene_to_token.weight": "from gene vector to token",
    "output_bias": "bias of the decoder",
    "blocks.0.qkv.weight": "block: queries, keys, values",
    "blocks.0.ff_in.weight": "block: widening a token",
    "blocks.0.attention_out.weight": "block: out of attention",
    "bag_embedding": "gene vectors of the bag",
    "cell_token": "[CELL] token",
}

# %%
weights = dict(model.named_parameters())
gradients = {part: weights[part].grad.abs() for part in kinds}  # their sizes
medians = {part: sizes[sizes > 0].median().item() for part, sizes in gradients.items()}
for part, what in kinds.items():
    print(f"{what:29} {tuple(gradients[part].shape)!s:10} median {medians[part]:.0e}")

# %% [markdown]
# No single rate suits them all. One at which the [CELL] token moves by 0.002 hardly moves the vectors of genes:

# %%
one_rate = 0.002 / medians["cell_token"]
for part in ("cell_token", "gene_embedding"):
    print(f"gradient descent moves {kinds[part]:23} by {one_rate * medians[part]:.6f}")

# %% [markdown]
# And a rate hundreds of times higher, right for these, would throw [CELL] far away.
#
# ### AdamW: a step of its own for every weight
#
# **AdamW** looks at each weight alone. It keeps a running average of the weight's gradient and one of its square, and
# divides the first by the root of the second: the gradient, compared with its usual size. So a weight moves by about
# the learning rate, whether its gradient is large or small. The first step of two weights:

# %%
pair = torch.tensor([1.0, 1.0], requires_grad=True)
adamw = torch.optim.AdamW([pair], lr=0.01, weight_decay=0.0)
pair.grad = torch.tensor([100.0, 0.001])
adamw.step()
print("gradients 100 and 0.001; moved by", [round(moved, 4) for moved in (1 - pair).tolist()])

# %% [markdown]
# What counts instead is whether a weight's gradients *agree*. If they come with both signs, their average is small
# beside their size, and the weight hardly moves:

# %%
for label, course in (("1, 1, 1, 1, ...", [1.0] * 100), ("1, -1, 1, -1, ...", [1.0, -1.0] * 50)):
    single = torch.zeros(1, requires_grad=True)
    adamw = torch.optim.AdamW([single], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for value in course:
        before = single.item()
        single.grad = torch.tensor([value])
        adamw.step()
    print(f"gradients {label:17} the 100th step is {abs(single.item() - before):.4f} long")

# %% [markdown]
# ### Its step by hand
#
# With gradient $g$, learning rate $r$ and weight decay $d$, step $t$ of a weight $w$ is
#
# $$m \leftarrow 0.9\,m + 0.1\,g \qquad v \leftarrow 0.99\,v + 0.01\,g^2 \qquad
# w \leftarrow w\,(1 - r d) - r\,\frac{m / (1 - 0.9^t)}{\sqrt{v / (1 - 0.99^t)} + 10^{-8}}$$
#
# Both averages begin at 0, so at first they are too small; dividing by $1 - 0.9^t$ and $1 - 0.99^t$ makes up for it
# (*bias correction*). The $10^{-8}$ is there so that nothing is divided by 0. For the matrix that widens tokens in the
# first block, at $t = 1$:

# %%
rate, decay = settings.learning_rate, settings.weight_decay
matrix = weights["blocks.0.ff_in.weight"]  # (512, 128)
gradient = matrix.grad
m = 0.9 * 0 + 0.1 * gradient
v = 0.99 * 0 + 0.01 * gradient**2
step = rate * (m / (1 - 0.9**1)) / ((v / (1 - 0.99**1)).sqrt() + 1e-8)
by_hand = (matrix * (1 - rate * decay) - step).detach()
for what, numbers in {"gradient": gradient, "m": m, "v": v, "step": step}.items():
    print(f"{what:8} {tuple(numbers.shape)}, three of its numbers", [f"{x:.0e}" for x in numbers[0, 24:27].tolist()])

# %% [markdown]
# The first step is the learning rate itself, plus or minus: $m$ over the root of $v$ is the gradient over its own size.
#
# The W is for *weight decay*, the factor $1 - rd$: each step also shrinks the weight by a little, here by 0.00002 of
# it, so that only what the data keep asking for stays large. It is *decoupled*: it does not pass through the averages,
# whose division would make it small where gradients are large. Not every weight has it. The library makes three groups:

# %%
from scfm_lib.train import new_optimizer

optimizer = new_optimizer(model, settings, torch.device("cpu"))
names = {weight: name for name, weight in model.named_parameters()}
for group in optimizer.param_groups:
    held = [names[weight] for weight in group["params"]]
    some = ", ".join(held[:3]) + (" ..." if len(held) > 3 else "")
    print(
        f"decay {group['weight_decay']:.2f}, lr_scale {group['lr_scale']}: {len(held):2} of {len(names)} tensors ({some})"
    )

# %% [markdown]
# The first group holds matrices and tables. The second holds biases, norms and the [CELL] token: few numbers, and
# pulling them towards 0 would only shift what comes out. The last is the bag's vectors. `lr_scale` is a group's
# learning rate over that of the config, and theirs is a tenth: they start as a good PCA and should stay close to it.
# How much a step would change:

# %%
typical = weights["bag_embedding"].detach().pow(2).mean().sqrt().item()
print(f"a typical number of the bag's vectors is {typical:.4f}; a step at the full rate {rate}, at a tenth {rate / 10}")

# %% [markdown]
# Now the step itself, and its check:

# %%
before = {part: weights[part].detach().clone() for part in kinds}
for group in optimizer.param_groups:
    group["lr"] = rate * group["lr_scale"]
optimizer.step()
torch.testing.assert_close(matrix.detach(), by_hand, rtol=0, atol=1e-6)
model.zero_grad(set_to_none=True)  # backward() adds to what is there: empty it after each step
print("AdamW's step by hand and by the library: the same")

# %%
moved = {part: (weights[part].detach() - before[part]).abs() for part in kinds}
figure, (left, right) = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(9, 3.8), layout="constrained")
for axes, sizes, colour in ((left, gradients, ORANGE), (right, moved, BLUE)):
    for row, part in enumerate(kinds):
        there = sizes[part][gradients[part] > 0]
        low, median, high = there.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.4)
        axes.plot(median, row, "o", color=colour)
    axes.set(xscale="log", yticks=range(len(kinds)), yticklabels=kinds.values())
    axes.grid(axis="x", alpha=0.3)
left.set(title="Gradients differ by powers of ten ...", xlabel="size of a gradient")
right.set(title="... AdamW's first steps do not", xlabel="size of the first step")
plt.show()

# %% [markdown]
# *Figure: nine tensors of the model, a row each; dots are medians, bars go from the 10th to the 90th percentile, the
# axes are logarithmic and the same. Left, the gradients: from gene vectors to the [CELL] token their medians grow
# several hundredfold, and most tensors spread over a power of ten or more. Right, AdamW's first steps: all at the
# learning rate, 0.002, but the bag's, which are meant to be at a tenth of it.*
#
# **Exercise 4.1** (medium, 6 minutes). The second step is no longer the rate alone. Write `adam_step(gradients, rate)`:
# it takes all gradients that a weight has had, a list of numbers with the oldest first, and returns what the *last*
# step adds to the weight, without weight decay. The other numbers are those above. So `adam_step([100.0], 0.01)` is
# -0.01. Then `answer = adam_step`.

# %%
answer = ...
exercises.check("4.1", answer)

# %% [markdown]
# At the first step the averages have nothing to remember, and any two numbers in the place of 0.9 and 0.99 would give
# the same. The second step is the test of them. (torch's own default for the second is 0.999: a memory of a thousand
# steps, longer than many of our runs.)

# %%
now = batches[1]
loss = (
    prediction_loss(model(now.genes, now.values, now.most_tokens), now.target_genes, now.target_counts) / now.molecules
)
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
m, v = 0.9 * m + 0.1 * matrix.grad, 0.99 * v + 0.01 * matrix.grad**2
second = rate * (m / (1 - 0.9**2)) / ((v / (1 - 0.99**2)).sqrt() + 1e-8)
by_hand = (matrix * (1 - rate * decay) - second).detach()
optimizer.step()
torch.testing.assert_close(matrix.detach(), by_hand, rtol=0, atol=1e-6)
model.zero_grad(set_to_none=True)
print(f"the second step, too; its median length is {second.abs().median() / rate:.2f} of the rate")

# %% [markdown]
# ### Muon: a step for a whole matrix
#
# AdamW evens out numbers, one by one. **Muon** ([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/)), with
# which several records for training speed were set, evens out a matrix: it splits the averaged gradient into
# directions, each with a strength (its *singular value*), and makes all strengths 1. So a step goes equally far along
# each of them, and not mostly along the strongest. Here exactly, for the matrix above; Muon itself comes close to it by
# a few matrix products.

# %%
left_directions, _, right_directions = torch.linalg.svd(gradient, full_matrices=False)
by_muon = left_directions @ right_directions  # (512, 128)
torch.testing.assert_close(by_muon.T @ by_muon, torch.eye(128), rtol=0, atol=1e-4)
for what, numbers in (("the gradient", gradient), ("AdamW's step", step), ("Muon's step", by_muon)):
    strengths = torch.linalg.svdvals(numbers)
    print(f"{what:12} strongest direction: {strengths.max() / strengths.median():3.0f} times the median one")

# %% [markdown]
# We shipped it for a while, for the matrices of the blocks. Then we measured it beside AdamW, with three seeds on two
# data sets: section 4 shows the rows. The library has AdamW alone.
#
# ### How the learning rate changes
#
# How far a step goes is the *learning rate*. At the beginning AdamW's averages rest on few gradients, so the rate rises
# slowly (*warm-up*); at the end small steps settle into the valley, so it falls along half a cosine. The plain version:


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
# take? (Where cells do not divide evenly, an epoch has one step more, and all its steps are a little smaller.)

# %%
answer = ...
exercises.check("4.2", answer)

# %% [markdown]
# ## 2. The loop, written out
#
# Here is all of it. Nothing is hidden: `HalfCells`, the loss, the optimizer and `learning_rate` you have just seen.
# `watch` is a function that we may pass in to look at the losses while it works.


# %%
def train_plainly(store, cells, shape, settings, steps, total, watch=None):
    """Trains a new model for some steps of a run of `total` steps; returns it and the loss of each step."""
    batches = HalfCells(store, cells, settings.batch_size, settings.seed, settings.token_share)
    start = pca_start(store, cells, shape.gene_embedding_dim, settings.seed)
    model = new_model(shape, settings.seed, start)

    optimizer = new_optimizer(model, settings, torch.device("cpu"))

    losses = []
    model.train()
    for step in range(steps):
        rate = learning_rate(step, total, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

        batch = batches[step]
        logits = model(batch.genes, batch.values, batch.most_tokens)  # forward
        loss = prediction_loss(logits, batch.target_genes, batch.target_counts) / batch.molecules
        loss.backward()  # backward
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)  # clip
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
# *Figure: the loss of each step over two epochs, drawn while the loop runs. It falls, and single steps go up and down.*

# %%
first, last = np.mean(plain_losses[:5]), np.mean(plain_losses[-5:])
print(f"mean of the first 5 steps {first:.1f}, of the last 5 {last:.1f} nats per molecule")

# %% [markdown]
# Why up and down? A batch holds cells that show about as many genes, so some batches are of small cells and some of
# large ones, and where a few genes supply most of the molecules, the next molecule is easier to guess. How much of the
# ups and downs, around a smooth curve, follows from the genes and the molecules of a batch's half cells?

# %% tags=["nbval-ignore-output"]
taken = np.arange(5, len(plain_losses))  # after the first, steep steps
smooth = np.polyval(np.polyfit(taken, np.take(plain_losses, taken), 2), taken)
around = np.take(plain_losses, taken) - smooth
halves = [batches[step] for step in taken]
genes_seen = [float((half.target_counts > 0).sum(1).float().mean()) for half in halves]
molecules = [float(half.target_counts.sum(1).mean()) for half in halves]
known = np.column_stack([np.ones(len(taken)), genes_seen, molecules])
explained = known @ np.linalg.lstsq(known, around, rcond=None)[0]  # a line in both
print(f"{explained.var() / around.var():.0%} of the variance follows from these two numbers")

# %% [markdown]
# So look at the mean over many steps, never at a single one.

# %% [markdown]
# ### Does the library do the same?
#
# First its single step. `training_step` does what our loop does, and four things more. It can move a batch to a
# graphics card, compute in half precision (then a *scaler* keeps small gradients from vanishing; here it is off), and
# add up gradients over several *micro-batches*. And on a CPU each thread gets a part of the step's cells and works out
# the gradient of these alone; then the parts are added up (notebook 05 shows why). All that changes while it trains,
# the weights, the optimizer's averages and the number of steps, is together in one `state`.

# %%
from scfm_lib.train import new_state, training_step

steps = 12
state = new_state(new_model(shape, settings.seed, start), settings, torch.device("cpu"))
state.model.train()
print(type(state).__name__, "with", type(state.optimizer).__name__, "at step", state.step)

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
# ## 3. Before you wait for hours: can it overfit one batch?
#
# A bug in a loop rarely crashes. It trains a little worse, and you never know. So ask first for something that a
# correct loop can certainly do: learn **one small batch by heart**. No schedule, no new cells, the same batch again
# and again.
#
# How low can the loss go? Not to 0: even a model that knows the shares exactly cannot know which molecule comes next.
# The floor is the *entropy* of the shares that the batch really has: the loss of a model that has learned them by
# heart.

# %%
one = HalfCells(store, cells, 8, seed=0)[0]  # 8 cells' worth: 16 halves
counts = torch.zeros(len(one.cells), len(store.symbols)).scatter_add(1, one.target_genes, one.target_counts)
shares = counts / counts.sum(1, keepdim=True)
floor = -(counts * torch.log(shares.clamp(min=1e-12))).sum().item() / counts.sum().item()
print(f"{len(one.cells)} half cells, {int(one.molecules):,} molecules, floor {floor:.2f} nats per molecule")


# %%
def fresh():
    """A new model, and its optimizer at one rate that stays."""
    model = new_model(shape, seed=0, start=start)
    return model, new_optimizer(model, settings, torch.device("cpu"))


def set_rate(optimizer, step):
    """20 steps of warm-up, then the full rate."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1, (step + 1) / 20) * group["lr_scale"]


# %%
model, optimizer = fresh()
heart = []
for step in range(150):
    set_rate(optimizer, step)
    loss = prediction_loss(model(one.genes, one.values), one.target_genes, one.target_counts) / one.molecules
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    optimizer.step()
    model.zero_grad()
    heart.append(loss.item())

# %% tags=["nbval-ignore-output"]
closed = (heart[0] - heart[-1]) / (heart[0] - floor)
assert min(heart) >= floor - 1e-3  # below the floor would be a bug in the loss
assert closed > 0.95  # the criterion: nearly all of the way
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
# *Figure: the loss on one batch over 150 steps on it alone, and as a dashed line the floor, the lowest loss possible.
# The curve falls to the line.*
#
# The criterion: at least 95 % of the way from the first loss to the floor. If your loop stays far above, look for a bug
# before you train. (Leave out the warm-up and the clipping and try again: the first steps are wild, and fewer are left
# to learn.)
#
# For comparison, the same test with a bug that is easily made: `zero_grad()` before `step()`, so that the optimizer
# finds nothing to do.

# %%
model, optimizer = fresh()
broken = []
for step in range(20):
    set_rate(optimizer, step)
    loss = prediction_loss(model(one.genes, one.values), one.target_genes, one.target_counts) / one.molecules
    loss.backward()
    model.zero_grad()  # the bug: too early
    optimizer.step()
    broken.append(loss.item())
print(f"with the bug: from {broken[0]:.2f} to {broken[-1]:.2f} nats; no error, and nothing learned")

# %% [markdown]
# ## 4. The library's run
#
# If notebook 01 left a `config.yaml`, it is yours and we take it; else MINIMAL. MINIMAL asks for 5 epochs, and no
# lesson takes more: leave that line out to train as long as your config says. (LARGE on a laptop takes long even so:
# see notebook 01.)

# %%
chosen = work.parent / "config.yaml"
config = scfm.load_config(chosen if chosen.exists() else "minimal")
epochs = 5
config.training.num_epochs, config.training.log_every_steps = epochs, 10
told = chosen.exists()  # your own choice may take long, so it speaks
print("from notebook 01" if told else "MINIMAL", f"{config.model.hidden_dim} wide, with {epochs} epochs")

# %% [markdown]
# `resume="auto"` means: if a run is in this folder, go on with it, else begin one. Run the cell again after a session
# has ended and it continues where it stopped; a finished run is only loaded. A run keeps the config it began with, so
# another width or other epochs get a folder of their own here. (To train again from the start, delete the folder.)

# %%
folder = work / f"run_{name}_{config.model.hidden_dim}_wide_{epochs}_epochs"
run = scfm.train(config, scfm.find_data(name), run_dir=folder, resume="auto", verbose=told)
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
axes.set(xlabel="optimizer step", ylabel="loss (nats per molecule)", title="Both losses fall together")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: training loss (line) and loss on held-out cells (dots, one per epoch) over the steps of the run. As long as
# both fall, the model learns what holds for new cells too; where the dots turn upwards, it begins to learn by heart.*
#
# Do not compare their heights: the line is of half of the tokens and of weights that still change, the dots are of all
# tokens at the end of an epoch. How is such a dot made? Held-out cells are halved too, by the same coins each time; the
# model reads all tokens of one half and predicts the other. Nothing is learned. The last dot by hand:

# %%
own = scfm.open_store(run.dir / "store")  # the run's cells, with the genes it asked for
unseen = np.flatnonzero(own.held_out)
judges = HalfCells(own, unseen, len(unseen), config.training.seed)[0]  # all in one batch
with torch.inference_mode():
    nats = prediction_loss(run.model(judges.genes, judges.values), judges.target_genes, judges.target_counts)
assert not run.finished or np.isclose((nats / judges.molecules).item(), held_out[-1][1], atol=1e-4)
print(f"{len(unseen)} held-out cells, {(nats / judges.molecules).item():.3f} nats per molecule")

# %%
step, lowest = min(held_out, key=lambda point: point[1])
print(f"held-out loss: {held_out[0][1]:.2f} after the first epoch, lowest {lowest:.2f}, last {held_out[-1][1]:.2f}")

# %% [markdown]
# **What should yours be?** A loss can be compared only with one over the same genes: more genes to hesitate among, a
# higher loss. MINIMAL's, after its 5 epochs, on held-out cells:
#
# | cells to learn from | genes | knows nothing | MINIMAL |
# |---|---|---|---|
# | these, 552 | 765 | 6.64 | 5.44 |
# | PBMC3k, 2,126 | 13,227 | 9.49 | 6.77 |
# | sorted cells of Zheng et al., 3,065 | 13,672 | 9.52 | 6.70 |
#
# A loss that is still near "knows nothing" after an epoch means that something is wrong (section 3). One a few
# hundredths above the table's can be due to another seed or a shorter run.
#
# **When to stop?** When the held-out loss has stopped falling: with thousands of cells after some 5 epochs, with these
# few hundred a little later (set `epochs` to 20 above and look). The presets go to the end of their schedule
# anyway, since the last, small steps help the vectors; `training.patience=3` stops a run whose held-out loss has not
# fallen for 3 epochs.
#
# A falling loss says that the model predicts counts better, not that its vectors tell cell types apart better than a
# simple method does. That is for notebook 06, beside PCA.
#
# ### Half a cell to learn from, the whole cell to use
#
# In training the model reads half cells, since it needs the other half as a task. Afterwards there is nothing to
# predict, so `embed` reads whole cells. Does the model know what to do with them? In counts *per 10,000* a whole cell
# is like its half, only less noisy. But values are logarithms of these, so they shift: a gene that is seen once has a
# smaller value in the whole cell, and more genes are seen. So this has to be tried. A whole cell's vector should be
# close to those of its halves. Beside our model: random weights, the model at its PCA start, and a PCA itself.

# %%
import anndata as ad
import pandas as pd
import scipy.sparse as sp
from torch.nn.functional import normalize

adata = scfm.read_adata(scfm.find_data(name))
in_full = adata.layers["counts"].toarray().astype(int)  # (cells, genes)
halves_a = np.random.default_rng(0).binomial(in_full, 0.5)
three = np.vstack([halves_a, in_full - halves_a, in_full])  # halves A, halves B, whole cells
three = ad.AnnData(sp.csr_matrix(three.astype(np.float32)), var=adata.var)
three.layers["counts"] = three.X

# %%
from scfm_lib.baselines import BASELINES

compared = {"random weights": new_model(shape, 0), "PCA start": new_model(shape, 0, start), "trained": run.model}
for other in compared.values():
    other.symbols, other.ensembl = run.model.symbols, run.model.ensembl  # which gene is which
    other.eval()
vectors = {what: scfm.embed(other, three) for what, other in compared.items()}
vectors["PCA"] = BASELINES["pca"](three, np.r_[np.zeros(2 * len(adata), bool), ~store.held_out], minimal)

# %% [markdown]
# Two questions, asked of held-out cells, since a PCA knows the cells that it was fitted on one by one. Do two vectors
# of a cell point the same way (cosine, once the mean of all is taken away)? And does a half *find its other half*: is
# it the most similar of all held-out halves B? (Chance alone finds one of them.)

# %% tags=["nbval-ignore-output"]
rows = {}
for what, of_three in vectors.items():
    parts = (torch.tensor(part[store.held_out]) for part in np.split(of_three, 3))
    of_a, of_b, of_all = (normalize(part - part.mean(0)) for part in parts)
    finds = (of_a @ of_b.T).argmax(1) == torch.arange(len(of_a))
    cosines = [(of_a * other).sum(1).median().item() for other in (of_b, of_all)]
    rows[what] = {"A and B": cosines[0], "A and whole": cosines[1], "finds its other half": finds.float().mean().item()}
print("median cosine of the cells, and share of the cells\n" + pd.DataFrame(rows).T.round(2).to_string())

# %% [markdown]
# In every row but that of random weights, whole cells and their halves point the same way. So the model knows what to
# do with whole cells, and notebook 06 judges their vectors. A cell that is read twice, by other molecules, gets nearly
# the same vector from the trained model, more so than from a PCA. That does not make a cell easier to find: all cells
# of a type lie close together, too. Notebook 08 asks the same of your own cells.
#
# ### What did training add, and what did attention?
#
# Four models, judged by the same held-out cells: with random weights, at the PCA start, trained without any token (a
# bag and a small network: no attention, and no table of tokens to attend to), and trained as it is. The last two take
# the same steps.

# %%
import types

from scfm_lib.train import validation_loss


def without_tokens(model):
    """The blocks get [CELL] alone, so nothing attends to any gene."""

    def read(self, genes, values, most_tokens=None):
        return self.cell_start(genes, values)[:, None], torch.ones(len(genes), 1, 1, 1, dtype=torch.bool)

    model.read = types.MethodType(read, model)
    return model


# %%
def held_out_loss(model, epochs):
    """After so many epochs of the library's own steps."""
    state = new_state(model, settings, torch.device("cpu"))
    steps = epochs * len(batches)
    for step in range(steps):
        training_step(state, [batches[step]], learning_rate(step, steps, settings))
    return validation_loss(state, store)


# %% tags=["nbval-ignore-output"]
stages = {
    "random weights": held_out_loss(new_model(shape, 0, genes=len(store.symbols)), 0),
    "PCA start": held_out_loss(new_model(shape, 0, start), 0),
    "trained, bag alone": held_out_loss(without_tokens(new_model(shape, 0, start)), 5),
    "trained": held_out_loss(new_model(shape, 0, start), 5),
}
for stage, loss in stages.items():
    print(f"{stage:19} {loss:.3f} nats per molecule on held-out cells")

# %% [markdown]
# Training adds much to the start. Attention adds nothing here: with a few hundred cells the bag alone is as good. And
# with thousands? Recorded by `benchmarks/ablation.py`, three seeds each, on the sorted cells of Zheng et al., on
# PBMC3k and, for two of the rows, on simulated cells (notebook 06 explains NMI and the two F1; of the loss less is
# better, of all others more):

# %%
import json

from scfm_lib.files import PROJECT

lines = (PROJECT / "benchmarks" / "results" / "2026-11-30-ablation.jsonl").read_text(encoding="utf-8").splitlines()
ablation = pd.DataFrame([json.loads(line) for line in lines])
print(len(ablation), "rows: each change with three seeds on two or three data sets")

# %%
shown = {
    "no PCA start": "random start",
    "all genes predicted": "no bag",
    "bag alone": "bag alone",
    "Muon": "Muon in the blocks",
    "shipped": "as it is",
}
rows = ablation[ablation["variant"].isin(shown)].replace({"variant": shown, "data": {"zheng_pbmc_facs": "zheng"}})
keys = ["knn_f1", "logistic_f1", "nmi", "held_out_loss"]
by_variant = rows.groupby(["data", "variant"], sort=False)[keys]
print(by_variant.mean().reindex(list(shown.values()), level="variant").round(3).to_string())
print("\nstandard deviation over the seeds, at most:", by_variant.std().max().round(3).to_dict())

# %% [markdown]
# So most comes from the start, the bag and training. What tokens and attention add on top depends on the cells. On
# Zheng's they add nothing by neighbours and half a hundredth by logistic regression; on PBMC3k just under a hundredth
# by both, by neighbours in each of the three seeds. On the simulated cells, whose types differ by many small shifts,
# they add .05 by neighbours (.03 where cosine says which are near) and .06 in NMI. Tokens and attention take three
# quarters of the time or more. Muon does worse on PBMC3k, and in clusters on both. That is what these few thousand
# cells give, and you can try it on yours.
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
# Ctrl-C (in a notebook the stop button), a SIGTERM from a cluster, `max_steps`: each time the run finishes the step
# that it is at, saves a checkpoint and stops. Here one run goes 20 steps without a break, another stops after 8 and
# goes on.

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
axes.set(xlabel="optimizer step", ylabel="loss (nats per molecule)", title="A resumed run gives the same losses")
axes.set_xticks(range(0, 21, 4))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: losses of 20 steps. The wide pale line is the run without a break; the dots up to step 8 and the squares
# from step 9 on, before and after the stop, lie on it. The hump after the first step comes from the short warm-up: a
# tenth of two epochs is 4 steps.*
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

saved = load_checkpoint(run.checkpoint)
for key, why in {
    "model": "the weights",
    "optimizer": "AdamW's averages of earlier gradients and their squares",
    "scaler": "how far fp16 scales the loss up; empty in fp32",
    "step": "place in the schedule and in the batches",
    "torch_rng": "random numbers, for dropout",
    "config": "the dimensions, to rebuild the model",
    "symbols": "the vocabulary: which number is which gene",
}.items():
    print(f"{key:10} {why}" if key in saved else f"{key:10} missing")

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
    lowest, highest = min(map(min, curves.values())), max(map(max, curves.values()))
    axes.set(xlabel="step", ylabel="loss (nats per molecule)", title=title)
    axes.set_ylim(lowest - 0.1, min(highest + 0.1, lowest + 2.5))  # what is higher leaves the picture
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


# %% [markdown]
# With the mouse (the first curve comes at once; each change trains anew, and the curves before it stay):

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

rates = widgets.Dropdown(options=[0.0001, 0.0005, 0.002, 0.01, 0.2], value=0.002, description="rate")
sizes = widgets.ToggleButtons(options=[8, 32, 128], value=32, description="cells")
tried = {}


def show(rate, size):
    tried[f"rate {rate}, {size} cells"] = try_out(rate, size)
    draw(dict(list(tried.items())[-3:]), "Your last three choices: 30 steps of a small model")


display(widgets.VBox([rates, sizes]), widgets.interactive_output(show, {"rate": rates, "size": sizes}))

# %% [markdown]
# *Figure: the loss over 30 steps for the learning rate and the batch size that you chose, and for your two choices
# before.*
#
# The same without a mouse, in two lines:

# %%
curves = {f"learning rate {rate}": try_out(rate, 32) for rate in (0.0001, 0.002, 0.2)}
draw(curves, "Three learning rates, 30 steps each")

# %% [markdown]
# *Figure: three loss curves over 30 steps from the same start, with learning rates 0.0001, 0.002 and 0.2. The last
# leaves the picture and comes back; the printed figures below say where each ends.*

# %% tags=["nbval-ignore-output"]
for label, losses in curves.items():
    print(f"{label:21} first {losses[0]:.1f}, last five on average {np.mean(losses[-5:]):.1f}")
ends = {label: np.mean(losses[-5:]) for label, losses in curves.items()}
assert min(ends, key=ends.get) == "learning rate 0.002"  # neither too low nor too high


# %% [markdown]
# What to look for: a rate that is *too low* leaves the curve high, since each step is timid. One that is *too high*
# makes it jump or climb, since each step overshoots. Between the two is room: try rates a factor of two or three apart,
# and prefer one well below the first that jumps. (Thirty steps show no more than that. A rate that is five times too
# high may still look well here and end at a higher loss: notebook 05 shows one.)
#
# Batch sizes cannot be compared by equal steps: 30 steps of 8 cells see 240 cells, 30 of 128 see 3,840. To be fair, let
# every size see the same cells once, and repeat it with other seeds, since one seed is one draw:

# %% tags=["nbval-ignore-output"]
small = shape.model_copy(update={"hidden_dim": 64, "num_layers": 1, "ff_dim": 128})
judges = HalfCells(store, np.flatnonzero(store.held_out), len(store), seed=0)[0]  # all held-out cells
for size in (8, 32, 128):
    ends = []
    for seed in (0, 1, 2):
        chosen = settings.model_copy(update={"batch_size": size, "seed": seed})
        steps = -(-len(cells) // size)  # an epoch
        learned, _ = train_plainly(store, cells, small, chosen, steps, steps)
        with torch.inference_mode():
            loss = prediction_loss(learned(judges.genes, judges.values), judges.target_genes, judges.target_counts)
        ends.append((loss / judges.molecules).item())
    print(
        f"{size:4} cells a step, {steps:3} steps: held-out loss {np.mean(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})"
    )

# %% [markdown]
# After one epoch the small batches are ahead, simply because they have taken more steps. They are also slower: each
# step has a fixed price, and large batches use a processor, and a graphics card even more, better. The presets' 32 is a
# compromise. When you change the size, try the rate anew.
#
# ### What we did not open
#
# Three things of the library are used in these lessons, but not built in them. Each is short, and written to be read:
#
# * how processes add up their gradients: `sum_gradients` in `scfm_lib/runtime/distributed.py` (notebook 07 does its
# arithmetic);
# * how `estimate` counts memory: `scfm_lib/estimator/memory.py`, a step on tensors without contents;
# * how sure `annotate` is of a name: `scfm_lib/analysis/annotate.py` (notebook 08 says in words what it measures).
#
# ## Key takeaways
#
# * A training step is five lines: forward, loss, backward, clip, step; then empty the gradients.
# * AdamW compares each weight's gradient with its usual size: where gradients agree, a weight moves by about the
# learning rate. It shrinks weights a little besides.
# * The loss has a scale: the model is as unsure as if it chose among $e^{\text{loss}}$ equally likely genes, and there
# is a floor above 0.
# * Before a long run, overfit one batch. If that fails, there is a bug, and more data will not help.
# * Watch two losses: on the cells it learns from, and on held-out cells. The second one counts.
# * A checkpoint is weights, optimizer, step and random state; with all of them a resumed run is the same run.
#
# ## Quiz

# %%
exercises.quiz("4.a")

# %%
# exercises.quiz("4.a", "a")  # your answer

# %%
exercises.quiz("4.b")

# %%
# exercises.quiz("4.b", "a")  # your answer

# %%
exercises.quiz("4.c")

# %%
# exercises.quiz("4.c", "a")  # your answer

# %%
exercises.quiz("4.d")

# %%
# exercises.quiz("4.d", "a")  # your answer

# %% [markdown]
# ## What next
#
# In [05 · Watching a run](05_monitoring.ipynb) you watch a run with TensorBoard and find out why one is slow. In
# [06 · How good is it, honestly?](06_evaluation.ipynb) the trained
# model has to show what its vectors are worth, beside PCA and scVI.
