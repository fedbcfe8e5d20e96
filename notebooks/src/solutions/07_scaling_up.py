# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · More cells, bigger models, more machines: solutions
#
# Try them yourself first: `exercises.hint("7.1")` gives a nudge.

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
# **Exercise 7.1** (medium, 5 minutes). A model takes 1.1 GB with batches of 16 cells and 1.7 GB with 32. What is the
# largest batch that fits in 7.2 GB?

# %%
per_cell = (1.7 - 1.1) / 16  # GB
always = 1.1 - 16 * per_cell  # GB: parameters, gradients, AdamW's states
answer = int((7.2 - always) / per_cell)
exercises.check("7.1", answer)

# %% [markdown]
# **Exercise 7.2** (medium, 6 minutes). Write `whole_gradient(parts, molecules)`: `parts` is a list of gradients per
# molecule, one for each process, and `molecules` a list of how many each had. Then `answer = whole_gradient`.


# %%
def whole_gradient(parts, molecules):
    weighted = sum(count * part for part, count in zip(parts, molecules, strict=True))
    return weighted / sum(molecules)


answer = whole_gradient
exercises.check("7.2", answer)

# %% [markdown]
# **Exercise 7.3** (easy, 3 minutes). Two cards are 1.6 times as fast as one, since exchanging gradients takes time. How
# many times as much as with one card does the whole run cost, if every card costs the same per hour?

# %%
answer = 2 / 1.6  # twice the price an hour, for 1 / 1.6 of the hours
exercises.check("7.3", answer)
