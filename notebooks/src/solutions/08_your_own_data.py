# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Your own cells: solutions
#
# Try them yourself first: `exercises.hint("8.1")` gives a nudge.

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
import math

import numpy as np
import pandas as pd

sys.path.insert(0, "..")  # exercises lie in the folder above; on Colab and Kaggle in this one
import exercises
import scfm_lib as scfm
from exercises.lesson_08 import patients

# %% [markdown]
# **Exercise 8.1** (medium, 8 minutes). Four data sets come to your surgery. Their counts are whole numbers, all of them. Give each a
# finding: `"healthy"`, `"cells in columns"`, `"normalised, then rounded"` or `"cells there twice"`.
#
# Look at each from four sides: its shape, the names of its columns, the sums of its rows, and how many rows differ.

# %%
looks = {}
for name, patient in patients().items():
    dense = patient.X.toarray()
    sums = dense.sum(axis=1)
    different = len(np.unique(dense, axis=0))
    looks[name] = [patient.n_obs, different, patient.var_names[0], int(sums.min()), int(sums.max())]
columns = ["rows", "different rows", "first column", "smallest sum", "largest sum"]
print(pd.DataFrame(looks, index=columns).T.to_string())

# %% [markdown]
# A has 80 rows too many. C's cells all have about 10,000 molecules, which no sequencer does. D's columns are cells.

# %%
answer = {
    "A": "cells there twice",
    "B": "healthy",
    "C": "normalised, then rounded",
    "D": "cells in columns",
}
exercises.check("8.1", answer)

# %% [markdown]
# **Exercise 8.2** (medium, 6 minutes). You have 1,200 cells of four donors, 300 each. One donor is kept apart as the
# final test, so 900 cells are left to train with. Make a config from the smallest preset that holds out a tenth of
# them, keeps batches of 32 cells, and takes about 1,500 steps. `answer = scfm.load_config(preset, {...})`

# %%
per_epoch = math.ceil(900 * 0.9 / 32)  # 26 steps
epochs = round(1_500 / per_epoch)
print(per_epoch, "steps an epoch, so", epochs, "epochs")

# %%
answer = scfm.load_config("minimal", {"data.validation_fraction": 0.1, "training.num_epochs": epochs})
exercises.check("8.2", answer)

# %% [markdown]
# **Exercise 8.3** (easy, 4 minutes). Why "over what chance would give"? Take batches of 900 and 100 cells that are
# perfectly mixed. What share of a cell's neighbours is of the other batch, on average over all cells?

# %%
answer = 0.9 * 0.1 + 0.1 * 0.9  # a cell is of the large batch and sees the small one, or the other way round
exercises.check("8.3", answer)

# %% [markdown]
# **Exercise 8.4** (medium, 8 minutes). Write `whole_donors(donors, number, seed)`: a mask `(cells,)` that is True for
# all cells of `number` donors, drawn at random by the seed. Then `answer = whole_donors`.


# %%
def whole_donors(donors, number, seed):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.unique(donors), number, replace=False)
    return np.isin(donors, chosen)


answer = whole_donors
exercises.check("8.4", answer)
