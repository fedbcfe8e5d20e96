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
# # 01 · What can this machine train?
#
# **You will be able to** say what is in your computer and which model it can train, work out by hand what training
# takes in memory, read an estimate of time and money, and pick a preset that you will train in notebook 04.
#
# What is all this for? A single-cell experiment counts molecules of thousands of genes in each of thousands of cells.
# The model turns a cell into a **vector** of 64 numbers, so that cells of one kind get similar vectors. You then use
# these where you would use a PCA: for neighbours, clusters, a UMAP, naming cells. It learns from your cells alone,
# without labels.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 1, and about 25 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. If you come from biology and want cells first, begin with [notebook 02](02_preprocessing.ipynb); a [glossary](README.md) has the words of both fields |

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

# %% [markdown]
# ## 1. Threads first
#
# Training on a CPU is mostly matrix products, and torch (the library that computes them) splits each among *threads*,
# one for each core. It begins with the number that the environment variable `OMP_NUM_THREADS` has when torch is
# imported. `torch.set_num_threads` can change that later, but only for torch, and other libraries (numpy, scikit-learn,
# numba) read the variable as they start. So look at the machine before you import torch:

# %%
import sys

import scfm_lib as scfm

print("torch is imported:", "torch" in sys.modules)

# %% [markdown]
# `scfm.check()` looks at processor, memory, disk and graphics cards. It starts a second process to ask torch about
# them, so that nothing is switched on here yet. That process also runs a small *kernel*, a piece of code made for the
# card, on each card: `torch.cuda.is_available()` asks the driver alone, and says True for cards that this build of
# torch has no kernels for, such as Kaggle's P100.

# %% tags=["nbval-ignore-output"]
found = scfm.check()
print(found["cpu"]["model"], "with", found["cpu"]["usable_cores"], "cores that we may use")
print("good number of threads:", found["threads"]["threads"])

# %% [markdown]
# More threads than cores do not help: two threads on one core share its arithmetic units. A machine that you share
# with others (a cluster, a container) often allows you fewer cores than it has, and torch does not always notice.

# %%
os.environ.setdefault("OMP_NUM_THREADS", str(found["threads"]["threads"]))
import torch

enough = torch.get_num_threads() <= int(os.environ["OMP_NUM_THREADS"])
print("torch keeps to that number of threads:", enough)

# %% [markdown]
# ## 2. What is in this machine
#
# The same as `scfm check` in a terminal. The library has three sizes of model, called **presets**: MINIMAL, DEFAULT and
# LARGE. For each the check says whether this machine can do a typical job (so many cells, each read so many times:
# *epochs*), how long that would take, and what would change it.

# %% tags=["nbval-ignore-output"]
from scfm_lib.estimator import check_text

print(check_text(found).replace(os.getcwd(), "this folder"))

# %% [markdown]
# ## 3. What takes memory: parameters
#
# A model is a list of numbers, its **parameters** (also called weights). In training each of them is kept with its
# gradient (which way to move it) and with two running averages of that gradient, which the optimizer AdamW needs
# (notebook 04), all in 4 bytes (fp32). By hand, for MINIMAL with 20,000 genes:

# %%
parameters = 3_078_048  # notebook 03 counts them, part by part
by_hand = {"parameters": 4 * parameters, "gradients": 4 * parameters, "optimizer": 2 * 4 * parameters}
print(by_hand, "bytes")
print(
    f"together {sum(by_hand.values()) / 1e6:.1f} MB: {sum(by_hand.values()) / parameters:.0f} bytes for each parameter"
)

# %% [markdown]
# `scfm.estimate` says the same. We ask it for a named card, a Tesla T4 (what Colab and Kaggle give for free), so that
# the figures do not depend on the machine that you sit at.

# %%
minimal = scfm.load_config("minimal")
estimate = scfm.estimate(minimal, gpu="T4", cells=10_000)
assert all(estimate["memory_bytes"][name] == size for name, size in by_hand.items())
print("the library agrees:", estimate["parameters"], "parameters")

# %% [markdown]
# **Exercise 1.1** (easy, 3 minutes). DEFAULT with 20,000 genes has 8,695,520 parameters. How many megabytes
# (1 MB = 1,000,000 bytes) do parameters, gradients and optimizer take together in training?

# %%
import exercises

answer = ...
exercises.check("1.1", answer)

