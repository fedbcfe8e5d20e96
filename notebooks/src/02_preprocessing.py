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
# # 02 · From counts to tokens
#
# **You will be able to** read a table of counts, tell a poor cell from a good one, undo differences in sequencing
# depth, choose genes that tell cells apart, and say what exactly the model is fed: which genes, as tokens or in a bag,
# with which values, in which two halves.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 1, and about 45 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone |

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
import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc

import exercises
import scfm_lib as scfm
from scfm_lib.reporting import BLUE, ORANGE

plt.rcParams.update({"figure.figsize": (7, 3.2), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. A table of counts
#
# A single-cell experiment catches some of the messenger RNA molecules of each cell, and counts them by gene. The field
# keeps the result in an `AnnData`: `X` is the table (cells, genes), `obs` says what is known of each cell, `var` of
# each gene. These 700 blood cells come with scanpy; `scfm.find_data("pbmc3k")` would download 2,638 others.

# %%
adata = scfm.find_data("bundled")
print(adata.shape, "(cells, genes)")
print(adata.obs["cell_type"].value_counts().head(4).to_string())

# %%
corner = adata[:4, ["CD74", "NKG7", "S100A8", "MS4A1", "CST3"]].to_df().astype(int)
print(corner.rename_axis(index=None, columns=None).to_string())

# %% [markdown]
# Whole numbers: one for each molecule that was caught. (These were restored from published logarithms by scanpy's own
# formula, and only 765 informative genes of some 20,000 are left, so that the file is small.)
#
# The cell types look exact, but nobody sorted these cells. Each got the name of the cells whose mean expression it
# resembles most, by correlation: of cells that had been sorted by antibodies, and for "Dendritic" of a cluster that was
# found among them. Keep that in mind until section 10.
#
# How many of the entries are zero?

# %%
zeros = 1 - adata.X.nnz / (adata.n_obs * adata.n_vars)
print(f"{zeros:.0%} of the entries are 0")
print(f"PBMC3k with all its 13,714 genes: {1 - 849 / 13714:.0%} (849 genes are seen in a cell on average)")

# %%
types = adata.obs["cell_type"].astype(str).to_numpy()
some = np.argsort(types, kind="stable")[::4]  # every fourth cell, sorted by type
figure, axes = plt.subplots(figsize=(7, 4.4))
axes.spy(adata.X[some][:, ::3], markersize=0.5, color=BLUE, aspect="auto")
rows = {kind: np.flatnonzero(types[some] == kind) for kind in np.unique(types)}
for places in rows.values():
    axes.axhline(places.max() + 0.5, color=ORANGE, linewidth=0.6)
named = {kind: places.mean() for kind, places in rows.items() if len(places) > 5}  # rarer ones have no room
axes.set_yticks(list(named.values()), list(named), fontsize=8)
axes.set(xlabel="genes (every third)", ylabel="cells (every fourth)", xticks=[])
axes.set_title("Each dot is a gene that was seen in a cell; most places are empty", fontsize=11)
plt.show()

# %% [markdown]
# *Figure: a table drawn as dots, cells as rows sorted by type, with a line between types, and genes as columns. Some
# columns are filled for all cells, others only in the rows of one type: its own genes.*
#
# A zero does not say that the cell lacks the gene's RNA: most molecules are never caught. And a gene that is not listed
# was not seen, so zeros need not be stored. The library keeps the other entries.

# %% [markdown]
# ## 2. Poor cells
#
# The **library size** of a cell is all its molecules together (here, of the 765 genes that are left). Cells are caught
# in droplets, one each if all goes well; droplets without a whole cell have few molecules of few genes.

# %%
adata.obs["library_size"] = np.asarray(adata.X.sum(axis=1)).ravel()
adata.obs["genes_seen"] = np.asarray((adata.X > 0).sum(axis=1)).ravel()
print(adata.obs[["library_size", "genes_seen"]].median().to_string())

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
left.hist(adata.obs["library_size"], bins=40, color=BLUE)
left.set(xlabel="library size (molecules)", ylabel="cells", title="How deep was each cell read?")
right.hist(adata.obs["genes_seen"], bins=40, color=BLUE)
right.axvline(200, color=ORANGE, linestyle="--", label="at least 200?")
right.set(xlabel="genes seen", title="How many genes were seen?")
right.legend(frameon=False)
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: two histograms. Library sizes lie between about 350 and 1,650 molecules; genes seen between 180 and 410, with
# a dashed line at 200.*
#
# Dying cells lose what is in the cytoplasm and keep their mitochondria, so much of what is left comes from
# mitochondrial genes. There are 13 that code for protein; their symbols begin with `MT-`.

# %%
mitochondrial = [gene for gene in adata.var_names if gene.startswith("MT-")]
share = np.asarray(adata[:, mitochondrial].X.sum(axis=1)).ravel() / adata.obs["library_size"]
print("in this small table:", ", ".join(mitochondrial), f"- at most {share.max():.1%} of a cell's molecules")

# %% [markdown]
# One gene of thirteen says little. In PBMC3k all are there, and this is what they look like (counted once and written
# down here, since that file is not bundled):

# %%
cells_per_bin = [7, 11, 48, 101, 195, 272, 349, 323, 321, 275, 189, 166, 113, 86, 63, 39, 29, 21, 12, 18]
figure, axes = plt.subplots()
axes.bar(np.arange(0, 5, 0.25), cells_per_bin, width=0.25, align="edge", color=BLUE, edgecolor="white")
axes.axvline(5, color=ORANGE, linestyle="--")
axes.text(5.05, 200, "cut at 5 %,\nas in the\ntutorials", color=ORANGE)
axes.set(xlabel="mitochondrial genes' share of a cell's molecules (%)", ylabel="cells", xlim=(0, 6))
axes.set_title("PBMC3k: 2,638 cells that passed")
plt.show()

# %% [markdown]
# *Figure: a histogram of the mitochondrial share in PBMC3k. It rises to a peak near 1.75 %, falls slowly, and ends
# abruptly at a dashed line at 5 %.*
#
# Where to cut is a choice, and it is yours. Cut too high, and small healthy cells (platelets, naive T cells) go first.
# The settings are `min_genes` (100 by default), `min_cells` for genes (3), and `max_mito_percent` (off by default; 5
# suits blood, heart muscle would lose healthy cells by it). The library reports what each cut removed, as you will see
# in section 6.
#
# **Exercise 2.1** (easy, 5 minutes). How many of these cells would `min_genes: 200` remove? A cell with exactly 200
# genes stays.

# %%
answer = ...
exercises.check("2.1", answer)

# %% [markdown]
# ## 3. Undo the depth
#
# If a cell was merely read twice as deep as another, all its counts are twice as high, and nothing biological has
# happened. So divide by the library size, and multiply by 10,000 for numbers that are easy to read: **counts per
# 10,000**. Then the logarithm, because going from 1 to 2 should count as much as going from 100 to 200; `log1p(x)` is
# ln(1 + x), so that 0 stays 0. (Not all of the depth is gone: a cell that was read less deeply keeps more zeros. And
# some cells, such as plasma cells, really have more RNA.)

# %%
counts = adata.X.toarray()
library_size = counts.sum(axis=1, keepdims=True)  # (cells, 1)
by_hand = np.log1p(counts / library_size * 1e4)  # (cells, genes)
print(by_hand.shape, f"from {by_hand.min():.2f} to {by_hand.max():.2f}")

# %% [markdown]
# The same by scanpy, and by the library (its function takes only the genes that a cell has; here we give it all):

# %%
from scfm_lib.dataset import log_normalise

normalised = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
assert np.allclose(by_hand, normalised.X.toarray(), atol=1e-4)
assert np.allclose(by_hand, log_normalise(counts, library_size.ravel()), atol=1e-4)
print("by hand, by scanpy, by the library: the same")

# %% [markdown]
# ## 4. Genes that tell cells apart
#
# Some genes are expressed in every cell at the same level; they teach nothing about cell types. A **highly variable**
# gene varies more than its mean would explain: counting alone makes a gene with mean $m$ vary with variance $m$
# (Poisson). The method `seurat_v3` fits a curve to all genes' variances over their means, and ranks genes by how far
# they lie above it.

# %%
from scfm_lib.data import held_out

learn = ~held_out(adata.obs_names, fraction=0.2, seed=0)  # (cells,) the cells to learn from: section 7
ranked = sc.pp.highly_variable_genes(adata[learn], flavor="seurat_v3", n_top_genes=300, inplace=False)
mean, variance = counts[learn].mean(axis=0), counts[learn].var(axis=0)
chosen = ranked["highly_variable"].to_numpy()
print(int(chosen.sum()), "of", len(chosen), "genes, chosen on", int(learn.sum()), "cells")
print("the first five:", ", ".join(ranked.sort_values("highly_variable_rank").index[:5]))

# %%
from skmisc.loess import loess

seen = np.flatnonzero(mean > 0)
trend = loess(np.log10(mean[seen]), np.log10(variance[seen]), span=0.3, degree=2)  # as scanpy fits it
trend.fit()
fitted = 10**trend.outputs.fitted_values
print(f"{int((variance[seen] > fitted).sum())} of {len(seen)} genes lie above the fitted trend")

# %%
figure, axes = plt.subplots(figsize=(7, 4))
for which, colour, label in ((~chosen, "0.6", "not chosen"), (chosen, BLUE, "300 highly variable")):
    axes.scatter(mean[which], variance[which], s=9, color=colour, label=label, alpha=0.7)
line = np.geomspace(mean.min(), mean.max(), 50)
axes.plot(line, line, "--", color=ORANGE, label="counting alone: variance = mean")
order = np.argsort(mean[seen])
axes.plot(mean[seen][order], fitted[order], color="black", label="the fitted trend")
axes.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance")
axes.set_title("The chosen genes vary most for their mean")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: a dot for each gene, variance over mean, both logarithmic. All follow a rising band, and a black line, the
# fitted trend, runs through it. Most chosen genes lie above that line; 300 were asked for and fewer lie above it, so
# some just below are chosen too. The dashed line is where variance equals mean.*
#
# (Three of the first five, *MZB1*, *IGJ* and *IGLL5*, are genes of plasma cells: few cells, very different from the
# rest.)
#
# These genes become the model's **tokens**: it looks at each of them, and compares each with every other (section 5).
# No gene is lost, though: the **vocabulary** is every gene that was seen in at least `min_cells` of the cells to learn
# from. The model reads all of them, added up into one *bag*, and predicts all of them. Tokens come first in the
# vocabulary, as gene number 0, 1, 2 and so on, the others behind.
#
# Held-out cells take no part in these choices, here and in the library: choosing genes is learning from the data, too.

# %% [markdown]
# ## 5. Why only the genes that are there?
#
# A **token** is what a transformer reads at a time: here, one gene of one cell with its value. We could give every gene
# a token, zeros too. But in attention every token looks at every other, so the work for those looks
# grows with the square of their number, and everything else in proportion to it.

# %%
from scfm_lib.config import ModelConfig
from scfm_lib.estimator import training_flops
import torch

minimal = ModelConfig(n_genes=1000)
flops = {tokens: float(training_flops(minimal, torch.tensor([tokens]))) for tokens in (100, 300, 1000)}
for tokens, operations in flops.items():
    times = operations / flops[100]
    print(f"{tokens:>5} tokens: {operations / 1e6:>6.0f} million operations for a cell, {times:.0f} x")

# %%
tokens = np.arange(50, 1001, 50)
work = [float(training_flops(minimal, torch.tensor([int(t)]))) / 1e6 for t in tokens]
figure, axes = plt.subplots()
axes.plot(tokens, work, "o-", color=BLUE)
straight = work[0] + (work[1] - work[0]) / 50 * (tokens - 50)  # as it begins
axes.plot(tokens, straight, "--", color="0.5", label="if it went on as it begins")
axes.axvline(112, color=ORANGE, linestyle=":", label="genes seen in a PBMC3k cell, of 1,000")
axes.set(xlabel="tokens of a cell", ylabel="million operations", title="The work grows faster than the tokens")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *Figure: operations to train on one cell over its number of tokens, a curve that bends upwards above the dashed
# straight line. A dotted line marks 112, the genes that are seen in a typical cell.*
#
# So reading only what is there is about a tenth of the work for such data, and nothing is lost by leaving out the
# zeros: that a gene is *not* in the list says as much as a token with a zero.
#
# It is also why tokens are for the most variable genes alone. A cell of PBMC3k shows 849 genes, of which 112 are among
# the 1,000 most variable. The bag costs next to nothing: it adds up, and no gene in it looks at another.
#
# **Exercise 2.2** (medium, 5 minutes). A cell has 112 tokens, or 1,000 if zeros get one too. How many times more pairs
# of tokens does attention have to score for the 1,000?

# %%
answer = ...
exercises.check("2.2", answer)

# %% [markdown]
# ## 6. The store
#
# `scfm.prepare` does all of this, reads files in chunks, and writes a **store**: the counts as three arrays in CSR form
# (`genes`: which genes, `counts`: how many molecules, `indptr`: where each cell begins), and seven small ones about the
# cells, such as their names, which are held out, and how many molecules they have. The operating system reads from them
# what is asked for, so memory does not grow with the data.

# %%
strict = scfm.load_config("minimal", {"model.n_genes": 300, "data.preprocessing.min_genes": 200})
folder = scfm.work_dir() / "02_preprocessing" / "store"
store = scfm.open_store(folder) if folder.exists() else scfm.prepare([scfm.find_data("bundled")], strict, folder)
print("\n".join(store.report))

# %%
for file in sorted(folder.glob("*.bin")):
    print(f"{file.name:17} {file.stat().st_size:>8,} bytes")
print(f"as a full table of 4-byte numbers: {len(store) * len(store.symbols) * 4:,} bytes")

# %% [markdown]
# A cell is a stretch of these arrays:

# %%
genes, molecules, lengths = store.rows(np.array([0]))
print(f"{lengths[0]} genes were seen in cell 0, {int((genes < store.n_tokens).sum())} of them tokens, which come first")
print(", ".join(f"{store.symbols[g]} {m}" for g, m in list(zip(genes, molecules, strict=True))[:8]), "...")

# %% [markdown]
# ## 7. Held out, by a hash
#
# One cell in five is *held out*: it takes no part in choosing genes, in the start, or in training, so that it can judge
# the model later. Which ones? A **hash** turns the cell's name and a seed into a number that looks random but is always
# the same; a cell is held out if that falls below 20 % of the range.

# %%
names = adata.obs_names
first = held_out(names, fraction=0.2, seed=0)
grown = held_out(names.append(names + "-new"), fraction=0.2, seed=0)  # twice as many cells, later
same = bool((grown[: len(names)] == first).all())
print(f"{first.mean():.0%} held out; the same cells after the data have grown: {same}")

# %% [markdown]
# A random draw would change as soon as a cell is added; a hash does not. Nobody has to pass lists around, and training
# and evaluation cannot disagree.

# %% [markdown]
# ## 8. Two halves of every cell
#
# What is there to learn, without labels? For each molecule a coin is tossed: half A or half B. The model reads A and
# has to predict B. The coin has no memory, so A and B share nothing but the cell they come from: the noise of counting
# cannot be copied from one to the other (this is *count splitting*, Neufeld et al. 2022). Strictly that holds if a
# cell's counts are Poisson numbers around what the cell expresses. What varies beyond that, such as a burst of one gene
# in this very cell, is in both halves, and the model may learn it. That is fine: it is a real state of the cell.

# %%
coins = np.random.default_rng(0)
half_a = coins.binomial(molecules.astype(int), 0.5)
half_b = molecules.astype(int) - half_a
print("molecules:", int(molecules.sum()), "=", int(half_a.sum()), "+", int(half_b.sum()))
in_a, in_b = half_a > 0, half_b > 0
print("genes seen in A:", int(in_a.sum()), " in B:", int(in_b.sum()), " in both:", int((in_a & in_b).sum()))

# %% [markdown]
# The library's coins have one property more: how they fall follows from the seed, the epoch, the cell and the gene, by
# a hash as above, and from nothing that happened before. So a run that was stopped goes on exactly as it would have. In
# spirit, for a gene with so many molecules:


# %%
def coins_of(seed, epoch, cell, gene, count):
    """How many of a gene's molecules go to half A, the same whenever it is asked."""
    return int(np.random.default_rng([seed, epoch, cell, gene]).binomial(count, 0.5))


print("epoch 0:", [coins_of(0, 0, 7, gene, 6) for gene in range(10)])
print("again:  ", [coins_of(0, 0, 7, gene, 6) for gene in range(10)])
print("epoch 1:", [coins_of(0, 1, 7, gene, 6) for gene in range(10)])

# %% [markdown]
# (The library mixes the four numbers in compiled code and counts the ones among as many random bits as there are
# molecules: `scfm_lib/data/coins.py`, 90 lines.)
#
# `HalfCells` does that for every cell, again in each epoch. It puts cells with a similar number of tokens into one
# batch, because all rows are filled up to the longest (*padding*, value 0), and padded tokens cost time. We ask for 32
# cells a step, which make 64 halves. An epoch's cells are dealt out evenly, so a batch may have one or two cells fewer.

# %%
from scfm_lib.dataset import HalfCells

batches = HalfCells(store, np.flatnonzero(~store.held_out), cells_per_step=32, seed=0)
batch = batches[0]
print("genes", tuple(batch.genes.shape), "values", tuple(batch.values.shape), "(half cells, longest half)")
print(f"tokens {batch.tokens.min()} to {batch.tokens.max()} of a half cell, in the first columns")
print("targets", tuple(batch.target_genes.shape), "molecules to predict:", int(batch.molecules))

# %% [markdown]
# **Exercise 2.3** (medium, 8 minutes). Write `split(counts, coins)`: from counts `(genes,)` of whole numbers and a
# numpy generator, two arrays `(genes,)` that add up to the counts, each *molecule* (not each gene) going to one of them
# by a fair coin. Then `answer = split`.

# %%
answer = ...
exercises.check("2.3", answer)

# %% [markdown]
# What does sorting by tokens save? Compare with batches of cells in random order:


# %%
def padding(groups):
    """The share of places without a token, if each group of half cells is filled up to its longest."""
    return 1 - sum(g.sum() for g in groups) / sum(len(g) * g.max() for g in groups)


sorted_groups = [batches[i].tokens for i in range(len(batches))]  # how many tokens each half cell has
shuffled = np.random.default_rng(0).permutation(np.concatenate(sorted_groups))
groups = np.array_split(shuffled, len(batches))
print(f"padding: {padding(groups):.0%} in random order, {padding(sorted_groups):.0%} sorted by tokens")

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
widest = int(shuffled.max())
drawn = {"A batch in random order": groups[0], "A batch sorted by tokens": batch.tokens}
for panel, (title, rows) in zip(panels, drawn.items(), strict=True):
    filled = np.arange(widest)[None, :] < np.sort(rows)[:, None]
    inside = np.arange(widest)[None, :] < rows.max()
    panel.imshow(filled + 0.0 + inside, aspect="auto", cmap="cividis", vmin=0, vmax=2, interpolation="nearest")
    panel.set(xlabel="place among the tokens", title=title)
panels[0].set_ylabel("half cells")
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: two batches as bands. Yellow is a token, grey is padding that is computed for nothing, dark is outside the
# batch. In random order there is a lot of padding. Sorted by the number of the cells' tokens there is less; the rest
# comes from the coin tosses.*
#
# And the model need not see every token in every step. While it trains, a row shows no more tokens than a share of what
# whole cells of the batch have, half of them in MINIMAL (`token_share`). Which ones is drawn anew each time; the other
# genes are still read, in the bag (notebook 03), and all are predicted. Since a half cell has some two thirds of its
# cell's tokens, most of them are shown. That was measured to give vectors nearly as good in two thirds of the time
# (`CONTRIBUTING.md`). It also leaves hardly any padding, since nearly every row shows the same number of tokens.

# %%
some = HalfCells(store, np.flatnonzero(~store.held_out), cells_per_step=32, seed=0, token_share=0.5)
parts = [some[i].tokens for i in range(len(some))]
print(f"tokens: {sum(map(sum, parts)) / sum(map(sum, sorted_groups)):.0%}, padding: {padding(parts):.0%}")

# %% [markdown]
# ## 9. Several data sets, genes aligned
#
# Another laboratory has other genes in another order. `prepare` takes several data sets and keeps the genes that all of
# them have, found by Ensembl id or by symbol, whichever matches more. Here we cut the cells in two and shuffle and drop
# genes in the second part.

# %%
config = scfm.load_config("minimal", {"model.n_genes": 300})  # every cell stays
other = adata[350:].copy()
order = np.random.default_rng(0).permutation(other.n_vars)[:700]  # 700 of 765 genes, shuffled
both_folder = scfm.work_dir() / "02_preprocessing" / "both"
both = (
    scfm.open_store(both_folder)
    if both_folder.exists()
    else scfm.prepare([adata[:350].copy(), other[:, order].copy()], config, both_folder)
)
print(both.report[2])
print(len(both), "cells,", len(both.symbols), "genes,", both.n_tokens, "of them tokens;", end=" ")
print(np.bincount(both.dataset), "cells of each data set")

# %% [markdown]
# The name of a gene may differ between laboratories, too: one writes symbols, another Ensembl ids, with a version
# behind a dot. It is enough that the first table knows both. (These ids are made up, in the form of real ones.)

# %%
ids = np.array([f"ENSG{number:011d}" for number in range(adata.n_vars)])
knows_both, only_ids = adata[:350].copy(), other[:, order].copy()
knows_both.var["ensembl_id"] = ids
only_ids.var_names = [f"{gene}.7" for gene in ids[order]]
third_folder = scfm.work_dir() / "02_preprocessing" / "by_ids"
by_ids = (
    scfm.open_store(third_folder)
    if third_folder.exists()
    else scfm.prepare([knows_both, only_ids], config, third_folder)
)
print("first names of the second table:", ", ".join(only_ids.var_names[:3]))
print(by_ids.report[2])
print("the same store as by symbols:", bool((np.array(by_ids.symbols) == np.array(both.symbols)).all()))

# %% [markdown]
# Check it: the counts of a cell must be the same as in the table we began with.

# %%
row = 400  # a cell of the second data set
genes, molecules, _ = both.rows(np.array([row]))
expected = adata[row, both.symbols[genes]].X.toarray().ravel()
print("all counts of cell", row, "are right:", bool((expected == molecules).all()))

# %% [markdown]
# **Exercise 2.4** (medium, 6 minutes). Two data sets have 14,000 and 18,000 genes, and 12,000 of them in common, all
# seen in many cells. You ask for 2,000 tokens. From how many genes does the library choose them, and how many genes
# does the model read and predict? Answer with two numbers: `answer = (choose_from, read)`.

# %%
answer = ...
exercises.check("2.4", answer)

# %% [markdown]
# ## 10. Where do labels come from?
#
# The model uses no labels, but later we shall judge it by them. Can we? CD14 marks the *classical* monocytes of blood.
# The *non-classical* ones have little of it, and much of FCGR3A (CD16) instead; S100A8 is strong in the classical ones.
#
# **Exercise 2.5** (easy, 5 minutes). Of the cells that are called "CD14+ Monocyte", what share (0 to 1) has at least
# one molecule of FCGR3A?

# %%
answer = ...
exercises.check("2.5", answer)

# %% [markdown]
# So a label is a claim that somebody made in some way. Here a correlation called these cells CD14+ monocytes, and most
# of them are CD16+ ones. No model can agree with these labels and with biology at once; such a score says how well
# vectors agree with the labels. Notebook 06 judges on cells that were sorted by antibodies before they were sequenced.
#
# ## Key takeaways
#
# * Counts are whole molecules, and most entries are 0 because most molecules are never caught.
# * Divide by the library size, take log1p: most of the difference in depth is gone, and cells can be compared.
# * Every gene seen in a few cells is read and predicted; the most variable ones are tokens.
# * Both lists are learned, so they are made from training cells alone.
# * A token is a gene that was seen, with its value; zeros need no token.
# * Each molecule goes to one of two halves by a coin. Predicting one half from the other cannot be done by copying
# noise.
# * Ask where labels come from before you judge anything by them.
#
# ## Quiz

# %%
exercises.quiz("2.a")

# %%
# exercises.quiz("2.a", "a")  # your answer

# %%
exercises.quiz("2.b")

# %%
# exercises.quiz("2.b", "a")  # your answer

# %%
exercises.quiz("2.c")

# %%
# exercises.quiz("2.c", "a")  # your answer

# %% [markdown]
# ## What next
#
# The input is ready. In [03 · Building the model](03_model_build.ipynb) you build what reads it.
