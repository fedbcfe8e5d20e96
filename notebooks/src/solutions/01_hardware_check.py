# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · What can this machine train?: solutions
#
# Try them yourself first: `exercises.hint("1.1")` gives a nudge.

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
# **Exercise 1.1** (easy, 3 minutes). DEFAULT has 3,780,752 parameters. How many megabytes (1 MB = 1,000,000 bytes) do
# parameters, gradients and optimizer take together in training?

# %%
answer = 3_780_752 * 4 * 4 / 1e6
exercises.check("1.1", answer)

# %% [markdown]
# **Exercise 1.2** (medium, 6 minutes). With batches of 32 cells DEFAULT needs the activations printed above, and 500 MB
# that torch takes on a card, and 16 bytes for each of its 3,780,752 parameters. Assume activations grow in proportion
# to the cells in a batch. What is the largest batch (a whole number of cells) that fits in 4 GB (4,000,000,000 bytes)?

# %%
activations = 644_749_568 / 32  # bytes for one cell of a batch
left = 4_000_000_000 - 500_000_000 - 16 * 3_780_752
answer = int(left // activations)
exercises.check("1.2", answer)

# %% [markdown]
# **Exercise 1.3** (easy, 3 minutes). Your gradients are about 1e-6, and you train on a T4. Which precision will the
# library take: "fp32", "bf16" or "fp16"? And what keeps those gradients from becoming 0? Answer with two words:
# `answer = ("precision", "what keeps them")`.

# %%
answer = ("fp16", "scaler")
exercises.check("1.3", answer)

# %% [markdown]
# **Exercise 1.4** (medium, 5 minutes). Your laptop trains 300 cells a second. 20 % of your 25,000 cells are held out, so
# nothing is learned from them. How many hours do 50 epochs take?

# %%
answer = 25_000 * 0.8 * 50 / 300 / 3600
exercises.check("1.4", answer)