# %% [markdown]
# ## 4. What really takes memory: activations
#
# 49 MB would fit anywhere. But cells are read in **batches**, some dozens at a time, and to find the gradients all that
# was computed on the way has to be kept: in every layer, for every gene of every cell in the batch. These
# **activations** grow with the cells in a batch and with the genes that a cell shows.

# %%
presets = ("minimal", "default", "large")
kinds = ("parameters", "gradients", "optimizer", "activations", "overhead")
sizes = {name: scfm.estimate(scfm.load_config(name), gpu="T4", cells=10_000)["memory_bytes"] for name in presets}
for name in presets:
    print(f"{name:8}", ", ".join(f"{kind} {sizes[name][kind] / 1e6:.0f}" for kind in kinds), "MB")

# %%
import matplotlib.pyplot as plt

from scfm_lib.reporting import COLOURS

figure, axes = plt.subplots(figsize=(7.5, 3))
left = [0.0] * len(presets)
for kind, colour in zip(kinds, COLOURS, strict=False):
    widths = [sizes[name][kind] / 1e9 for name in presets]
    axes.barh([name.upper() for name in presets], widths, left=left, color=colour, label=kind)
    left = [start + width for start, width in zip(left, widths, strict=True)]
axes.invert_yaxis()
axes.set(
    xlabel="GB on a T4 (fp16, batches of 32 cells)", title="Most of it is activations, and what torch itself takes"
)
axes.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# *Figure: a bar for each preset, made of parameters, gradients, optimizer, activations and overhead in GB. In MINIMAL
# the overhead of torch and the card's driver is the largest part, in LARGE the activations are.*
#
# So the batch is the lever: half the cells in a batch, about half the activations. How many cells the data set has does
# not matter here: they are read from disk, a batch at a time.

# %%
for cells_in_batch in (8, 32, 128):
    config = scfm.load_config("default", {"training.batch_size": cells_in_batch})
    memory = scfm.estimate(config, gpu="T4", cells=10_000)["memory_bytes"]
    print(f"{cells_in_batch:>4} cells in a batch: {memory['activations'] / 1e6:>6.0f} MB of activations")

# %% [markdown]
# **Exercise 1.2** (medium, 6 minutes). With batches of 32 cells DEFAULT needs the activations printed above, and 500 MB
# that torch takes on a card, and what you found in exercise 1.1. Assume activations grow in proportion
# to the cells in a batch. What is the largest batch (a whole number of cells) that fits in 4 GB (4,000,000,000 bytes)?

# %%
answer = ...
exercises.check("1.2", answer)

# %% [markdown]
# ## 5. Precision: half the bytes
#
# Newer hardware computes in half precision: 2 bytes instead of 4 for activations, and much faster matrix products.
# There are two kinds. **bf16** has the range of fp32 and few digits; cards from compute capability 8.0 on have it (RTX
# 30, A100). **fp16** has more digits and little range, so small gradients vanish unless they are scaled up first: a
# *gradient scaler* multiplies the loss by a large number, and divides the gradients by it before the step. (On those
# newer cards there is also **TF32**: numbers stay 4 bytes, and only the products are made with the digits of fp16. It
# saves time and no memory.)

# %%
for number in (1e-8, 1e-4, 1.001, 70_000.0):
    half, brain = torch.tensor(number).half().item(), torch.tensor(number).bfloat16().item()
    print(f"{number:>9g}   fp16 {half:>12.6g}   bf16 {brain:>12.6g}")

# %% [markdown]
# fp16 loses the smallest number and cannot hold the largest; bf16 holds both, but turns 1.001 into 1. The library
# chooses by itself: bf16 where the hardware has it, fp16 with a gradient scaler on older cards, fp32 on a CPU.

# %%
for card in ("Tesla T4", "GeForce RTX 3060", "A100 40GB"):
    print(f"{card:17} {scfm.estimate(minimal, gpu=card, cells=10_000)['precision']}")

# %% [markdown]
# **Exercise 1.3** (easy, 3 minutes). Your gradients are about 1e-8, and you train on a T4. Which precision will the
# library take: "fp32", "bf16" or "fp16"? And what keeps those gradients from becoming 0? Answer with a pair of words or
# phrases: `answer = ("precision", "what keeps them")`.

# %%
answer = ...
exercises.check("1.3", answer)

