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
# # 05 · Watching a run
#
# **You will be able to** watch a run while it trains (on a dashboard, in TensorBoard, in Weights & Biases without
# sending anything), say whether its loss and gradient norm look healthy, read what `nvidia-smi` says, find out
# why a training is slow (four causes, and what mends each), and look inside a step with a profiler and a roofline.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 1, and about 50 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. Notebook 04 explains loss and gradient |

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
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import exercises
import scfm_lib as scfm
from scfm_lib.reporting import BLUE, COLOURS, ORANGE, RED

plt.rcParams.update({"figure.figsize": (7, 3.4), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. The live dashboard
#
# 700 blood cells come with scanpy, so nothing is downloaded. For more of them write `name = "pbmc3k"`. The model is
# small (one block, 64 wide), so that we can watch several runs in a minute. What you learn holds for a large one.

# %%
work = scfm.work_dir() / "05_monitoring"
name = "bundled"  # or "pbmc3k"
small = {"model.hidden_dim": 64, "model.num_layers": 1, "model.ff_dim": 128}
folder = work / f"store_{name}"
if (folder / "store.json").exists():
    store = scfm.open_store(folder)
else:
    store = scfm.prepare([scfm.find_data(name)], scfm.load_config("minimal"), folder)
print(len(store), "cells,", int(store.held_out.sum()), "of them held out,", len(store.symbols), "genes")


# %%
def anew(name):
    """An empty place for a run, whatever an earlier try left there."""
    shutil.rmtree(work / name, ignore_errors=True)
    return work / name


# %% [markdown]
# A run writes a line into `metrics.jsonl` every `log_every_steps`. To see how it is doing, read that file. So we start
# the training in a second thread, and `follow` draws what the file has until the training is done. (It may as well be a
# run in a terminal, which the drawing then disturbs less: `follow` needs only its folder.)

# %% tags=["nbval-ignore-output"]
from scfm_lib.widgets import follow

often = {"training.log_every_steps": 3, "training.num_epochs": 5}
watched = anew("watched")
training = ThreadPoolExecutor(1).submit(
    scfm.train, scfm.load_config("minimal", small | often), store.dir, run_dir=watched, verbose=False
)
drawn = follow(watched, training.done)
run = training.result()  # an error in the other thread would come up here

# %% [markdown]
# *Figure: the dashboard as the run left it, six small line charts over optimizer steps. The loss falls, with dots for
# the held-out cells after each epoch; the learning rate rises and falls; the gradient norm; cells per second; the CPU
# cores in use; the memory of the process. With an NVIDIA card there are two more: how busy it is, and its memory.*
#
# Do cells per second dip once? That is the dashboard itself: the same process draws it, about once a second, and the run
# waits. Six runs that were followed fell from some 2,500 cells a second to between 280 and 430 at such a step; six that
# nobody followed had no row below 1,790, and three in a process of their own, drawn from here, none below 1,110. A dip
# that stays has a cause worth looking for (section 6).
#
# One row of that file, and what it says:

# %%
row = next(row for row in run.history if "loss" in row)
for key, meaning in {
    "loss": "nats per molecule, mean since the last row",
    "learning_rate": "of the last step",
    "grad_norm": "of the last step, before clipping",
    "step_seconds": "a training step, on average since the last row",
    "data_seconds": "of which waiting for the next batch",
    "cpu_percent": "of this process; 100 is one core",
    "ram_bytes": "memory of this process",
    "precision": "fp32, bf16 or fp16",
}.items():
    print(f"{key:14} {'recorded' if key in row else 'missing':9} {meaning}")

# %% [markdown]
# ## 2. What healthy looks like
#
# The same small model twice more, from the same start and with the same batches, but with learning rates that are far
# too high: 0.05 and 0.2 instead of 0.002.

# %%
runs = {"0.002": run}
for rate in ("0.05", "0.2"):
    config = scfm.load_config("minimal", small | often | {"training.learning_rate": float(rate)})
    runs[rate] = scfm.train(config, store.dir, run_dir=anew(f"rate_{rate}"), verbose=False)


# %%
def logged(run, key):
    """The steps and values of one key."""
    return np.array([(row["step"], row[key]) for row in run.history if key in row]).T


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
for (rate, one), colour, style in zip(runs.items(), [BLUE, ORANGE, RED], ["-", "--", ":"], strict=True):
    left.plot(*logged(one, "loss"), style, color=colour, linewidth=2, label=f"learning rate {rate}")
    right.semilogy(*logged(one, "grad_norm"), style, color=colour, linewidth=2)
right.axhline(1.0, color="grey", linewidth=1, label="clipped above 1")
left.set(
    xlabel="optimizer step", ylabel="loss (nats per molecule)", title="Too high a rate: a higher loss, or out of hand"
)
left.set_ylim(5.2, 8.0)  # what is higher leaves the picture
right.set(xlabel="optimizer step", ylabel="gradient norm", title="The lowest norm is not the healthiest run")
left.legend(frameon=False)
right.legend(frameon=False, loc="upper right")
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: two line charts over optimizer steps, each with the runs of three learning rates: the healthy 0.002 (line),
# 0.05 (dashed) and 0.2 (dotted). Left the loss, cut off at 8; right the gradient norm on a logarithmic axis, with a
# line at 1, above which gradients are clipped.*

# %% tags=["nbval-ignore-output"]
for rate, one in runs.items():
    norms, losses = logged(one, "grad_norm")[1], logged(one, "loss")[1]
    print(
        f"rate {rate:5}  loss {losses.max():5.2f} at its highest, {np.mean(losses[-6:]):.2f} in the last epoch;",
        end=" ",
    )
    print(f"norm {np.median(norms[:6]):5.1f} in the first epoch, {np.median(norms[-6:]):.1f} in the last")

# %% [markdown]
# With 0.2 the run is out of hand, and everybody sees it. With 0.05 it soon looks calm, and its norm is even the
# smallest of all; but its loss stays above the healthy one's. So a small norm is not a good sign by itself: look at
# both.
#
# **The gradient norm** is the length of all gradients taken together: how steep the loss is where the model stands.
#
# What does clipping do for AdamW, which compares each gradient with its usual size anyway? Where a weight's gradients
# agree, a single one that is 40 times as large moves it only 1.2 times as far as usual; where they come with both signs
# and usual steps are short, several times as far. And the average of squares remembers it for a hundred steps: after
# the next few, all of those are too short. (In the steep first epoch nearly every step is
# clipped.) What to look for:
#
# | you see | it means |
# |---|---|
# | large at first, then settling | healthy: the start is steep |
# | one high row now and then | an odd batch; clipping keeps it out of AdamW's averages, nothing to do |
# | tens of times `max_grad_norm`, row after row | look at the loss: if it does not fall, lower the learning rate or warm up longer |
# | growing, row after row | the run is about to blow up: lower the learning rate |
# | close to 0 while the loss is high | nothing is learned: is a part of the model cut off? |
# | NaN | broken; `scfm.train` stops and names the last good checkpoint |
# | infinite | in fp16 now and then: the scaler skips that step and scales less; in fp32 or bf16 broken, as NaN |
#
# **The loss** should fall fast, then slowly. For the held-out cells the same: if theirs rises while the other falls,
# the model learns its cells by heart.
#
# **Exercise 5.1** (medium, 10 minutes). Write `alarm(losses, norms)` for two lists with a number per logged row. It
# returns the number (from 0) of the first row that should wake you, else None. A row should, if its loss or norm is
# not finite (NaN or infinite), or if its loss is more than 0.5 above the lowest loss of the rows before. Then
# `answer = alarm`.

# %%
answer = ...
exercises.check("5.1", answer)

# %% [markdown]
# ## 3. TensorBoard
#
# Every run also writes TensorBoard's files, in `logs/`. TensorBoard is a small web server; in a notebook two lines
# show it below the cell. It is started only if you say so, since it goes on running.

# %%
show_tensorboard = False  # True: starts it
if show_tensorboard:
    get_ipython().run_line_magic("load_ext", "tensorboard")
    get_ipython().run_line_magic("tensorboard", f"--logdir {work}")
print("in your own notebooks:  %load_ext tensorboard   and   %tensorboard --logdir runs")

# %% [markdown]
# In a terminal it is `tensorboard --logdir runs`, then http://localhost:6006 in a browser: all runs of the folder,
# one curve each, with names to tick. That is what it is best at: **comparing runs**.
#
# The files can be read without any server:

# %%
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(str(run.dir / "logs")).Reload()
for tag in sorted(events.Tags()["scalars"]):
    print(f"{tag:18} {len(events.Scalars(tag)):3} points")

# %% [markdown]
# Are those the figures of `metrics.jsonl`? (TensorBoard keeps single precision, about 7 digits.)

# %%
from_events = np.array([(event.step, event.value) for event in events.Scalars("loss")]).T
steps, losses = logged(run, "loss")
assert (from_events[0] == steps).all()
assert np.allclose(from_events[1], losses, rtol=1e-6)
print("the same", len(losses), "losses in both files")

# %% [markdown]
# ## 4. Weights & Biases, offline
#
# Weights & Biases (`wandb`) shows the same curves on a web page, which is handy for a team. That means sending them to
# somebody's server, so `scfm` does it only if asked: `scfm train --wandb`, or `scfm.train(..., wandb=True)`.
#
# With `WANDB_MODE=offline` it writes to disk and sends nothing. Later `wandb sync RUN/wandb/offline-run-...` uploads,
# if you want that.

# %% tags=["nbval-ignore-output"]
import importlib.util

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
if importlib.util.find_spec("wandb"):
    config = scfm.load_config("minimal", small | often)
    scfm.train(config, store.dir, run_dir=anew("offline"), max_steps=4, wandb=True, verbose=False)
    print("written, not sent:", [path.name for path in (work / "offline" / "wandb").glob("offline-run-*")])
else:
    print("wandb is not installed; to try it: pip install wandb, then run this cell again")

# %% [markdown]
# ## 5. Watching the machine
#
# | where | live | a log |
# |---|---|---|
# | Linux, NVIDIA | `nvidia-smi -l 1`, `watch -n 1 nvidia-smi`, or `nvtop` | `nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv -l 5` |
# | Windows, NVIDIA | Task Manager, *Performance*, *GPU* (choose the graph "Cuda") | the same `--query-gpu` line |
# | macOS | Activity Monitor, *Window*, *GPU History* | `sudo powermetrics --samplers gpu_power -i 1000` |
# | any CPU | `htop`, Task Manager, Activity Monitor | `cpu_percent` in `metrics.jsonl` |
#
# `nvidia-smi` prints a table; `nvtop` draws the same over time. What to read in it:
#
# * **GPU-Util**: in what share of the last second or less *some* kernel (a function on the card) ran. Low means that
# the card waits. High means that it does not, but not that the whole card is used: one small kernel after another gives
# 100 % too.
# * **Memory-Usage**: how much is taken, by anyone. torch keeps what it once had, so it does not fall between steps.
# * **Pwr**: watts. A card that computes hard comes near its limit; "100 %" at a third of its watts is often mostly
# waiting.
# * **Processes**: who else is on the card.
#
# A first rule: if a card is busy less than half of the time during training, it is waiting for something.

# %% tags=["nbval-ignore-output"]
from scfm_lib.hardware import driver_cards

cards, notes = driver_cards()
for card in cards:
    print(f"{card['name']}: {card['memory_free'] / 1e9:.1f} of {card['memory_total'] / 1e9:.1f} GB free")
print(*(notes or ["no NVIDIA card here" if not cards else "nothing else to say"]), sep="\n")

# %% [markdown]
# What travels to a card, for each step? A batch is six tensors; the last two, the cells' numbers and their batches, are
# tiny. (The number of tokens in each half cell is needed only by the processor, so it is not sent.)

# %%
from scfm_lib.dataset import HalfCells

batch = HalfCells(store, np.flatnonzero(~store.held_out), 32, seed=0)[0]
for key in ("genes", "values", "target_genes", "target_counts", "cells", "batch"):
    tensor = getattr(batch, key)
    print(f"{key:14} {tuple(tensor.shape)!s:10} {str(tensor.dtype)[6:]:8} {tensor.nbytes / 1e3:6.1f} kB")

# %% [markdown]
# **Exercise 5.2** (easy, 5 minutes). A batch has 64 half cells, the longest with 150 genes, both in the halves that
# are read and in those that are predicted. Leave out the two tiny tensors. Say that the bus moves 12 GB (12e9 bytes) a
# second. How many microseconds does the batch take to the card?

# %%
answer = ...
exercises.check("5.2", answer)

# %% [markdown]
# ## 6. Why is my training slow?
#
# A training step is a relay: the loader prepares a batch, the *host* (the computer that the card sits in) sends it to
# the card, if there is one, and tells it what to compute, the card computes. The slowest of them sets the pace. Four
# causes are common:
#
# | cause | what you see | what mends it |
# |---|---|---|
# | **loader** | a large share of each step is waiting for data | a faster disk; if a core is free, `training.num_workers=1` |
# | **tiny batch** | no waiting, few cells in a batch; a card is idle | `training.batch_size=32`; on a card 128 |
# | **host** | a card is idle, though data come in time and the batch is large | give the card more at a time, ask it for numbers less often |
# | **no mixed precision** | a card is busy, and computes in fp32 | `training.fp16=true`; newer cards `bf16=true` |
#
# What is meant by **host**? A card works through a queue: the host puts hundreds of operations in for each step and
# runs ahead. If the operations are short, the host is slower at putting them in than the card at doing them. And
# whoever asks for a number (`loss.item()`, a print, a row in a log) makes the host stop until the queue is empty, a
# *synchronisation*; then the card stands idle until the host has put something in again.
#
# We create the first two causes on purpose. First a **slow drive**: it delivers 100 cells a second, as a network folder
# might. (The real one comes back at the end of the cell.)

# %%
from scfm_lib.data import Store

from_disk = Store.rows


def slowly(self, cells):
    time.sleep(len(cells) / 100)  # seconds
    return from_disk(self, cells)


def short(name, changes):
    """24 steps of the small model, logged every 6."""
    config = scfm.load_config("minimal", small | {"training.log_every_steps": 6} | changes)
    return scfm.train(config, store.dir, run_dir=anew(name), max_steps=24, verbose=False)


# %%
Store.rows = slowly
try:
    slow_drive = short("slow_drive", {})
finally:
    Store.rows = from_disk

# %% [markdown]
# Then **two cells in a batch**, instead of 32:

# %%
two_cells = short("two_cells", {"training.batch_size": 2})
print(two_cells.step, "steps with", 2 * two_cells.step, "cells in all")

# %% [markdown]
# The other two need a card. What you get here are **made-up records**: they have the shape of real ones, and speeds and
# memory within what `scfm estimate` says of these cards, but no card was at hand when they were written. They lie in
# `notebooks/exercises/data/`.

# %%
from pathlib import Path

made_up = Path(exercises.__file__).parent / "data"
folders = {"A": two_cells.dir, "B": made_up / "run_b", "C": slow_drive.dir, "D": made_up / "run_d"}
print((made_up / "run_b" / "config.yaml").read_text().splitlines()[0])

# %% [markdown]
# What does a run's record say? Means over the training steps, each row weighted by the steps since the row before. The
# first row is left out: starting is slower than running. The plain version, and the library's:

# %%
from scfm_lib.analysis import summary
from scfm_lib.runtime import read_metrics

rows = [row for row in read_metrics(folders["C"] / "metrics.jsonl") if "step_seconds" in row]
steps = np.diff([row["step"] for row in rows])  # steps that each row stands for, from the second on
waited = sum(row["data_seconds"] * n for row, n in zip(rows[1:], steps, strict=True))
took = sum(row["step_seconds"] * n for row, n in zip(rows[1:], steps, strict=True))
assert np.isclose(waited / took, summary(rows)["data_share"])
print("the share of waiting by hand and by the library: the same")

# %% [markdown]
# Now all four, beside the settings that matter:

# %% tags=["nbval-ignore-output"]
table = {}
for label, folder in folders.items():
    figures = summary(read_metrics(folder / "metrics.jsonl"))
    settings = scfm.load_config(folder / "config.yaml").training
    table[label] = {
        "device": figures.get("card", "CPU"),
        "precision": figures["precision"],
        "batch_size": settings.batch_size,
        "log_every_steps": settings.log_every_steps,
        "ms a step": round(1000 * figures["step_seconds"]),
        "waiting %": round(100 * figures["data_share"]),
        "card busy %": round(figures["gpu_percent"]) if "gpu_percent" in figures else "no card",
        "cells/s": round(figures["cells_per_second"]),
    }
print(pd.DataFrame(table).to_string())

# %%
shares = {}
for label, folder in folders.items():
    figures = summary(read_metrics(folder / "metrics.jsonl"))
    waiting = figures["data_share"]
    computing = (
        figures["gpu_percent"] / 100 if "gpu_percent" in figures else 1 - waiting
    )  # a CPU does all that is not waiting
    waiting = min(waiting, 1 - computing)  # while the host waits, a card may still work through its queue
    shares[label] = {"waits for data": waiting, "works": computing, "card is idle": 1 - waiting - computing}

# %%
figure, axes = plt.subplots(figsize=(8, 2.8))
colours = [ORANGE, BLUE, "lightgrey"]
pd.DataFrame(shares).T.plot.barh(stacked=True, ax=axes, color=colours, edgecolor="white", width=0.8)
axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
axes.set(xlim=(0, 1), title="Where a step's time goes: A and D hardly wait")
axes.invert_yaxis()
axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
plt.show()

# %% [markdown]
# *Figure: a horizontal bar for each of the runs A to D, divided into the shares of a step in which it waits for data,
# works, and has an idle card. A and D work nearly all of the time; B's card is idle most of the time; C waits
# for data for a large part of it.*
#
# A and D look alike here: both work all the time. That is the trap: **to be busy is not to be fast**. The table has
# what tells them apart.
#
# **Exercise 5.3** (medium, 8 minutes). Name the cause for each of the four runs:
# `answer = {"A": "...", "B": "...", "C": "...", "D": "..."}`, from `"loader"`, `"tiny batch"`, `"host"` and
# `"no mixed precision"`.

# %%
answer = ...
exercises.check("5.3", answer)

# %% [markdown]
# ### The doctor
#
# `scfm doctor RUN` in a terminal asks the same questions in the same order. Try the exercise before you go on. For the
# two made-up records:

# %%
from scfm_lib.analysis import doctor, doctor_text

print(doctor_text(doctor(folders["B"])), "\n")
print(doctor_text(doctor(folders["D"])))

# %% [markdown]
# For the two that were slow here (the figures are your machine's):

# %% tags=["nbval-ignore-output"]
for label in "AC":
    print(f"Run {label}:\n{doctor_text(doctor(folders[label]))}\n")

# %%
for label, folder in folders.items():
    print(label, [finding["cause"] for finding in doctor(folder)["findings"]])

# %% [markdown]
# Run B logs a row at every step, and its card is busy a quarter of the time: the host does not give it enough to do.
# The bytes that travel, as you worked out above, hardly matter.
#
# ### Does the cure work?
#
# The doctor asked for 32 cells in a batch in run A. How many cells a second before, how many after?

# %% tags=["nbval-ignore-output"]
cured = short("cured", {"training.batch_size": 32})
before, after = (doctor(one.dir)["figures"]["cells_per_second"] for one in (two_cells, cured))
print(f"{before:.0f} cells/s before, {after:.0f} after: {after / before:.1f} times as fast on this machine, now")

# %%
print("still a tiny batch:", "tiny batch" in [finding["cause"] for finding in doctor(cured.dir)["findings"]])

# %% [markdown]
# A larger batch has a price: an epoch has fewer steps, so you must choose the learning rate again, and it needs more
# memory (`scfm estimate --set training.batch_size=128` says by how much). Judge by the held-out loss after the same
# time, not by cells per second alone.
#
# For run C the store should go to a faster disk. A *worker* can help too: another process that prepares batches while
# the model computes. How much, at best?
#
# **Exercise 5.4** (easy, 5 minutes). Preparing a batch takes `data` seconds, computing on it takes `compute` seconds.
# Without a worker one comes after the other; with one worker they go on side by side all the time. Write `speedup(data,
# compute)`: how many times as fast steps get. Then `answer = speedup`.

# %%
answer = ...
exercises.check("5.4", answer)

# %% [markdown]
# ### A cause that no setting can mend: somebody else
#
# On a laptop a video call, on a cluster another user: other programs want the cores, too. Let us be that other user,
# with a program that does nothing, on each of our cores, while a run trains. (On a machine that you share, set `CROWD =
# False`.)

# %%
import subprocess

from scfm_lib.hardware import usable_cores

CROWD = True
busy = [sys.executable, "-c", "while True: pass"]
crowd = [subprocess.Popen(busy) for _ in range(usable_cores() if CROWD else 0)]
try:
    crowded = short("crowded", {})
finally:
    for program in crowd:
        program.kill()
quiet = short("quiet", {})

# %% tags=["nbval-ignore-output"]
for what, one in (("alone", quiet), ("in a crowd", crowded)):
    figures = summary(read_metrics(one.dir / "metrics.jsonl"))
    print(
        f"{what:10} {figures['cells_per_second']:5.0f} cells/s, {figures['cpu_percent'] / 100:.1f} of "
        f"{usable_cores()} cores used by the run"
    )

# %% [markdown]
# The same run, the same settings, and no wait for data. What gives it away is that it uses less of the cores than it
# did alone. Before you change anything, look who else is there (`htop`, Task Manager), and time things when the machine
# is quiet. The loss is unaffected:

# %%
print("the same losses:", np.array_equal(logged(quiet, "loss"), logged(crowded, "loss")))

# %% [markdown]
# Where do the doctor's thresholds come from? They stand in one place, at the top of `scfm_lib/analysis/diagnose.py`,
# each with its reason. Those for cards are rules of experience that were tried on made-up records only. If it misjudges
# a run of yours, send us its `metrics.jsonl`.

# %% [markdown]
# ## 7. Inside a step
#
# The doctor looks at a step from outside. Where does the time go *within* it? **`torch.profiler`** writes down every
# operation and how long it took, here on your machine, for MINIMAL's own step:

# %%
import torch
from torch.profiler import ProfilerActivity, profile

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's own messages

from scfm_lib.start import new_model
from scfm_lib.train import new_state, training_step

minimal = scfm.load_config("minimal")
minimal.model.n_genes = store.n_tokens
settings = minimal.training
model = new_model(minimal.model, seed=0, genes=len(store.symbols))
state = new_state(model, settings, torch.device("cpu"))
step_batches = [HalfCells(store, np.flatnonzero(~store.held_out), 32, 0, settings.token_share)[i] for i in range(8)]
for batch in step_batches[:3]:
    training_step(state, [batch], 0.001)  # the first steps allocate memory
print("parameters:", f"{sum(p.numel() for p in model.parameters()):,}")

# %% tags=["nbval-ignore-output"]
with profile(activities=[ProfilerActivity.CPU]) as profiled:
    for batch in step_batches[3:]:
        training_step(state, [batch], 0.001)
operations = pd.Series({row.key: row.self_cpu_time_total for row in profiled.key_averages()}) / 1000 / 5  # ms a step
for name, took in operations.nlargest(8).items():
    print(f"{name.removeprefix('aten::'):52} {took:6.1f} ms {took / operations.sum():5.0%}")

# %% [markdown]
# `mm` and `addmm` are matrix products, and they should be the largest part: they are the work itself. Whatever else
# ranks high is where time could be saved.
#
# ### Why is one operation fast and another slow?
#
# A processor does two things at a time: it computes, and it fetches numbers from memory. How many operations are done
# for each byte that is moved is an operation's **intensity**. Below some intensity, memory sets the pace, above it,
# arithmetic. That gives a *roofline*: a slope, then a flat roof. First the roof of your machine, from a large product
# and a large copy:


# %%
def fastest(function, *given):
    """The least seconds of five calls, after one that allocates."""
    function(*given)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        function(*given)
        took.append(time.perf_counter() - started)
    return min(took)


square, long = torch.randn(1536, 1536), torch.randn(16_000_000)
other = torch.empty_like(long)

# %% tags=["nbval-ignore-output"]
peak = 2 * 1536**3 / fastest(torch.mm, square, square)  # operations a second
bandwidth = 2 * 4 * len(long) / fastest(other.copy_, long)  # bytes a second, read and written
print(f"products: {peak / 1e9:.0f} GFLOP/s, memory: {bandwidth / 1e9:.0f} GB/s")
print(f"below {peak / bandwidth:.0f} operations a byte, memory sets the pace")

# %% [markdown]
# Now four operations of a step: the widening of tokens in the feed-forward part (a product), the same for two tokens
# alone, the GELU behind it, and a layer norm. (A GELU is counted as 10 operations for each number, a layer norm as 8.)

# %%
import torch.nn.functional as F

tokens, h, f = 64 * 80, 128, 512  # 64 half cells with 80 tokens each
few, many, wide, weight = torch.randn(2, h), torch.randn(tokens, h), torch.randn(tokens, f), torch.randn(h, f)
tried = {  # what is called, its operations, the bytes it reads and writes
    "product, 64 half cells": ((torch.mm, many, weight), 2 * tokens * h * f, 4 * (tokens * h + h * f + tokens * f)),
    "product, 2 tokens": ((torch.mm, few, weight), 2 * 2 * h * f, 4 * (2 * h + h * f + 2 * f)),
    "GELU": ((F.gelu, wide), 10 * tokens * f, 4 * 2 * tokens * f),
    "layer norm": ((F.layer_norm, many, (h,)), 8 * tokens * h, 4 * 2 * tokens * h),
}

# %% tags=["nbval-ignore-output"]
reached = {name: (work / size, work / fastest(*call)) for name, (call, work, size) in tried.items()}
for name, (intensity, speed) in reached.items():
    print(f"{name:29} {intensity:6.1f} operations a byte, {speed / 1e9:6.1f} GFLOP/s")

# %%
figure, axes = plt.subplots()
intensities = np.geomspace(0.3, 500, 50)
axes.plot(intensities, np.minimum(peak, bandwidth * intensities) / 1e9, color="black", label="the roof of this machine")
for (name, (intensity, speed)), colour in zip(reached.items(), COLOURS, strict=False):
    axes.plot(intensity, speed / 1e9, "o", color=colour, markersize=9, label=name)
axes.set(xscale="log", yscale="log", xlabel="operations for each byte", ylabel="GFLOP/s reached")
axes.set_title("Only a large product gets up to the flat roof", fontsize=11)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Figure: operations per second over operations per byte, both logarithmic. A black line rises and then is flat: the
# most that this machine can do. Four dots for four operations; the large product lies furthest right and highest.
# (The roof is measured, too: another shape may run a little faster than the one it was measured with. And small tensors
# stay in the processor's caches, which are faster than memory. So a dot may lie above the line.)*
#
# The same product for two tokens has a far lower intensity: it reads all the weights, and does little with them. A
# layer norm or a GELU cannot be better than the slope, however it is written: it does few operations for each number
# that it fetches. (A tiny batch, as in run A, has more than two tokens. What it pays for is the fixed price of starting
# each of some hundred operations.)
#
# ### What a barrier costs
#
# torch shares each operation that is large enough out to its threads, and at the end of each, all wait for the last
# one: a *barrier*. For a long operation that is nothing. For a short one it can be more than the work:

# %% tags=["nbval-ignore-output"]
threads = torch.get_num_threads()
for name, (call, _, _) in tried.items():
    took = {}
    for count in (1, threads):
        torch.set_num_threads(count)
        took[count] = fastest(*call)
    print(f"{name:29} {1e6 * took[1]:7.0f} us with one thread, {1e6 * took[threads]:7.0f} with {threads}")
torch.set_num_threads(threads)

# %% [markdown]
# And if another program holds one of the cores, every barrier waits for the thread that was put aside. The library
# therefore gives each thread a share of the *cells* of a step and lets it work through all operations alone, with one
# barrier for the step (`training.threads`; CONTRIBUTING.md has what that brought).

# %% [markdown]
# ## Key takeaways
#
# * A run writes down what it does; whoever watches reads `metrics.jsonl`: the dashboard, TensorBoard, the doctor.
# * Healthy: the loss falls and flattens, on held-out cells too, and the gradient norm settles. One high norm is an odd
# batch; NaN is the end.
# * GPU-Util says that the card does not wait, not that it is used well.
# * Slow training waits for the loader, starts too many small operations, has a host that cannot keep up with its card,
# or computes in fp32 what it could in half. Shares of time tell which; `scfm doctor RUN` says what to set.
# * Large matrix products reach what the processor can do; small operations wait for memory and for barriers.
# * Change one thing, measure again.
#
# ## Quiz

# %%
exercises.quiz("5.a")

# %%
# exercises.quiz("5.a", "a")  # your answer

# %%
exercises.quiz("5.b")

# %%
# exercises.quiz("5.b", "a")  # your answer

# %%
exercises.quiz("5.c")

# %%
# exercises.quiz("5.c", "a")  # your answer

# %% [markdown]
# ## What next
#
# A run that is healthy and fast may still have learned little. In [06 Evaluation](06_evaluation.ipynb) its vectors have
# to show what they are worth, beside PCA, scVI and the model before training.
