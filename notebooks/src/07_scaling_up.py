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
# # 07 · More cells, bigger models, more machines
#
# **You will be able to** say what each lever saves in memory and costs in time, and measure it on your machine; train
# from cells that do not fit in memory; share a run between two processes and show that it is the same run; work out
# what a rented card costs; take cells from CELLxGENE Census; give your model away so that others can trust it; and fit
# a small scaling law.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 3, and about 40 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. Notebook 04 explains the training loop |

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
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator

import exercises
import scfm_lib as scfm
from scfm_lib.config import with_changes
from scfm_lib.reporting import BLUE, GREEN, ORANGE

plt.rcParams.update({"figure.figsize": (7, 3.4), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. What fills the memory?
#
# We use MINIMAL and the 700 blood cells that come with scanpy, so that nothing is downloaded and all is done in
# seconds. For more cells write `name = "pbmc3k"`.

# %%
name = "bundled"  # or "pbmc3k"
folder = scfm.work_dir() / "07_scaling_up"
minimal = scfm.load_config("minimal", {"training.bf16": False, "training.fp16": False})


# %%
def prepared(config):
    """The store of these cells with as many genes and cells as the config asks for; made once."""
    place = folder / f"store_{name}_{config.vocabulary_size}_{config.data.n_obs or 'all'}"
    if not (place / "store.json").exists():
        scfm.prepare([scfm.find_data(name)], config, place)
    return scfm.open_store(place)


store = prepared(minimal)
minimal.model.n_genes = store.n_tokens
print(f"{len(store)} cells, {len(store.symbols)} genes, {store.n_tokens} of them tokens")

# %% [markdown]
# `memory` runs a real training step on tensors that have shapes but no contents, and counts what is alive at the
# worst moment. So it can be told beforehand, within some 2 % of what torch's own counter finds in the real step.

# %%
from dataclasses import replace

from scfm_lib.estimator import memory
from scfm_lib.estimator import workload

work, batches = workload(minimal, store, len(store))
parts = memory(minimal, work.longest)
for part in ("parameters", "gradients", "optimizer", "activations"):
    print(f"{part:12} {parts[part] / 1e6:6.1f} MB")

# %% [markdown]
# The first three grow with the model: 4 bytes for each parameter, 4 for its gradient and 8 for AdamW's two averages.
# **Activations**, what each layer keeps for the way back, grow with the batch and with the genes of its longest cell.
# In a small model they are nearly all of it.
#
# In the batch size, memory is a straight line:

# %%
sizes = [8, 16, 32, 64]
tensors = []
for cells in sizes:
    found = memory(minimal, replace(work.longest, rows=2 * cells))  # two halves of each cell
    tensors.append((found["total"] - found["overhead"]) / 1e6)
print([round(size) for size in tensors], "MB")
print("MB per cell:", np.round(np.diff(tensors) / np.diff(sizes), 1))

# %% [markdown]
# **Exercise 7.1** (medium, 5 minutes). A model takes 1.1 GB with batches of 16 cells and 1.7 GB with 32. What is the
# largest batch that fits in 7.2 GB?

# %%
answer = ...
exercises.check("7.1", answer)

# %% [markdown]
# ## 2. The levers
#
# These are the ways to save memory. Each is a line or two of the config:

# %%
levers = {
    "as it is": {},
    "half batches, accumulated": {"training.batch_size": 16, "training.gradient_accumulation_steps": 2},
    "half as wide": {"model.hidden_dim": 64, "model.ff_dim": 256},
    "one block, not two": {"model.num_layers": 1},
    "half of the tokens": {"model.n_genes": store.n_tokens // 2},
    "mixed precision (bf16)": {"training.bf16": True},
    "checkpointing": {"training.gradient_checkpointing": True},
    "half of the cells": {"data.n_obs": len(store) // 2},
}


# %%
def tried(changes):
    """The config with a lever, its store, what its batches look like, and the batches."""
    config = with_changes(minimal, changes)
    cells = prepared(config) if {"model.n_genes", "data.n_obs"} & changes.keys() else store
    return config, *workload(config, cells, len(cells))


# %%
megabytes = {}
for lever, changes in levers.items():
    config, of_lever, _ = tried(changes)
    found = memory(config, of_lever.longest, "bf16" if config.training.bf16 else "fp32")
    megabytes[lever] = (found["total"] - found["overhead"]) / 1e6
    saved = 1 - megabytes[lever] / megabytes["as it is"]
    print(f"{lever:26} {megabytes[lever]:4.0f} MB, saves {saved:4.0%}")

# %% [markdown]
# That was counted, and is the same on every machine. Time is not, so we take real steps on a batch of average length.
# All levers take turns, five times. The quickest step of each counts, which other programs disturbed least; the others
# show how sure that is.

# %%
from scfm_lib.start import new_model
from scfm_lib.train import new_state, training_step

CPU = torch.device("cpu")


# %%
def stepper(changes):
    """A function that takes a training step with a lever and returns its seconds per 1,000 cells."""
    config, _, batches = tried(changes)
    settings, precision = config.training, "bf16" if config.training.bf16 else "fp32"
    batch = sorted(batches, key=lambda batch: batch.most_tokens)[len(batches) // 2]
    micro_batches = batch.split(settings.gradient_accumulation_steps)
    state = new_state(new_model(config.model, seed=0, genes=len(store.symbols)), settings, CPU, precision)

    def step():
        started = time.perf_counter()
        training_step(state, micro_batches, settings.learning_rate)
        return 1000 * (time.perf_counter() - started) / (len(batch.cells) / 2)

    return step


# %% tags=["nbval-ignore-output"]
steps = {lever: stepper(changes) for lever, changes in levers.items()}
turns = [{lever: step() for lever, step in steps.items()} for _ in range(6)][1:]  # the first turn allocates
seconds = {lever: sorted(turn[lever] for turn in turns) for lever in levers}
for lever, took in seconds.items():
    print(f"{lever:26} {took[0]:5.1f} s per 1,000 cells (slowest of five: {took[-1]:.1f})")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
left.barh(list(megabytes), list(megabytes.values()), color=BLUE)
left.set(xlabel="MB of tensors at the peak", title="Memory: counted")
for lever, took in seconds.items():  # dots: a log axis has no 0
    right.plot(took, [lever] * len(took), "o", color=ORANGE, markersize=4, alpha=0.4)
    right.plot(took[0], lever, "o", color=ORANGE, markersize=8)
right.grid(axis="y", alpha=0.3)
right.set(xscale="log", xlabel="seconds per 1,000 cells (log scale)", title="Time: measured on this machine")
right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
right.xaxis.set_major_formatter("{x:g}")
right.xaxis.set_minor_formatter("")
left.invert_yaxis()
figure.tight_layout()
plt.show()

# %% [markdown]
# *Figure: a row for each lever and one for the config as it is. Left, bars for the memory at the peak: each lever makes
# it smaller, checkpointing and half of the cells by little. Right, dots for the seconds that 1,000 cells take on this
# machine: the large dot is the quickest of five steps, the pale ones are the other four.*
#
# How to read it:
#
# * **Accumulation** and **checkpointing** change nothing about the steps: the same gradient, but for rounding (section
# 4). So choose between them by what they cost in time for the memory that you need, and that depends. Accumulation does
# a batch in pieces, and pieces that are too small leave a machine idle, a card most of all. Checkpointing keeps only
# what goes into each block and computes the rest again on the way back: one forward pass more, in theory a third of the
# work; the right side says what it is here. With MINIMAL's two blocks there is hardly anything to win by it; see below.
# * **Mixed precision** is made for hardware that has it. Look at the right side before you use it on a CPU: where bf16
# is not in the hardware each product is emulated. On such a machine it took 16 times as long (`CONTRIBUTING.md`). It is
# not the same model to the last digit, either: under CPU autocast what travels from block to block is kept in bf16 too,
# with 8 bits.
# * **Fewer tokens** or a **smaller model** save both, but it is another model. Judge it anew (notebook 06). One block
# of two saves more than half, because the last block works out the row of [CELL] alone (notebook 03).
# * **Fewer cells**, `data.n_obs`, save disk, and time because an epoch has fewer steps. A step of the same size needs
# the same time and memory. (Here the batches are of other cells, so both differ a little.)
#
# The deeper the model, the more checkpointing saves. The same batch, by all three presets:

# %%
longest = replace(workload(minimal, store, len(store))[0].longest, rows=64)
for preset in ("minimal", "default", "large"):
    peaks = []
    for on in (False, True):
        config = scfm.load_config(preset, {"training.gradient_checkpointing": on})
        found = memory(config, longest)
        peaks.append((found["total"] - found["overhead"]) / 1e6)
    print(f"{preset:8} {config.model.num_layers} blocks: {peaks[0]:6,.0f} -> {peaks[1]:5,.0f} MB")

# %% [markdown]
# `scfm estimate --preset large` lists them for your config, with what each would save and cost, without a single
# training step of it.

# %% [markdown]
# ### Half precision, opened
#
# What does `bf16=True` do? The weights stay in fp32. Inside `autocast`, products take and give half precision; other
# operations mostly keep what they are given:

# %%
from torch.nn import functional as F

x, w = torch.randn(4, 8), torch.randn(8, 8)
with torch.autocast("cpu", dtype=torch.bfloat16):
    y = F.linear(x, w)
    kinds = {"linear": y, "its GELU": F.gelu(y), "layer norm of it": F.layer_norm(y, (8,)), "x + it": x + y}
    kinds |= {"log_softmax of it": y.log_softmax(-1), "its mean": y.mean()}
for name, value in kinds.items():
    print(f"{name:18} {str(value.dtype).removeprefix('torch.')}")

# %% [markdown]
# So a product's result is bf16, and what follows keeps what it is given, until a number in fp32 joins in, as in the
# fourth line. (In the model tokens enter the blocks as bf16, so what is added to them stays bf16. On a card layer norms
# and softmaxes are taken back to fp32.) The loss is computed outside, in fp32. The two kinds of half precision differ
# in range and digits:

# %%
for kind in (torch.float32, torch.bfloat16, torch.float16):
    info = torch.finfo(kind)
    print(
        f"{str(kind)[6:]:9} smallest {info.smallest_normal * info.eps:.0e}, largest {info.max:.0e}, next after 1: {1 + info.eps:.9g}"
    )

# %% [markdown]
# fp16 is the narrow one, so gradients fall out of it at the lower end. **Loss scaling** by hand: multiply the loss
# before `backward()`, divide the gradients after it.

# %%
tiny = torch.tensor(2e-8)  # a gradient
print("in fp16:", tiny.half().item())
scale = 2.0**16  # a power of two changes no digits
scaled = (tiny * scale).half()
print(f"scaled up: {scaled.item():.4g}, and back in fp32: {(scaled.float() / scale).item():.3g}")
print("too much of it:", (tiny * 2.0**45).half().item())

# %% [markdown]
# Infinity in a gradient means that the scale was too large: `GradScaler` then skips the step and halves the scale;
# after 2,000 steps without an infinity it doubles it again. bf16 needs none of that.

# %% [markdown]
# ## 3. More cells than memory
#
# The counts of a million cells need not fit in memory. `scfm prepare` reads a file in chunks of rows and writes a
# **store**: flat files with the expressed genes alone, which are *mapped*. The operating system then reads what is
# touched, and lets go of it when memory is short.

# %%
print(type(store.counts).__name__, store.counts.dtype, store.genes.dtype)
some = np.array([3, 141, 59])  # any cells, in any order
genes, counts, lengths = store.rows(some)
print("expressed genes of three cells:", lengths)

# %%
on_disk = sum(file.stat().st_size for file in store.dir.glob("*.bin"))
expressed = len(store.genes) / len(store)
print(f"{expressed:.0f} expressed genes a cell, {on_disk / len(store):.0f} bytes on disk")
print(f"6 x {expressed:.0f} + 31 =", round(6 * expressed + 31))

# %% [markdown]
# Six bytes for each expressed gene (2 for its number, 4 for its molecules), and 31 for the cell itself: where it
# begins, its name as a hash, its library size and molecules, and four small numbers. A table with all genes would take
# 4 bytes for each, expressed or not. For a million such cells:

# %%
genes_measured = len(store.symbols)
print(f"table: {1e6 * 4 * genes_measured / 1e9:.1f} GB, store: {1e6 * on_disk / len(store) / 1e9:.1f} GB")

# %% [markdown]
# Does memory then stay where it is? We make files with 1, 30 and 300 copies of the cells, and let a process of its own
# prepare each and train on it for 10 steps. Meanwhile we look at it twenty times a second.


# %%
import anndata as ad
import scipy.sparse as sp


def copied(copies, file):
    """Writes copies of the cells, one below the other, each cell with a name of its own."""
    cells = scfm.find_data("bundled")
    many = ad.AnnData(sp.vstack([cells.X] * copies).tocsr(), var=cells.var)
    many.obs_names = [f"cell-{number}" for number in range(many.n_obs)]
    many.write_h5ad(file)
    return many.n_obs


# %%
import contextlib

import psutil

environment = os.environ | {"PYTHONPATH": os.path.abspath("..")}  # for processes that are started from here


def watched(command):
    """A command's memory at its peak in MB: all that is mapped, and what is its own."""
    log, peak = folder / "watched.log", np.zeros(2)
    with log.open("w") as file:
        process = psutil.Popen(command, env=environment, stdout=file, stderr=file)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # it may end between the two lines
            now = process.memory_info()
            peak = np.maximum(peak, [now.rss, now.rss - getattr(now, "shared", 0)])
        time.sleep(0.05)
    assert process.returncode == 0, log.read_text()
    return peak / 1e6


# %% tags=["nbval-ignore-output"]
import pandas as pd

train = [sys.executable, "-m", "scfm_lib", "train", "--max-steps", "10", "--device", "cpu"]
train += ["--set", "data.validation_fraction=0"]
rows = []
for copies in (1, 30, 300):
    with tempfile.TemporaryDirectory(dir=folder) as there:
        file, run = Path(there) / "cells.h5ad", Path(there) / "run"
        cells = copied(copies, file)
        mapped, own = watched([*train, "--data_path", str(file), "--run-dir", str(run)])
        rows.append((cells, file.stat().st_size / 1e6, mapped, own))
peaks = pd.DataFrame(rows, columns=["cells", "file", "memory", "of its own"]).set_index("cells")
print(peaks.round().astype(int).to_string(), "\n(MB)")

# %%
figure, axes = plt.subplots()
styles = {"memory": ("s-", ORANGE), "of its own": ("o-", BLUE), "file": ("^--", "0.4")}
for column, (style, colour) in styles.items():
    axes.plot(peaks.index / 1000, peaks[column], style, color=colour, label=column)
axes.set(xlabel="thousand cells", ylabel="MB", ylim=(0, 1.25 * peaks["memory"].max()))
axes.set_title("300 times the cells: measured on this machine")
axes.legend(frameon=False, loc="upper left", ncols=3)
plt.show()

# %% [markdown]
# *Figure: three lines over 700 to 210,000 cells. The file grows in a straight line. The process's own memory, most of
# it Python and its libraries, rises much less than the file. With the pages of the store that the system keeps mapped
# while there is room, total memory grows by roughly the size of the store.*
#
# What is its own grows by the cells' names and a few numbers for each. The difference between the upper two lines is
# not needed: under pressure the system drops these pages and reads them again. (DEFAULT on up to 500,000 cells of
# PBMC3k was measured too: `HARDWARE.md`.)

# %% [markdown]
# ## 4. Two processes, one run
#
# With two cards, or two CPUs, each process takes half of every batch. Each works out its gradient, then they exchange
# them and both take the same step. For this to be the run that one process would make, the gradients of the two halves
# must combine to that of the whole batch. Here is a batch, and its gradient. We put its half cells in order of their
# molecules, so that the two halves differ as much as they can. (The library deals cells out in turn, so they differ
# less.) We look at one part of the gradient: a number for each gene's bias in the decoder.

# %%
from scfm_lib.dataset import Batch
from scfm_lib.model import prediction_loss

model = new_model(minimal.model, seed=0, genes=len(store.symbols))
batch = workload(minimal, store, len(store))[1][0]
order = batch.target_counts.sum(1).argsort().numpy()
batch = Batch(*(rows[order] for rows in vars(batch).values()))


# %%
def gradient(part):
    """The gradient of the loss per molecule, (G,), and how many molecules there were."""
    model.zero_grad()
    log_odds = model(part.genes, part.values, part.most_tokens)
    loss = prediction_loss(log_odds, part.target_genes, part.target_counts)
    (loss / part.molecules).backward()
    return model.output_bias.grad.clone(), part.molecules.item()


whole, molecules = gradient(batch)
print(tuple(whole.shape), f"{molecules:,.0f} molecules")

# %%
(first, first_molecules), (second, second_molecules) = (gradient(half) for half in batch.split(2))
print(f"molecules: {first_molecules:,.0f} + {second_molecules:,.0f} = {first_molecules + second_molecules:,.0f}")
plain = (first + second) / 2
print(f"the plain mean is off by {((plain - whole).norm() / whole.norm()).item():.0%}")

# %% [markdown]
# One process has fewer molecules than the other, so the plain mean is off: there, each would count for more. Weighted
# by molecules it is right:

# %%
weighted = (first_molecules * first + second_molecules * second) / molecules
print(f"the weighted mean is off by {((weighted - whole).norm() / whole.norm()).item():.3%}")

# %% [markdown]
# Accumulation does the same, one half after the other. In the library each process divides its loss by the molecules of
# *all* processes, so the gradients are simply added up. Many training scripts, and torch's own
# `DistributedDataParallel`, take the plain mean, which is right only where all parts count the same.
#
# **Exercise 7.2** (medium, 6 minutes). Write `whole_gradient(parts, molecules)`: `parts` is a list of gradients per
# molecule, one for each process, and `molecules` a list of how many each had. Then `answer = whole_gradient`.

# %%
answer = ...
exercises.check("7.2", answer)

# %% [markdown]
# ### With `torchrun`
#
# First one process, 20 steps of 32 cells:

# %%
place = Path(tempfile.mkdtemp(dir=folder))  # new each time, since a run's folder must be new
short = with_changes(minimal, {"training.log_every_steps": 1})
alone = scfm.train(short, store.dir, run_dir=place / "one", device="cpu", max_steps=20, verbose=False)
print(alone.step, "steps")

# %% [markdown]
# Then two, each with 16 of the 32. `torchrun` starts the same command twice and tells each who it is:

# %%
command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
command += ["-m", "scfm_lib", "train", "--data_path", str(store.dir), "--run-dir", str(place / "two")]
settings = ["training.batch_size=16", "training.log_every_steps=1", "training.bf16=false", "training.fp16=false"]
command += [word for setting in settings for word in ("--set", setting)]
command += ["--max-steps", "20", "--device", "cpu"]

# %% tags=["nbval-ignore-output"]
started = time.perf_counter()
one_thread = environment | {"OMP_NUM_THREADS": "1"}  # each: there are two processes for the cores
done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
if done.returncode:
    print(done.stderr[-1500:])
print(f"two processes, {time.perf_counter() - started:.0f} seconds with their start")

# %%
from scfm_lib.runtime import read_metrics

losses = {}
for run in ("one", "two"):
    losses[run] = [row["loss"] for row in read_metrics(place / run / "metrics.jsonl") if "loss" in row]
print(len(losses["one"]), "and", len(losses["two"]), "losses")
print("equal but for rounding:", np.allclose(losses["one"], losses["two"], atol=1e-3))

# %%
figure, axes = plt.subplots()
axes.plot(range(1, 21), losses["one"], color=BLUE, linewidth=5, alpha=0.4, label="one process, 32 cells")
axes.plot(range(1, 21), losses["two"], "--", color=ORANGE, label="two processes, 16 cells each")
axes.set(xlabel="step", ylabel="loss, nats per molecule", title="Two processes make the run of one")
axes.set_xticks([1, 5, 10, 15, 20])
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: the loss over 20 steps, a wide pale line for one process and a dashed line for two. They lie on each other.*
#
# Two processes on two cores that one process could use as well gain nothing: do not do it at home. It is made for two
# cards; we had none to measure what it gains there.
#
# ### On Kaggle's two T4s
#
# A notebook cannot be started by `torchrun`; accelerate's `notebook_launcher` starts the processes from a cell. It must
# come before anything in the notebook has touched a card. So restart the kernel, run the set-up cell at the top and
# then this one, which needs no other. Elsewhere it does nothing. **We have not run it on two cards**: none were at
# hand.

# %%
import os

import torch


def train_on_both():
    """What each of the two processes does."""
    import scfm_lib as scfm

    settings = scfm.load_config("default", {"training.batch_size": 16})
    scfm.train(settings, "pbmc3k", run_dir=scfm.work_dir() / "two_cards")


if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") and torch.cuda.device_count() == 2:
    from accelerate import notebook_launcher

    notebook_launcher(train_on_both, num_processes=2)

# %% [markdown]
# ## 5. What does a rented card cost?
#
# `estimate` works out a card's time from its published figures, as a range, since we had none to measure; prices are
# those of `scfm_lib/hardware/gpus.yaml`, each with source and month. DEFAULT on 100,000 cells, 100 epochs:

# %% tags=["nbval-ignore-output"]
default = scfm.load_config("default", {"training.num_epochs": 100})
rows = []
for card in ("Tesla T4", "L4", "A100-SXM4-40GB"):
    found = scfm.estimate(default, cells=100_000, gpu=card)
    hours = [found["seconds"][bound] / 3600 for bound in ("low", "typical", "high")]
    rows += [(machine["machine"], card, machine["usd"]) for machine in found["rented"]]
    print(f"{card:15} {hours[0]:4.1f} to {hours[2]:4.1f} h, {found['memory_bytes']['total'] / 1e9:.1f} GB")

# %%
rows.sort(key=lambda row: row[2][1])
colours = {"Tesla T4": BLUE, "L4": GREEN, "A100-SXM4-40GB": ORANGE}
figure, axes = plt.subplots(figsize=(8, 4))
for line, (_, card, (low, high)) in enumerate(rows):
    axes.plot([low, high], [line, line], "o-", color=colours[card], linewidth=6, markersize=6)
for card, colour in colours.items():
    axes.plot([], [], color=colour, linewidth=6, label=card.split("-")[0])
axes.set_yticks(range(len(rows)), [machine for machine, _, _ in rows])
axes.invert_yaxis()
axes.set(xlabel="US dollars for the whole run, lowest to highest estimate", xlim=(-0.15, None))
axes.legend(frameon=False)
axes.set_title("From nothing to a few dollars, by provider as much as by card", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# *Figure: for each machine that can be had a bar from the lowest to the highest estimated cost of the run, cheapest on
# top, coloured by card: T4 blue, L4 green, A100 orange. Colab's and Kaggle's free machines are at 0. The colours are
# mixed: the same card costs several times as much from one provider as from another.*
#
# An A100 costs much more per hour than a T4, but finishes sooner; the remaining difference may be smaller than
# that between providers. (Kaggle gives two T4s; the estimate uses one.)
#
# Before you rent: does the run fit in a free session? `fits_one_session` in the estimate says so, and
# `scfm train --resume` goes on where a session ended.
#
# **Exercise 7.3** (easy, 3 minutes). Two cards are 1.6 times as fast as one, since exchanging gradients takes time. How
# many times as much as with one card does the whole run cost, if every card costs the same per hour?

# %%
answer = ...
exercises.check("7.3", answer)

# %% [markdown]
# ## 6. More cells: CELLxGENE Census
#
# The Census holds the counts of many published studies in one place, with the same names for tissues, diseases and
# cell types. `census` asks for the cells that a filter finds, at most `max_cells` of them. It needs a package that is
# not installed with the workbook; without it, it says what to do:

# %%
blood = "tissue_general == 'blood' and disease == 'normal' and assay == '10x 3\\' v3'"
FETCH = False  # set to True to fetch cells over the network
if FETCH:
    cells = scfm.census(blood, max_cells=5_000)
    cells.write_h5ad(folder / "census.h5ad")

# %% [markdown]
# Here nothing is fetched. Instead we put the bundled cells on the disk in the Census' layout and read that copy, with
# the same function, filter and package. A third of the cells are marked as copies of another study's; half have the
# assay that we ask for.

# %%
import importlib.util

if importlib.util.find_spec("cellxgene_census"):
    from exercises.local_census import write_census

    copy = write_census(scfm.find_data("bundled"), Path(tempfile.mkdtemp(dir=folder)) / "census")
    local = scfm.census(blood, uri=copy, max_cells=200)
    print(local.uns["census"]["found"], "found,", local.n_obs, "taken")
    print(local.obs[["dataset_id", "assay", "cell_type"]].head(3).to_string())
else:
    print("pip install cellxgene-census, best in an environment of its own; then this cell runs")

# %% [markdown]
# Genes come with Ensembl ids (here made up) and symbols, cells with the Census' own numbers as names. The model of
# section 4 finds its genes by their symbols, so the vectors are those of the same cells in our table:

# %%
if importlib.util.find_spec("cellxgene_census"):
    number = local.obs["soma_joinid"].to_numpy()
    same = np.array_equal(scfm.embed(alone.model, local), scfm.embed(alone.model, scfm.find_data("bundled")[number]))
    print("the same vectors:", same)

# %% [markdown]
# Three things to mind, whatever the filter:
#
# * The same cell is there more than once if several studies published it. `census` takes primary copies only.
# * A version of the Census is part of your methods. `census` asks for a fixed one and writes it to `adata.uns`.
# * Do not judge a model on a study that it learned from: hold out whole studies (`dataset_id`), not only cells.
#
# We have tried `census` on such local copies only; the Census itself could not be reached from where this was made.

# %% [markdown]
# ## 7. Giving the model away
#
# A model is worth sharing if others can load it, know what it was made from, and need not trust you with their
# machine. First it is judged, so that its card can say how good it is:

# %% tags=["nbval-ignore-output"]
result = scfm.evaluate(alone.checkpoint, "bundled", scvi=False)
scfm.write_report(result, alone.checkpoint, alone.dir / "report")
print("judged on", result["cells"]["held_out"], "held-out cells in", round(result["seconds"]), "seconds")

# %% [markdown]
# `save_pretrained` then writes four files:

# %%
about = "700 human blood cells that come with scanpy."
shared = scfm.save_pretrained(alone, place / "my-first-model", about=about, license="mit")
for file in sorted(shared.iterdir()):
    print(file.name)

# %% [markdown]
# The weights are in *safetensors*: names, shapes and numbers, nothing that could be run. The model that is loaded
# gives the same vectors, to the bit:

# %%
cells = scfm.find_data("bundled")
loaded = scfm.load_model(shared)
print("equal:", np.array_equal(scfm.embed(loaded, cells), scfm.embed(alone.model, cells)))

# %% [markdown]
# `README.md` is the *model card*. It is written from what the run and its report recorded. Here is the part about data,
# training and scores:

# %% tags=["nbval-ignore-output"]
card = (shared / "README.md").read_text(encoding="utf-8")
print(card[card.index("## Data") : card.index("## Limits")])

# %% [markdown]
# Add what the run cannot know: how many donors and of which kind (never who), what they agreed to, which tissue. This
# one took 20 steps, and says so: nobody should use it. Compare it with the line of the model at its start before you
# praise its scores.
#
# To publish it, upload the folder to the Hugging Face hub under your own account
# (`hf upload NAME/my-first-model my-first-model`). The notebook sends nothing.

# %% [markdown]
# ## 8. What does more buy? A small scaling law
#
# Papers on large models draw the held-out loss over the size of the model, or over the data, and find that it falls
# towards a floor like a power,
#
# $$\text{loss}(n) = \text{floor} + a \, n^{-b}.$$
#
# We can draw one, small, in a minute. All models here take the same 120 steps, and all are judged on the same held-out
# cells over the same genes, else their losses could not be compared. First the model, then the data. (The narrowest
# models also have narrower vectors than 64, since they are not that wide.)

# %%
from scfm_lib.dataset import HalfCells
from scfm_lib.start import pca_start
from scfm_lib.train import learning_rate, validation_loss

learn, STEPS = np.flatnonzero(~store.held_out), 120
print(len(learn), "cells to learn from,", int(store.held_out.sum()), "to judge by")


# %%
def judged(width, cells, seed):
    """The held-out loss of a model with one block of this width, from so many cells, and its parameters."""
    shape = minimal.model.model_copy(update={"hidden_dim": width, "ff_dim": 4 * width, "num_layers": 1})
    shape.gene_embedding_dim = min(64, width)
    settings = minimal.training.model_copy(update={"seed": seed, "learning_rate": 0.004})
    chosen = np.sort(np.random.default_rng(seed).permutation(learn)[:cells])
    start = pca_start(store, chosen, shape.gene_embedding_dim, seed)
    state = new_state(new_model(shape, seed, start), settings, CPU)
    batches = HalfCells(store, chosen, 32, seed, settings.token_share)
    for step in range(STEPS):
        training_step(state, [batches[step]], learning_rate(step, STEPS, settings))
    return validation_loss(state, store), sum(p.numel() for p in state.model.parameters())


# %% tags=["nbval-ignore-output"]
widths, counts = (8, 16, 32, 64), (70, 140, 280, len(learn))
by_width = {width: [judged(width, len(learn), seed) for seed in range(3)] for width in widths}
by_cells = {cells: [judged(64, cells, seed)[0] for seed in range(3)] for cells in counts}
sizes = [found[0][1] for found in by_width.values()]
losses = {"parameters": (sizes, [[loss for loss, _ in found] for found in by_width.values()])}
losses["cells to learn from"] = (list(counts), list(by_cells.values()))
for what, (numbers, found) in losses.items():
    means = ", ".join(f"{n:,}: {np.mean(seeds):.3f}" for n, seeds in zip(numbers, found, strict=True))
    print(f"{what}: {means}")

# %% [markdown]
# The law has three unknowns, and we have four sizes with three seeds each. How sure is the fit? Draw the seeds anew,
# with repeats, and fit again, 200 times (a bootstrap, as in notebook 06).

# %%
from scipy.optimize import least_squares


def fit(numbers, means):
    """Floor, a and b of the law."""
    n = np.array(numbers) / numbers[0]  # so that `a` is what the smallest has above the floor
    first = [min(means) - 0.01, max(means) - min(means), 0.5]
    bounds = [0, 0, 0.01], [10, 10, 5]
    return least_squares(lambda law: law[0] + law[1] * n ** -law[2] - means, first, bounds=bounds).x


# %% tags=["nbval-ignore-output"]
rng = np.random.default_rng(0)
laws = {}
for what, (numbers, found) in losses.items():
    drawn = [[np.mean(rng.choice(seeds, 3)) for seeds in found] for _ in range(200)]
    laws[what] = np.array([fit(numbers, np.array(means)) for means in drawn])
    for name, values in zip(("floor", "b"), laws[what][:, [0, 2]].T, strict=True):
        low, middle, high = np.percentile(values, [5, 50, 95])
        print(f"{what:20} {name:5} {middle:.3f} ({low:.3f} to {high:.3f})")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for panel, (what, (numbers, found)) in zip(panels, losses.items(), strict=True):
    further = np.geomspace(numbers[0], 10 * numbers[-1], 60)
    curves = [floor + a * (further / numbers[0]) ** -b for floor, a, b in laws[what]]
    panel.fill_between(
        further, *np.percentile(curves, [5, 95], axis=0), color=ORANGE, alpha=0.3, label="fitted: 5 to 95 %"
    )
    for n, seeds in zip(numbers, found, strict=True):
        panel.plot([n] * 3, seeds, "o", color=BLUE, markersize=4, label="a training" if n == numbers[0] else None)
    panel.axvline(numbers[-1], color="0.5", linestyle=":", label="guessed from here on")
    panel.set(xscale="log", xlabel=what)
panels[0].set_ylabel("held-out loss, nats per molecule")
panels[1].legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: the held-out loss over parameters (left) and over cells (right), the axes across logarithmic. Dots are
# trainings, bands the fitted laws with their uncertainty, drawn on to ten times the largest size tried.*
#
# Read it with care. The band is narrow where there are dots; that it stays narrow beyond them is an assumption of the
# law, not a finding. The exponent $b$ is many times what papers find for large models (there below 0.5): over so small
# a range the curves run straight into their floor. Steps were equal here, so a larger model is not yet trained to its
# end. And the loss is not what you want to use: whether vectors become better is another question (notebook 06). What
# it does answer: from 70 to 280 cells, more cells bought more than a wider model; at the right ends of both, more of
# the same buys little.

# %% [markdown]
# ## Key takeaways
#
# * Memory is model (16 bytes a parameter) plus activations, and a straight line in the batch size.
# * Accumulation and checkpointing change nothing but memory and time. Take the one that costs less time: measure it.
# * Cells stay on disk. More of them cost time, and little memory: some five hundred bytes each.
# * A scaling law is a fit: give its uncertainty, and do not trust it far beyond the sizes that were tried.
# * Parts of a batch are weighted by their molecules. Then two processes make the run of one.
# * Cost is price times hours: compare runs, not hours. Two cards are done sooner, and cost more than one.
# * Share weights that cannot run code, and a card that says what the model has seen.
#
# ## Quiz

# %%
exercises.quiz("7.a")

# %%
# exercises.quiz("7.a", "a")  # your answer

# %%
exercises.quiz("7.b")

# %%
# exercises.quiz("7.b", "a")  # your answer

# %%
exercises.quiz("7.c")

# %%
# exercises.quiz("7.c", "a")  # your answer

# %% [markdown]
# ## What next
#
# Now do all of it with your own cells: [08 · Your own data](08_your_own_data.ipynb).