# %% [markdown]
# ## 6. How long, how much
#
# An epoch is one pass over all cells. Time is epochs times cells over speed, and for a CPU the speed is measured in a
# few seconds of real training (`scfm.estimate(config)` without a card does that here). For a card it is computed from
# its data sheet, so it is a range, and nobody has measured it for you: no card was at hand when this was written.

# %% tags=["nbval-ignore-output"]
cards = ("Tesla T4", "GeForce RTX 3060", "GeForce RTX 4090")
config = scfm.load_config("default", {"training.num_epochs": 100})
for card in cards:
    seconds = scfm.estimate(config, gpu=card, cells=50_000)["seconds"]
    low, high = seconds["low"] / 60, seconds["high"] / 60
    print(f"{card:17} {low:>4.0f} to {high:>4.0f} minutes for DEFAULT, 50,000 cells, 100 epochs")

# %% tags=["nbval-ignore-output"]
rented = scfm.estimate(config, gpu="Tesla T4", cells=50_000)["rented"]
for machine in rented:
    low, high = machine["usd"]
    print(
        f"{machine['machine']:33} {'free' if high == 0 else f'${low:.2f} to ${high:.2f}'} (prices of {machine['priced']})"
    )

# %% [markdown]
# **Exercise 1.4** (medium, 5 minutes). Your laptop trains 300 cells a second. 20 % of your 25,000 cells are held out,
# so nothing is learned from them. How many hours do 50 epochs take?

# %%
answer = ...
exercises.check("1.4", answer)

# %% [markdown]
# ## 7. Pick a preset
#
# Change a setting and see at once how much time and memory it needs, here or on a card. "use this" writes your choice
# to `config.yaml`; notebook 04 trains it.

# %% tags=["nbval-ignore-output"]
from scfm_lib.widgets import preset_picker

picker = preset_picker(found)

# %% [markdown]
# The same without a mouse, in two lines:

# %%
choice = scfm.load_config("minimal", {"training.batch_size": 16})
print(choice.model.hidden_dim, "wide,", choice.training.batch_size, "cells in a batch")

# %% [markdown]
# ## 8. Estimated, and measured
#
# An estimate has to be compared with what really happens. Here is how large the three models are, and what they would
# need on a T4:

# %%
for name in presets:
    count = scfm.estimate(scfm.load_config(name), gpu="T4", cells=10_000)["parameters"]
    print(f"{name:8} {count:>10,} parameters, {sizes[name]['total'] / 1e9:.1f} GB on a T4")

# %% [markdown]
# They have not been run on a card yet. On CPUs, memory was measured in whole runs: the median error of 18 estimates was
# 2 %, the largest 10 % (`benchmarks/README.md`). What was measured for [HARDWARE.md](../HARDWARE.md) is kept, and can
# be read here:

# %%
import json

from scfm_lib.files import PROJECT

measured = json.loads((PROJECT / "benchmarks" / "results" / "guide.json").read_text(encoding="utf-8"))
print("measured on", measured["cpu"], "with", measured["threads"], "threads")
for cells, run in measured["runs"].items():
    print(
        f"DEFAULT, {int(cells):>7,} cells: {run['peak_bytes'] / 1e9:.1f} GB of RAM, store {run['store_bytes'] / 1e6:.0f} MB"
    )

# %% [markdown]
# Fifty times the cells, and only some 40 % more memory: the data stay on disk.
#
# ## Key takeaways
#
# * Set the number of threads before torch is imported, to the cores that you may really use.
# * Training keeps 16 bytes for each parameter; what fills memory is activations, and they follow the batch.
# * bf16 keeps the range, fp16 needs a scaler, and a CPU is best left at fp32 for models of this size.
# * An estimate for hardware that nobody measured is a range. Distrust a single number, ours too.
# * Count what can be counted, and measure the rest where you can.
#
# ## Quiz

# %%
exercises.quiz("1.a")

# %%
# exercises.quiz("1.a", "a")  # your answer

# %%
exercises.quiz("1.b")

# %%
# exercises.quiz("1.b", "a")  # your answer

# %%
exercises.quiz("1.c")

# %%
# exercises.quiz("1.c", "a")  # your answer

# %% [markdown]
# ## What next
#
# You know what your machine can do. In [02 · From counts to tokens](02_preprocessing.ipynb) you see what it will be
# fed: how a table of counts becomes what the model reads.
