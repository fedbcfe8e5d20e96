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
# # 08 · Your own cells
#
# **You will be able to** bring your own cells here, from a file, a 10x folder, an upload or Drive; read every message
# that refuses them, and find the faults that no check can; train, embed and judge, with labels and without; decide
# what to do with few cells, another species or several batches; and write the methods paragraph of your paper.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | 2, and about 55 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. Notebooks 02 to 04 explain the model, 06 the scores |

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
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp

import exercises
import scfm_lib as scfm
from scfm_lib.reporting import BLUE, METHOD_COLOURS, ORANGE

mine = scfm.work_dir() / "08_your_own_data"  # all that this notebook writes
mine.mkdir(parents=True, exist_ok=True)
plt.rcParams.update({"figure.figsize": (7, 3), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. Where are your cells?
#
# **This line brings your cells; those below it say what is in them.** Left at `None`, the notebook makes an example
# from the 700 blood cells that come with scanpy. Else write where yours are:
#
# * a `.h5ad`: `"my_cells.h5ad"`,
# * a 10x file or folder: `"filtered_feature_bc_matrix.h5"`, or the folder that holds `matrix.mtx.gz`,
# * a name: `"pbmc3k"` downloads 2,638 blood cells,
# * on Kaggle, *Add Input* puts files below `"/kaggle/input/"`.
#
# A path that does not begin with `/` or `~` begins at this notebook's folder.

# %%
my_data = None

# %% [markdown]
# If `obs` of your data has such columns, write their names here: cell types (used to judge, never to train), batches
# (days, machines: whatever was handled together), donors or samples. A reference is another data set of the same tissue
# that has cell types (its column must have the same name); section 6 uses it. The layer is where your raw counts are,
# if it has a name of its own (section 2). Settings of the preset that you change, such as limits for cells, go into
# `my_settings`.

# %%
label_key, batch_key, split_key = "cell_type", None, None
my_reference, my_layer = None, None
my_settings = {}  # such as {"data.preprocessing.min_genes": 200, "training.num_epochs": 10}

# %% [markdown]
# On **Colab** your file is not there yet. Two ways: `upload` sends one file from your computer to the machine that
# Colab lends you, and the file is lost when that machine is taken back; Drive keeps it. Both ask you first, and
# elsewhere neither does anything. Are they cells of patients? Then ask your data protection officer before you upload
# anything.

# %%
upload, use_drive = False, False  # on Colab, set one of them to True
on_colab = bool(os.environ.get("COLAB_RELEASE_TAG"))
if on_colab and upload:
    from google.colab import files

    my_data = next(iter(files.upload()))  # opens a dialogue; the name of the file you chose
print("upload:", "on" if on_colab and upload else "off; on Colab it would ask for a .h5ad or .h5 file")

# %%
if on_colab and use_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    my_data = "/content/drive/MyDrive/my_cells.h5ad"  # where it lies in your Drive
print("Drive: ", "on" if on_colab and use_drive else "off; on Colab it would ask for leave, then read from your Drive")

# %% [markdown]
# ### What a 10x folder is
#
# Sequencing pipelines such as Cell Ranger leave a folder of three compressed text files. We make one, to see that
# there is nothing mysterious in it: names of genes, names of cells, and a table of counts with a **row for each
# gene**.

# %%
import gzip
from scipy.io import mmwrite

example = scfm.find_data("bundled")  # 700 cells, counts in X, genes in columns
tenx = mine / "tenx"
if not (tenx / "matrix.mtx.gz").exists():
    tenx.mkdir(exist_ok=True)
    genes = pd.DataFrame({"id": example.var_names, "symbol": example.var_names, "type": "Gene Expression"})
    genes.to_csv(tenx / "features.tsv.gz", sep="\t", header=False, index=False)
    pd.Series(example.obs_names).to_csv(tenx / "barcodes.tsv.gz", header=False, index=False)
    with gzip.open(tenx / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, example.X.T.astype(int))

# %%
for name in ("features.tsv.gz", "barcodes.tsv.gz", "matrix.mtx.gz"):
    with gzip.open(tenx / name, "rt") as file:
        lines = file.read().splitlines()
    print(f"{name:16} {len(lines):>7,} lines, the last: {lines[-1]!r}")

# %% [markdown]
# The last line of the matrix reads: gene 762 has 3 molecules in cell 700. Genes with none are not written at all. (In
# a real folder the first column of `features.tsv.gz` holds Ensembl ids; the bundled cells have symbols only, so we put
# them in both columns.)
#
# ### From a folder to a `.h5ad`, with labels
#
# A 10x folder knows nothing of cell types or donors. They usually come as a table with a row for each cell, and are
# joined **by the cells' names**, never by their order.

# %%
table = example.obs[["cell_type"]].sample(frac=1, random_state=0)  # as if from a .csv, in another order
cells = scfm.read_adata(tenx)  # reads and checks; counts in layers["counts"]
cells.obs = cells.obs.join(table)
print("cells without a label:", int(cells.obs["cell_type"].isna().sum()))
print("same labels as before the detour:", (cells.obs["cell_type"] == example.obs["cell_type"]).all())

# %%
h5ad = mine / "cells.h5ad"
if not h5ad.exists():
    cells.write_h5ad(h5ad)
data = scfm.find_data(my_data) if my_data else h5ad
called = Path(my_data or "example").stem  # names what is written
given = {"data.batch_key": batch_key, "data.layer": my_layer} | my_settings
print("from here on:", "your cells" if my_data else "the example")

# %% [markdown]
# ## 2. What is checked
#
# `open_cells` looks for the raw counts, in `layers` (`counts`, `raw_counts`, `raw`, `umi`), then `X`, then `raw`, and
# takes the first that *are* counts. It reads no more than it needs, so a file larger than your memory is no matter.

# %%
for source, layer in ((tenx, None), (data, my_layer)):
    found = scfm.open_cells(source, layer)
    print(f"{found.name}: {found.shape[0]:,} cells x {found.shape[1]:,} genes, counts in {found.where}")
    print("   cells:", ", ".join(found.obs.index[:2]), "  genes:", ", ".join(found.symbols[:4]))

# %% [markdown]
# **Read the last line each time you open new data.** Do the cells look like cells and the genes like genes? You will
# see below why.
#
# Most files are refused at the first try, so let us provoke some refusals. Each message has three parts: what was
# found, why it cannot be used, what to do.


# %%
def said(source):
    """What the library says to cells: reads them all, as training would."""
    try:
        opened = scfm.open_cells(source)
        for _ in opened.chunks():
            pass
        print(f"accepted: {opened.shape[0]} cells x {opened.shape[1]} genes, counts in {opened.where}")
    except scfm.InputError as error:
        print("refused:", error)


said(example)

# %% [markdown]
# **Normalised values.** The commonest case: somebody ran `normalize_total` and `log1p`, and kept nothing else.

# %%
import scanpy as sc

normalised = example.copy()
sc.pp.normalize_total(normalised, target_sum=1e4)
sc.pp.log1p(normalised)
said(normalised)

# %% [markdown]
# Why so strict? The model learns by splitting a cell's *molecules*, and there is no such thing as 0.3 molecules. If
# the counts are still in the file, in a layer with a name of its own, say which:

# %%
normalised.layers["from_sequencer"] = example.X
print(scfm.open_cells(normalised, layer="from_sequencer").where)

# %% [markdown]
# **Scaled values** have mean 0, so many of them are negative.

# %%
scaled = example.copy()
scaled.X = np.asarray(scaled.X - scaled.X.mean(axis=0))
said(scaled)

# %% [markdown]
# **No names of genes.** A matrix that lost its names on the way has columns 0, 1, 2, and so on. Training would run.
# But nobody could ever use the model on other cells, since nobody knows which gene is which.

# %%
said(ad.AnnData(example.X, obs=example.obs))

# %% [markdown]
# **The same gene twice, the same cell twice, an empty cell:**

# %%
twice = example.copy()
twice.var_names = ["RBP7", "RBP7", *example.var_names[2:]]
said(twice)
twice = example.copy()
twice.obs_names = [example.obs_names[1], *example.obs_names[1:]]
said(twice)

# %%
empty = example.copy()
empty.X = sp.diags([0, *[1] * 699], dtype=np.float32) @ example.X  # the first cell loses all
said(empty)

# %% [markdown]
# **Cells in columns.** Many tables of the field have a row for each gene. Read as they are, genes become cells:

# %%
sideways = example.T.copy()
said(sideways)
print("'genes':", ", ".join(sideways.var_names[:3]))

# %% [markdown]
# Barcodes in the place of genes are noticed. Cells that are called *cell 1* and *cell 2* would not be: the numbers
# alone cannot tell, since they are perfectly good counts. The remedy is `adata = adata.T.copy()`.
#
# What no check can be sure of, then:
#
# * **cells in columns**, or genes of another species;
# * values that were **normalised and then rounded**: whole numbers, but no counts. Real counts have many ones, and
# library sizes that differ between cells;
# * the **same cell under two names**, from files that overlap;
# * two cells in one droplet (*doublets*; section 3 looks for them) and molecules that float in from broken cells
# (*ambient RNA*; tools such as SoupX or CellBender estimate it from the empty droplets, which are in the raw output of
# the sequencing pipeline and no longer in your table).
#
# **Exercise 8.1** (medium, 8 minutes). Four data sets come in for a check-up. Their counts are whole numbers, all of
# them. Give each a finding: `"healthy"`, `"cells in columns"`, `"normalised, then rounded"` or `"cells there twice"`.

# %%
from exercises.lesson_08 import patients

ward = patients()  # "A", "B", "C", "D"
for name, patient in ward.items():
    print(name, patient.shape)

# %%
answer = ...  # {"A": "...", "B": "...", "C": "...", "D": "..."}
exercises.check("8.1", answer)

# %% [markdown]
# ## 3. Which cells are good enough?
#
# Three figures per cell tell most: how many molecules, how many genes, and which share of the molecules is
# mitochondrial (high in dying cells). The last one needs the `MT-` genes in the data.

# %%
found, checked = scfm.open_cells(data, my_layer), scfm.read_adata(data, my_layer)
counts = checked.layers["counts"]  # (cells, genes)
quality = pd.DataFrame({"molecules": np.asarray(counts.sum(axis=1)).ravel(), "genes": np.diff(counts.indptr)})
mito = np.array([gene.upper().startswith("MT-") for gene in found.symbols])
quality["mitochondrial %"] = 100 * np.asarray(counts[:, mito].sum(axis=1)).ravel() / quality["molecules"]
print(quality.describe().loc[["min", "50%", "max"]].round(1))
print("mitochondrial genes:", ", ".join(found.symbols[mito]) or "none")

# %%
config = scfm.load_config("minimal", given)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.scatter(quality["molecules"], quality["genes"], s=8, color=BLUE)
left.axhline(config.data.preprocessing.min_genes, color=ORANGE, label="min_genes: cells below are left out")
left.set(xlabel="molecules of a cell", ylabel="genes it expresses", ylim=0)
left.set_title("Poor cells lie at the bottom left", fontsize=11)
left.legend(frameon=False, loc="lower right")
right.scatter(quality["molecules"], quality["mitochondrial %"], s=8, color=BLUE)
right.set(xlabel="molecules of a cell", ylabel="mitochondrial, %", ylim=0)
right.set_title("Dying cells would lie at the top left", fontsize=11)
plt.show()

# %% [markdown]
# *Figure: a dot for each cell in both panels, molecules across. Left, genes expressed upwards: they rise with
# molecules, and a line at 100 genes marks the least a cell needs. Right, the mitochondrial share upwards. (In the
# example only one such gene is left, so the share stays below 1 %, and the bands are cells with 1, 2 or 3 of its
# molecules.)*
#
# The example was cleaned and cut to 765 genes by those who published it, so nothing falls out. In your own data the
# left cloud usually has a tail at the bottom left; put the line where the tail begins: write
# `{"data.preprocessing.min_genes": 200}` into `my_settings` (section 1), and likewise `max_mito_percent`. Write in the
# paper where you put them. (These limits keep cells out of training only; the vectors, clusters and markers below are of
# all cells in the file. To be rid of poor cells everywhere, write the others to a new file and begin with that.)
#
# ### Two cells in one droplet
#
# A doublet of two types looks like a cell of a mixed type; one of two cells of the same type cannot be told. *Scrublet*
# (Wolock et al. 2019) adds up random pairs of your cells and asks of each real cell how many of these made-up doublets
# are among its neighbours. scanpy has it; scores go from 0 to 1, and cells above a threshold are suspects. Run it on
# each loading of the chip alone, since cells of two loadings never shared a droplet. (The example's barcodes end in -1
# to -8: eight channels of a chip, of one donor. With so few cells we take them together. And we set the threshold:
# scrublet looks for a gap between two peaks of scores, which so few cells do not show.)

# %% tags=["nbval-ignore-output"]
suspects = ad.AnnData(counts, obs=checked.obs[[]], var=checked.var[[]])
sc.pp.scrublet(suspects, threshold=0.25, random_state=0, verbose=False)
doublet = suspects.obs["predicted_doublet"].to_numpy(dtype=bool)
print(f"{doublet.sum()} of {len(doublet)} cells are above 0.25")
print("the highest scores:", suspects.obs["doublet_score"].nlargest(3).round(2).tolist())

# %% [markdown]
# The library does not remove them for you: whether a cell of a mixed type is an artefact or a discovery is for you to
# say. To leave them out, write `checked[~doublet]` to a new file and give that to `prepare`.
#
# What `prepare` does: it leaves out the cells below your limits, chooses the genes, and reports in sentences what it
# kept. Held-out cells take no part in the choice.

# %%
import hashlib


def folder_for(kind, name, config):
    """A folder of its own for each file, version of it, and config: nothing old is taken for something new."""
    files = [Path(data), *Path(data).glob("*")] if isinstance(data, (str, Path)) else []
    saved = max((file.stat().st_mtime_ns for file in files), default=0)
    return mine / f"{kind}_{name}_{hashlib.sha256(f'{data}{saved}{config}'.encode()).hexdigest()[:6]}"


# %%
quick = {"model.n_genes": 300, "training.num_epochs": 8}  # done in seconds; few cells want more epochs
config = scfm.load_config("minimal", ({} if my_data else quick) | given)
folder = folder_for("store", called, config)
store = scfm.open_store(folder) if folder.exists() else scfm.prepare([data], config, folder)
print("\n".join(store.report))

# %% [markdown]
# **Read this report to the end.** "FEWER TOKENS", "cells left out" or a low share of matched genes are where
# surprises begin.
#
# ## 4. How long will it take?
#
# Before you train, ask. A few real steps on your own cells are timed, and the rest follows.

# %% tags=["nbval-ignore-output"]
full = scfm.load_config("minimal", given)  # with all its tokens
guess = scfm.estimate(full, data=data, seconds=2)
low, typical, high = (guess["seconds"][key] / 60 for key in ("low", "typical", "high"))
print(f"{guess['parameters']:,} parameters, {full.training.num_epochs} epochs of {guess['cells']:,} cells")
print(f"on this machine {low:.1f} to {high:.1f} minutes, typically {typical:.1f}")
print(f"memory: {guess['ram_bytes']['total'] / 1e6:.0f} MB of {guess['memory_available'] / 1e9:.0f} GB")

# %% [markdown]
# Another computer, or more time than you have? `scfm.estimate(full, data=data, gpu="T4")` answers for a card,
# `scfm estimate --deadline 30min --data my.h5ad` finds what fits.
#
# **Exercise 8.2** (medium, 6 minutes). You have 1,200 cells of four donors, 300 each. One donor is kept apart as the
# final test, so 900 cells are left to train with. Start from the smallest preset and change `data.validation_fraction`,
# so that a tenth of the 900 is held out, and `training.num_epochs`, so that training takes about 1,500 steps of 32
# cells. `answer = scfm.load_config(preset, {...})`

# %%
answer = ...
exercises.check("8.2", answer)

# %% [markdown]
# ## 5. Train, then embed
#
# `resume="auto"` makes this cell safe to run again: it goes on where it stopped, also after Colab has thrown you out.
# It keeps to the data and config with which the run began; other cells or settings get another folder.


# %%
def trained(name, config, source):
    """The run of that name: loaded if it is there, else trained."""
    where = folder_for("run", name, config)
    progress = bool(my_data)  # a bar, and a line now and then: your cells may take long
    return scfm.train(config, source, run_dir=where, resume="auto", verbose=progress, tensorboard=False)


run = trained(called, config, folder)  # from the store that we prepared
print("finished:", run.finished, "  steps:", run.step)

# %% [markdown]
# Each cell now gets its vector. The counts, layers and labels stay as they are; `obsm["X_scfm"]` comes on top, where
# scanpy and its relatives look for it.

# %%
checked.obsm["X_scfm"] = scfm.embed(run.model, checked)
print(checked.obsm["X_scfm"].shape, checked.obsm["X_scfm"].dtype)

# %%
out = mine / f"{called}_with_vectors.h5ad"
checked.write_h5ad(out)
print("written:", out.name)

# %% [markdown]
# In a terminal the last three steps are `scfm train --data_path my.h5ad --run-dir runs/mine` and
# `scfm embed runs/mine my.h5ad --out with_vectors.h5ad`.
#
# scanpy goes on from there: a graph of neighbours, clusters (Leiden), and a map. (A map is to look at, not to measure:
# notebook 06.)

# %% tags=["nbval-ignore-output"]
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sc.pp.neighbors(checked, use_rep="X_scfm", random_state=0)
    sc.tl.leiden(checked, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    sc.tl.umap(checked, random_state=0)

cells_of = {"cells": 1, "suspected doublets": doublet.astype(int), "median molecules": quality["molecules"].to_numpy()}
clusters = pd.DataFrame(cells_of, index=checked.obs_names).groupby(checked.obs["leiden"], observed=True)
how = {"cells": "sum", "suspected doublets": "sum", "median molecules": "median"}
print(clusters.agg(how).astype(int).rename_axis("cluster").to_string())

# %%
figure, axes = plt.subplots(figsize=(5.5, 4.5))
for (cluster, here), colour in zip(checked.obs.groupby("leiden", observed=True), plt.cm.tab20.colors * 9, strict=False):
    places = checked.obsm["X_umap"][checked.obs_names.get_indexer(here.index)]
    axes.scatter(*places.T, s=6, color=colour)
    axes.annotate(cluster, np.median(places, axis=0), fontsize=11, weight="bold")
axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
axes.set_title("Clusters of the model's vectors", fontsize=11)
plt.show()

# %% [markdown]
# *Figure: a UMAP of all cells by the model's vectors, coloured by cluster, with each cluster's number in its middle.*

# %% [markdown]
# ## 6. Was it worth it?
#
# ### With labels
#
# Is there a column with cell types (`label_key`, section 1)? The model has not seen it, and never will.

# %%
labelled = label_key in checked.obs
print("columns of obs:", ", ".join(checked.obs.columns) or "none")
print("labels found:", labelled)

# %% [markdown]
# The same probes judge the model, PCA of all genes and of 1,000 and 3,000 where there are more, raw expression, and the
# model before training (its random and its PCA start): see notebook 06. A dash means that a method has no
# such score; methods that were not run stand below the table.
# `scvi=True` adds scVI where it is installed, and takes a minute more.

# %%
keys = {"label_key": label_key, "batch_key": batch_key, "split_key": split_key}
say = print if my_data else lambda line: None
result = scfm.evaluate(run.checkpoint, data, **keys, layer=my_layer, scvi=False, say=say) if labelled else None

# %% tags=["nbval-ignore-output"]
from scfm_lib.reporting import table_text, verdict

if labelled:
    print("All cells\n" + table_text(result["embeddings"]))
    print("\nHeld-out cells\n" + table_text(result["held_out"]))
    print("\nHeld-out cells: " + verdict(result["held_out"]))
    unseen = result["cells"]["held_out"]
    print(f"{unseen:,} held-out cells with a label: one more that is right adds {1 / unseen:.3f} to the share that is")

# %% tags=["nbval-ignore-output"]
if labelled and unseen:
    ranges = {method: found for method, found in result["held_out_ranges"].items() if found}  # 5 to 95 % of draws
    baselines = [found for method, found in ranges.items() if method not in ("untrained", "start", "trained")]
    for score, (low, high) in ranges["trained"].items():
        best = max((found[score] for found in baselines if found.get(score)), key=sum)  # by the middle of its range
        apart = "apart" if low > best[1] or high < best[0] else "they overlap"
        print(f"{score:18} trained {low:.2f} to {high:.2f}, the best baseline {best[0]:.2f} to {best[1]:.2f}: {apart}")

# %% [markdown]
# How to read it: the **held-out** table counts, since those cells touched nothing. And the sentence below it counts
# which score is higher, be it by a single cell: where ranges overlap, name no winner. (The example got 8 short epochs
# on a few hundred cells, which is a demonstration.) Whichever outcome you get: report it.
#
# The table, its figures, the config and the versions go into one HTML file, `report/report.html` in the run's folder,
# which you can send to a colleague.

# %%
from IPython.display import Image, display

if labelled:
    report = scfm.write_report(result, run.checkpoint, run.dir / "report")
    print("written:", ", ".join(sorted(file.name for file in report.parent.iterdir())))

# %%
if labelled and (report.parent / "held_out.png").exists():
    display(Image(report.parent / "held_out.png", width=700))

# %% [markdown]
# *Figure: the scores of the held-out cells. A line for each score from 0 to 1, and on it a dot with its range for each
# method: PCA, raw expression, the untrained model, the model at its start, and the trained model. Where bars overlap
# widely, name no winner; the table above has the numbers.*
#
# ### Without labels
#
# No labels is the usual state of new data. Less can be said then, but not nothing.
#
# **First: does it predict cells that it never saw?** The loss on held-out cells needs no label. Beside it stands the
# same model before training, from random numbers and from the PCA start, which also knows how common each gene is.

# %% tags=["nbval-ignore-output"]
import torch

from scfm_lib.checkpoint import load_checkpoint
from scfm_lib.evaluate import models
from scfm_lib.train import new_state, validation_loss

stages = models(load_checkpoint(run.checkpoint), run.config)
losses = {}
for name, model in stages.items():
    losses[name] = validation_loss(new_state(model, config.training, torch.device("cpu")), store)
for name, loss in losses.items():
    print(f"{name:10} {loss:.2f} nats per molecule")

# %% [markdown]
# A lower loss means that half a cell tells more about its other half. (With random weights a model may be worse than
# one that thinks all genes equally likely: it is sure of something, and wrong.) It does not say that the vectors
# separate what *you* care about.
#
# **Second: does a cell look like itself?** Toss a coin for each molecule of a held-out cell: two halves, two samples
# of the same cell. Embed both. Is a half's nearest neighbour, among all other halves, its own? Here PCA can compete.

# %%
from scfm_lib.data import held_out

out_of_it = held_out(checked.obs_names, config.data.validation_fraction, config.data.split_seed)
some = np.flatnonzero(out_of_it)[:500]  # enough to see
whole = counts[some].toarray().astype(int)
coins = np.random.default_rng(0).binomial(whole, 0.5)
halves = [ad.AnnData(sp.csr_matrix(half.astype(np.float32)), var=checked.var) for half in (coins, whole - coins)]
print(len(whole), "held-out cells, twice, with", int(coins.sum()), "and", int((whole - coins).sum()), "molecules")

# %%
from scfm_lib.baselines import BASELINES

learned_from = ad.AnnData(counts[~out_of_it], var=checked.var)
everyone = ad.concat([learned_from, *halves], index_unique="-", keys=["whole", "a", "b"])
everyone.layers["counts"] = sp.csr_matrix(everyone.X)
known = np.arange(everyone.n_obs) < learned_from.n_obs  # PCA learns from these alone
vectors = {"PCA": BASELINES["pca"](everyone, known, config)[~known]}
for name in ("untrained", "start", "trained"):
    vectors[f"model, {name}"] = scfm.embed(stages[name], everyone[~known])

# %% tags=["nbval-ignore-output"]
from sklearn.neighbors import NearestNeighbors


def finds_itself(pair):
    """The share of cells whose half A has its own half B as nearest of all halves B: (2 n, d) -> 0 to 1."""
    half_a, half_b = np.split(pair, 2)
    nearest = NearestNeighbors(n_neighbors=1).fit(half_b).kneighbors(half_a, return_distance=False)[:, 0]
    return (nearest == np.arange(len(nearest))).mean()


itself = {name: finds_itself(pair) for name, pair in vectors.items()}
for name, share in itself.items():
    print(f"{name:17} {share:.2f}    (by chance {1 / len(whole):.3f})")

# %% [markdown]
# Higher is better, but not all of it is biology: a deep cell has two deep halves, and that alone helps to find each
# other. So compare the methods, not with 1. PCA may well lead here: it keeps whatever varies, and the model only what
# helps to predict. If the trained model is not above its own start, training has not yet paid.
#
# **Third: markers.** For each cluster of section 5, the genes that it expresses more than all other cells (Wilcoxon's
# test). Are they those of a cell type that you know?

# %% tags=["nbval-ignore-output"]
shown = ad.AnnData(counts.copy(), obs=checked.obs[["leiden"]], var=pd.DataFrame(index=found.symbols))
sc.pp.normalize_total(shown, target_sum=1e4)
sc.pp.log1p(shown)
large = [cluster for cluster, cells in checked.obs["leiden"].value_counts().items() if cells >= 10]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sc.tl.rank_genes_groups(shown, "leiden", groups=large, method="wilcoxon", n_genes=6)
for cluster in large:
    print(f"cluster {cluster}:", ", ".join(shown.uns["rank_genes_groups"]["names"][cluster]))

# %% [markdown]
# For blood, a key: *FCER1A* and *CLEC10A* with *LYZ* speak for dendritic cells, *S100A8* and *S100A9* for CD14+
# monocytes, *FCGR3A* and *LST1* for CD16+ ones, *CD79A* and *MS4A1* for B cells, *MZB1* and *TNFRSF17* for plasma
# cells, *NKG7* and *GNLY* for NK and cytotoxic T cells, *CD3D* and *CD3E* for T cells, *IRF8* and *CPVL* for other
# dendritic cells (large ones with many molecules, no doublets), *NPM1* and *HNRNPA1* without any of these for immature
# cells such as CD34+ ones. (What the labels call CD14+ monocytes are mostly CD16+ ones in the example.) One gene is
# never enough. In the example, one cluster has *NKG7* and *GNLY*, genes of NK cells, together with *LST1* and *CFD*,
# genes of monocytes. Doublets of the two? Look at its line in section 5: do its cells have more molecules than others,
# and does scrublet suspect many of them? If neither, the figures do not support it, but they do not exclude it either:
# leave such a cluster without a name.
#
# A name that you give to a cluster in this way is a label of your own making. Do not then score the model by it: it
# would be its own referee.
#
# **Fourth: somebody else's labels.** If labelled cells of the same tissue exist, the model can carry their names over,
# and say "unknown" where a cell fits no type of the reference. How well does it fit? A fifth of the reference is kept
# apart and named in the same way, and the `confidence` is the share of those cells that fit their type no better than
# this one does. (A cell fits well if a logistic regression on the reference's vectors is sure of its type, and if
# cells of that type lie near, for that type.) Below a tenth it says "unknown", so of cells whose type is in the
# reference about a tenth is given up. Types with fewer than 10 cells in the reference are left out of it. To see what
# that is worth we hide something: the reference is half of the example's cells without the B cells, the query the
# other half with them.

# %% tags=["nbval-ignore-output"]
from scfm_lib.analysis import annotate

if my_data:
    reference, query = my_reference, checked
else:
    half = np.arange(example.n_obs) % 2 == 0
    reference, query = example[half & (example.obs["cell_type"] != "CD19+ B")].copy(), example[~half].copy()
named = None if reference is None else annotate(run.model, reference, query, label_key=label_key)
print("no reference was given" if named is None else named[["label", "confidence"]].head(3).round(2).to_string())

# %% tags=["nbval-ignore-output"]
if named is not None:
    groups = query.obs[label_key].astype(str).replace("nan", "no label") if labelled else query.obs["leiden"]
    of_group = {"cells": groups.value_counts(), "unknown": (named["label"] == "unknown").groupby(groups).mean()}
    for column, what in (("label", "commonest name"), ("likeliest", "commonest likeliest type")):
        of_group[what] = named[column].groupby(groups).agg(lambda names: names.value_counts().index[0])
    print(pd.DataFrame(of_group).round(2).to_string())

# %% [markdown]
# In the example, look at the line of the B cells, which the reference does not have: how many came back as "unknown"?
# The cells of known types that were given up are the price of that, and of one threshold (`confidence` below 0.1).
# They are some 16 % here, not 10: confidence was measured on only some fifty cells, and the tenth is one of all types
# together. Do not take the B cells as a promise: the model has met them in training, without their name, and a type
# that it has never met is found less often. Nor is a name a promise. The reference has too few memory cells to learn
# that type; the commonest answer for them is T Reg, another kind of helper T cell. A type close to one that is there
# is what to check by hand. `scfm annotate` does this from the terminal, and shows a PCA's names beside it.
#
# Are most of *your* cells unknown? Then the two data sets differ in more than their types: another chemistry, another
# depth, another tissue. All cells then lie a little away from the reference's, and the confidence notices. The last
# column has the name that each group would have got in any case; take it as a guess to be checked by markers.

# %% [markdown]
# ## 7. Several batches
#
# Cells of two days, two machines or two hospitals differ for reasons that have nothing to do with biology. Two things
# are wanted, and they pull apart: batches should **mix**, cell types should **stay apart**. Mixing everything with
# everything would be perfect in the first sense, and useless.
#
# We simulate cells, so that we know the truth: 4 types, 2 batches, and each batch shifts all genes.

# %%
two = scfm.simulate(400, 150, n_types=4, n_batches=2, batch_effect=0.5, depth=800, seed=8)
print(pd.crosstab(two.obs["cell_type"], two.obs["batch"]))

# %%
both = scfm.load_config("minimal", {"model.n_genes": 150, "training.num_epochs": 8})
both.data.preprocessing.min_genes = 20  # the simulated cells have few genes
batch_run = trained("two_batches", both, two)
judged = scfm.evaluate(batch_run.checkpoint, two, batch_key="batch", scvi=False)

# %% [markdown]
# `ilisi` looks at the 90 or so cells around each cell, the nearest counting most: how many batches are there,
# effectively? Scaled so that 0 is two islands and 1 is perfectly mixed batches of equal size (it is the one that
# scib-metrics made common).
#
# Once more, and this time the model is told the batch, with `data.batch_key`. Its start then leaves out the directions
# in which the batches differ, and only the *decoder* learns what each batch does: to every gene, and to kinds of
# cells. So the vector need not say it. The encoder is told nothing, and can read cells of a batch it has never seen.

# %%
told = both.model_copy(deep=True)
told.data.batch_key = "batch"
told_run = trained("two_batches_told", told, two)
told_judged = scfm.evaluate(told_run.checkpoint, two, batch_key="batch", scvi=False)

# %% tags=["nbval-ignore-output"]
rows = {name: row for name, row in judged["embeddings"].items() if row and name != "raw"}
rows["told the batch"] = told_judged["embeddings"]["trained"]
shown = pd.DataFrame(rows).T
print(shown[["knn_f1", "silhouette", "ilisi"]].astype(float).round(2))

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.2))
for (name, row), mark in zip(shown.iterrows(), "osD^v", strict=True):
    axes.plot(row["ilisi"], row["knn_f1"], mark, color=METHOD_COLOURS.get(name, "black"), markersize=11, label=name)
axes.set(xlabel="iLISI (1: batches mixed)", ylabel="types told apart (kNN F1)", xlim=(-0.03, 1.03), ylim=(0, 1.05))
axes.set_title("Wanted: the upper right corner", fontsize=11)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Figure: one mark for each method; across, how well batches mix; upwards, how well cell types are told apart. The
# upper right corner would be perfect. The table above has the numbers.*
#
# Mixing is worth nothing if the cell types are lost too, so look at both axes. Without the key nothing in training asks
# the model to mix; on the contrary, knowing the batch helps it to guess a cell's other half. With the key it works
# here, since these batches were simulated to differ in just the way that the decoder can describe. Real ones mix less:
# so **measure it on your own cells**.
#
# What to do, then, with batches of your own:
#
# * Give them as several files, `scfm prepare day1.h5ad day2.h5ad --out both`: the genes are then chosen within each
# batch, so that a gene that only tells the days apart is not favoured.
# * If they do not mix enough, use a method that is *told* the batch: this model with `data.batch_key` as above, scVI
# with `batch_key`, or Harmony on the vectors.
# * If every batch has only one condition (all ill on Monday, all healthy on Tuesday), no method can tell them apart.
# That is decided before sequencing.
#
# **Exercise 8.3** (easy, 4 minutes). How mixed can batches of unequal size look at best? Take batches of 900 and 100
# cells that are perfectly mixed. What share of a cell's neighbours is of the other batch, on average over all cells?

# %%
answer = ...
exercises.check("8.3", answer)

# %% [markdown]
# ## 8. Few cells
#
# How few cells are too few? We take 150 of the example's, three times. The model and a PCA learn from them alone, and a
# probe from their labels; all are judged on the cells that are left.

# %%
from scfm_lib.scores import held_out_scores

kinds = example.obs["cell_type"].astype(str).to_numpy()
example.layers["counts"] = example.X
few_config = scfm.load_config("minimal", {"model.n_genes": 300, "training.num_epochs": 16})
rows = []
for seed in range(3):
    few = np.isin(np.arange(example.n_obs), np.random.default_rng(seed).permutation(example.n_obs)[:150])
    few_run = trained(f"few_{seed}", few_config, example[few].copy())
    made = {"PCA": BASELINES["pca"](example, few, few_config), "model": scfm.embed(few_run.model, example)}
    rows += [(name, seed, held_out_scores(v, kinds, few, ~few).values) for name, v in made.items()]

# %% tags=["nbval-ignore-output"]
keys = ["knn_f1", "knn_cosine_f1", "logistic_f1"]
few_scores = pd.DataFrame([{"method": name, "seed": seed} | scores for name, seed, scores in rows])
print(few_scores.groupby("method")[keys].agg(["mean", "min", "max"]).round(2).to_string())

# %% [markdown]
# Compare the differences with the ranges of the three draws before you name a winner. Neither is good: with 150 cells,
# some types have only a few to learn from, and no method can invent them.
#
# So with a few hundred cells try both, and take what is better on cells that neither has seen. Notebook 06 measures how
# scores grow with the number of cells. A way to more cells is to train on a larger data set of the same tissue and
# species, and to embed yours with that model, or to go on from it: `scfm train --init MODEL --data_path mine.h5ad`.
#
# ## 9. Another species
#
# The model knows genes by name, and nothing of species. Trained from scratch, it takes **your data's own genes** for
# its vocabulary, so mouse, fish or fly are all the same to it. Nothing human is carried over.
#
# But a model trained on human cells cannot read a mouse. Mouse symbols are spelled `Cd3d` where human ones are `CD3D`.
# As a stand-in we respell the example's genes. (The counts stay human. Real mouse cells would differ in more than
# spelling.)

# %%
mouse = example.copy()
mouse.var_names = mouse.var_names.str.capitalize()
said(mouse)  # fine to train on
try:
    scfm.embed(run.model, mouse)
except scfm.InputError as error:
    print("refused by the model of human cells:", error)

# %% [markdown]
# Whether genes match is decided by name, case included. A few match all the same: human names with small letters or
# none, which our respelling left alone. At least a tenth of the model's genes must be found.

# %%
from scfm_lib.data import match_genes

upper = mouse.copy()
upper.var_names = upper.var_names.str.upper()
for name, there in (("mouse spelling", mouse), ("upper case", upper)):
    columns = match_genes(run.model.symbols, run.model.ensembl, scfm.open_cells(there))
    print(f"{name:15} {(columns >= 0).sum():>4} of {len(columns)} genes matched")

# %% [markdown]
# In upper case nearly all match, and `embed` would run without a word. **That is a trap**: the same spelling is no
# proof of the same gene, and the same gene need not be expressed alike. If you must cross species, map one-to-one
# *orthologs* with a table from Ensembl BioMart, say how many genes were lost, and show that known types agree. Better:
# train on the mouse.
#
# ## 10. Whole donors
#
# The library holds out *cells*. That answers: "does it work on more cells of these donors?" A paper mostly claims
# something else: "does it work on new donors?" The two can be far apart. Here are six donors with **no disease at
# all**; we call three of them ill. Each donor differs a little from the others, as people do.

# %%
people = scfm.simulate(600, 200, n_types=1, n_batches=6, batch_effect=0.3, depth=800, seed=1)
donors = people.obs["batch"].astype(str).str.replace("batch", "donor").to_numpy()
ill = np.isin(donors, ["donor 0", "donor 1", "donor 2"])
values = np.log1p(people.X.toarray() * (1e4 / np.asarray(people.X.sum(axis=1)).reshape(-1, 1)))
print(values.shape, "  cells called ill:", int(ill.sum()))

# %%
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline

probe = make_pipeline(PCA(20, random_state=0), LogisticRegression(max_iter=1000))
by_cell = cross_val_score(probe, values, ill, cv=KFold(6, shuffle=True, random_state=0)).mean()
by_donor = cross_val_score(probe, values, ill, cv=LeaveOneGroupOut(), groups=donors).mean()
print(f"'ill' recognised, random cells held out: {by_cell:.2f};  whole donors held out: {by_donor:.2f}")

# %% [markdown]
# With random cells held out, a disease that does not exist is recognised: the probe has learned to recognise *people*,
# and each person has one label. With whole donors held out nothing is left; it even falls below a coin's 0.5, since
# each time the remaining donors lean to the wrong label. The difference is called **leakage**, and published papers
# contain it.
#
# With this library: take the donors out *before* you train, and evaluate on them alone.
#
# ```python
# test = whole_donors(adata.obs["donor"].to_numpy(), number=2, seed=0)
# run = scfm.train(config, adata[~test].copy())
# vectors = scfm.embed(run.model, adata[test].copy())   # donors that touched nothing
# ```
#
# **Exercise 8.4** (medium, 8 minutes). Write `whole_donors(donors, number, seed)`: a mask `(cells,)` that is True for
# all cells of `number` donors, drawn at random by the seed. Then `answer = whole_donors`.

# %%
answer = ...
exercises.check("8.4", answer)

# %% [markdown]
# ## 11. What to report
#
# Somebody else must be able to do it again and to judge it. All of that lies in the run: write it from there, not
# from memory.

# %%
import textwrap

from scfm_lib.reporting import METHOD_NAMES
from scfm_lib.versions import versions


def data_sentence(config, store):
    """Which cells and genes."""
    v, held = versions(), int(store.held_out.sum())
    return (
        f"We trained scfm-workbook {v['scfm-workbook']} (Python {v['python']}, PyTorch {v['torch']}, scanpy "
        f"{v['scanpy']}) from scratch on {len(store) - held:,} cells; {held:,} (drawn by a hash of the "
        f"cell's name, {config.data.validation_fraction:.0%} on average, split seed {config.data.split_seed}) were held "
        f"out of the choice of genes, the start and training. Cells with fewer than "
        f"{config.data.preprocessing.min_genes} genes were left out [HOW MANY: see the store's report; and what you did "
        f"about doublets and dying cells, your batch key and settings]. "
        f"The model read and predicted {len(store.symbols):,} genes; the {store.n_tokens:,} most variable were tokens. "
    )


# %%
def model_sentence(run):
    """Which model, and how it was trained."""
    m, t = run.config.model, run.config.training
    parameters = sum(weights.numel() for weights in run.model.parameters())
    return (
        f"The model had {parameters:,} parameters ({m.num_layers} layers of width {m.hidden_dim}, "
        f"{m.num_heads} heads) and took {run.step:,} steps of {t.batch_size * t.gradient_accumulation_steps} cells "
        f"({t.num_epochs} epochs, AdamW, learning rate {t.learning_rate}, seed {t.seed}). No labels were used. "
    )


# %%
def scores_sentence(result):
    """How good, beside what, and how that was judged; nothing if it was not."""
    if result is None:
        return ""
    listed = []
    for score in ("knn_cosine_f1", "logistic_f1"):
        rows = {METHOD_NAMES[name]: row.get(score) for name, row in result["held_out"].items() if row}
        listed.append(", ".join(f"{name} {found:.3f}" for name, found in rows.items() if found))
    return (
        f"Macro-F1 on held-out cells, with every method fitted, without labels, and every probe trained on the other "
        f"cells: of the 15 nearest neighbours by cosine, {listed[0]}; of a logistic regression, {listed[1]}. "
    )


# %% tags=["nbval-ignore-output"]
text = data_sentence(run.config, store) + model_sentence(run) + scores_sentence(result)
print(textwrap.fill(text + "One seed.", 100))

# %% [markdown]
# The last two words, "One seed", admit this notebook's weak point. For a paper train at least three times
# (`--set training.seed=1`, `2`, ...; the split has its own seed, so the same cells stay held out), and give mean and
# standard deviation. Add what the run cannot know: where the cells come from, their accession number, how they were
# dissociated and sequenced, who labelled them and from what.
#
# ### The checklist
#
# *Before training*
#
# - [ ] Raw counts, genes in columns; I looked at the names of cells and genes.
# - [ ] No cell is there twice; doublets and ambient RNA are dealt with, or it is said that they are not.
# - [ ] I know what the labels were made from. (Clusters of a PCA favour PCA.)
# - [ ] I read the report of `prepare` to the end, and asked `estimate` for the time.
# - [ ] If I will claim something of new donors, whole donors are kept apart.
#
# *After training*
#
# - [ ] The loss on held-out cells has fallen, and has not begun to rise again.
# - [ ] The table stands beside PCA, scVI and the model before training, losses included.
# - [ ] Batches: mixing *and* types, never one alone.
# - [ ] I did not choose the seed, the epochs or the score by the table that I report.
#
# *In the paper*
#
# - [ ] Cells, genes, what was left out and why; held-out cells or donors, and by which rule.
# - [ ] Config, versions, seeds, with mean and spread; hardware and hours.
# - [ ] Scores of the baselines from the same cells; a sentence on where the model loses.
# - [ ] Data accession, code, and the checkpoint (notebook 07 shows how to share it).

# %% [markdown]
# ## Key takeaways
#
# * One line brings your cells here; the library finds the counts, and explains why when it finds none.
# * Whole numbers are not always counts, and rows are not always cells: look at names, sums and repeated rows.
# * Without labels you may speak of held-out loss and of cells that look like themselves, not of cell types.
# * PCA takes a second. Try it first, and report it always.
# * A model learns batches too, unless something tells it not to. Measure mixing and types together.
# * Held-out cells of known donors are not new donors.
#
# ## Quiz

# %%
exercises.quiz("8.a")

# %%
# exercises.quiz("8.a", "a")  # your answer

# %%
exercises.quiz("8.b")

# %%
# exercises.quiz("8.b", "a")  # your answer

# %%
exercises.quiz("8.c")

# %%
# exercises.quiz("8.c", "a")  # your answer

# %%
exercises.quiz("8.d")

# %%
# exercises.quiz("8.d", "a")  # your answer

# %% [markdown]
# ## What next
#
# That was the last lesson. From here on your own cells are the teacher. Go back to
# [06 Evaluation](06_evaluation.ipynb) when you doubt a score, to [07 Scaling up](07_scaling_up.ipynb) when your data
# outgrow this computer, and to [01 Hardware check](01_hardware_check.ipynb) on the next one. `CONTRIBUTING.md` has the
# measurements behind each decision, for those who want to change one.
