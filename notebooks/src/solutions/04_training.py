# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Training: solutions
#
# Try them yourself first: `exercises.hint("4.1")` gives a nudge.

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
sys.path.insert(0, "..")  # exercises lie in the folder above; on Colab and Kaggle in this one
import exercises

# %% [markdown]
# **Exercise 4.1** (easy, 3 minutes). You learn from 5,000 cells for 10 epochs, with `batch_size: 16` and
# `gradient_accumulation_steps: 2` (two forward passes for one optimizer step). How many optimizer steps does the run
# take?

# %%
import math

answer = math.ceil(5_000 / (16 * 2)) * 10
exercises.check("4.1", answer)

# %% [markdown]
# **Exercise 4.2** (medium, 8 minutes). Write `clip(gradients, max_norm)`: it takes a list of tensors and returns a
# list of new ones, scaled down together so that the norm over *all* of them is at most `max_norm`. Then `answer =
# clip`.


# %%
def clip(gradients, max_norm):
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    factor = min(1.0, max_norm / float(norm))
    return [g * factor for g in gradients]


answer = clip
exercises.check("4.2", answer)

# %% [markdown]
# **Exercise 4.3** (hard, 12 minutes). A batch too large for memory can be cut into parts whose gradients add up. Write
# `step_in_parts(model, optimizer, parts, max_norm)`: one optimizer step for a list of batches, equal to the step of
# the whole, that returns the loss in nats per molecule as a number. Each part has `.genes`, `.values`,
# `.target_genes`, `.target_counts` and `.molecules`. Then `answer = step_in_parts`.

# %%
import torch

from scfm_lib.model import prediction_loss


def step_in_parts(model, optimizer, parts, max_norm):
    molecules, total = sum(part.molecules for part in parts), 0.0
    for part in parts:
        logits = model(part.genes, part.values)
        loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total


answer = step_in_parts
exercises.check("4.3", answer)
