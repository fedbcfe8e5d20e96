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
# # 06 · How good is it, honestly? Solutions
#
# Try them yourself first: `exercises.hint("6.1")` gives a nudge.

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
import numpy as np

sys.path.insert(0, "..")  # exercises lie in the folder above; on Colab and Kaggle in this one
import exercises

# %% [markdown]
# **Exercise 6.1** (medium, 5 minutes). A colleague wants to claim: "works for cells of donors never seen". These were
# the steps. Which of them let the answer leak? `answer` is a list of their numbers.
#
# 1. Cells that express fewer than 100 genes are left out.
# 2. The 1,000 most variable genes are chosen, by all cells.
# 3. Each cell's counts are divided by its total.
# 4. A PCA is fitted on the training cells and applied to all.
# 5. The probe's number of neighbours is 5, 15 or 50: whichever scores best on the held-out cells.
# 6. A fifth of the cells, drawn at random from every donor, is held out.

# %%
answer = [2, 5, 6]
exercises.check("6.1", answer)

# %% [markdown]
# **Exercise 6.2** (medium, 8 minutes). Write `macro_f1(truth, guess)` for two arrays of labels, without `sklearn`: the F1
# of each type in `truth`, $2TP / (2TP + FP + FN)$, then their plain mean. Then `answer = macro_f1`.


# %%
def macro_f1(truth, guess):
    scores = []
    for kind in np.unique(truth):
        tp = ((guess == kind) & (truth == kind)).sum()
        fp = ((guess == kind) & (truth != kind)).sum()
        fn = ((guess != kind) & (truth == kind)).sum()
        scores.append(2 * tp / (2 * tp + fp + fn))
    return np.mean(scores)


answer = macro_f1
exercises.check("6.2", answer)

# %% [markdown]
# **Exercise 6.3** (medium, 6 minutes). With four seeds, and the same split for both methods, ours scored .79, .75, .82
# and .77, PCA .77, .74, .78 and .75 (made-up numbers). `answer = (mean difference, its standard error)`, ours less PCA.

# %%
ours, pca = np.array([0.79, 0.75, 0.82, 0.77]), np.array([0.77, 0.74, 0.78, 0.75])
difference = ours - pca
answer = (difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5)
exercises.check("6.3", answer)

# %% [markdown]
# **Exercise 6.4** (easy, 4 minutes). One number of these sentences goes into `answer`: which may stand in a paper? (The
# figures are from the README: one seed, a fifth of the cells held out.)
#
# 1. "Our foundation model beats PCA."
# 2. "On unseen donors our model reaches a kNN F1 of .79, above PCA's .75."
# 3. "On held-out cells of the Zheng set (20 epochs, one seed) kNN F1 is .786 (PCA .750) and logistic F1 .809 (.800); on
# PBMC3k .864 (.857) and .906, below PCA's .913. The design was developed looking at the Zheng set."
# 4. "On held-out cells of the Zheng set kNN F1 is .786, scVI .781 and PCA .750."

# %%
answer = 3
exercises.check("6.4", answer)
