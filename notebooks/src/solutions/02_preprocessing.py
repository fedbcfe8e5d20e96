# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · From counts to tokens: solutions
#
# Try them yourself first: `exercises.hint("2.1")` gives a nudge.

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
# **Exercise 2.1** (easy, 5 minutes). How many of these cells would `min_genes: 200` remove? A cell with exactly 200
# genes stays.

# %%
import numpy as np

import scfm_lib as scfm

adata = scfm.find_data("bundled")
genes_seen = np.asarray((adata.X > 0).sum(axis=1)).ravel()
answer = int((genes_seen < 200).sum())
exercises.check("2.1", answer)

# %% [markdown]
# **Exercise 2.2** (medium, 5 minutes). A cell has 112 tokens, or 1,000 if zeros get one too. How many times more pairs of
# tokens does attention have to score for the 1,000?

# %%
answer = 1_000**2 / 112**2
exercises.check("2.2", answer)

# %% [markdown]
# **Exercise 2.3** (medium, 8 minutes). Write `split(counts, coins)`: from counts `(genes,)` of whole numbers and a numpy
# generator, two arrays `(genes,)` that add up to the counts, each *molecule* (not each gene) going to one of them by a fair
# coin. Then `answer = split`.


# %%
def split(counts, coins):
    half_a = coins.binomial(counts, 0.5)
    return half_a, counts - half_a


answer = split
exercises.check("2.3", answer)

# %% [markdown]
# **Exercise 2.4** (medium, 6 minutes). Two data sets have 14,000 and 18,000 genes, and 12,000 of them in common. Your
# vocabulary shall have 2,000 genes. From how many genes does the library choose, and what is the largest vocabulary it could
# make? Answer with two numbers: `answer = (choose_from, largest)`.

# %%
answer = (12_000, 12_000)
exercises.check("2.4", answer)
