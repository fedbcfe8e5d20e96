# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Watching a run: solutions
#
# Try them yourself first: `exercises.hint("5.1")` gives a nudge.

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
# **Exercise 5.1** (medium, 10 minutes). Write `alarm(losses, norms)` for two lists with a number per logged row. It
# returns the number (from 0) of the first row that should wake you, else None. A row should, if its loss or norm is
# not finite (NaN or infinite), or if its loss is more than 0.5 above the lowest loss of the rows before. Then
# `answer = alarm`.

# %%
import math


def alarm(losses, norms):
    lowest = math.inf
    for row, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not math.isfinite(loss) or not math.isfinite(norm) or loss > lowest + 0.5:
            return row
        lowest = min(lowest, loss)
    return None


answer = alarm
exercises.check("5.1", answer)

# %% [markdown]
# **Exercise 5.2** (easy, 5 minutes). A batch has 64 half cells, the longest with 150 genes, both in the halves that
# are read and in those that are predicted. Leave out the cells' numbers. Say that the bus moves 12 GB (12e9 bytes) a
# second. How many microseconds does the batch take to the card?

# %%
entries = 64 * 150
size = entries * (8 + 4) + entries * (8 + 4)  # bytes: what is read, what is predicted
answer = size / 12e9 * 1e6
exercises.check("5.2", answer)

# %% [markdown]
# **Exercise 5.3** (medium, 8 minutes). Name the cause for each of the four runs:
# `answer = {"A": "...", "B": "...", "C": "...", "D": "..."}`, from `"loader"`, `"tiny batch"`, `"transfers"` and
# `"no mixed precision"`.

# %%
answer = {"A": "tiny batch", "B": "transfers", "C": "loader", "D": "no mixed precision"}
exercises.check("5.3", answer)

# %% [markdown]
# **Exercise 5.4** (easy, 5 minutes). To prepare a batch takes `data` seconds, to compute on it `compute` seconds. At
# first one comes after the other; with one worker they go on side by side all the time. Write `speedup(data, compute)`: how many
# times as fast steps get. Then `answer = speedup`.


# %%
def speedup(data, compute):
    return (data + compute) / max(data, compute)


answer = speedup
exercises.check("5.4", answer)
