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
# # 03 · Building the model
#
# **You will be able to** build the whole model yourself, from genes and their values to a cell's vector and the genes
# it expects; compute attention by hand and say what each number means; load the library's weights into your own class
# and get the same output; count every parameter; and say how three published models differ from this one.
#
# | | |
# |---|---|
# | minutes on a 2-core CPU | under 1, and about 65 for you |
# | minutes on a T4 | not measured |
# | needs | nothing: it runs alone. What a token is and why is told in more detail in notebook 02 |

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

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import exercises
import scfm_lib as scfm
from scfm_lib.reporting import BLUE, ORANGE

torch.set_grad_enabled(False)  # here we only compute forwards; notebook 04 learns
plt.rcParams.update({"figure.figsize": (7, 3.4), "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# The whole way, with the shapes that we shall meet. **B** is the number of cells, **S** the number of genes in the
# longest of them, **E** the width of a gene's vector (`gene_embedding_dim`), **H** that of a token (`hidden_dim`),
# **G** the number of all genes. Every gene that a cell expresses is read and predicted; the `n_genes` most variable of
# all G are *tokens* too, which means that they take part in attention.
#
# ```text
# genes, values  (B, S)          which genes a cell expresses, and how much
#      | bag                     section 2: all of them, added up
# [CELL]         (B, H)          where the cell's vector starts
#      | tokens                  section 3: a vector for each gene that is a token
# tokens         (B, 1 + S, H)   [CELL] in front
#      | blocks                  sections 4 and 5: attention, feed-forward
# tokens         (B, 1 + S, H)   the same shape, now each knows of the others
#      | take [CELL], narrow it  section 6
# cell vectors   (B, E)          what you use afterwards: for neighbours, clusters, a UMAP
#      | decoder                 section 7
# log-odds       (B, G)          which genes the next molecules should come from
# ```

# %% [markdown]
# ## 1. Two cells
#
# 700 blood cells come with scanpy, so nothing is downloaded. For more of them write `name = "pbmc3k"`. MINIMAL makes
# tokens of the 1,000 most variable genes. This small table has only 765, so all of them would be tokens; we ask for
# 300, so that there are genes of both kinds, as there are in a whole genome.

# %%
name = "bundled"  # or "pbmc3k"
config = scfm.load_config("minimal", {"model.n_genes": 300})
folder = scfm.work_dir() / "03_model_build" / f"store_{name}_300"
if (folder / "store.json").exists():
    store = scfm.open_store(folder)
else:
    store = scfm.prepare([scfm.find_data(name)], config, folder)
print(f"{len(store)} cells, {len(store.symbols)} genes; the first {store.n_tokens} of them are tokens")

# %% [markdown]
# A real cell has more genes than fit in a figure. So we take two cells and keep the 8 strongest genes of the first and
# the 5 strongest of the second. A *value* is the logarithm of 1 plus the counts per 10,000 molecules.


# %%
def strongest(cell, number):
    """The `number` most expressed genes of a cell, and their values."""
    genes, counts, _ = store.rows(np.array([cell]))
    top = np.argsort(-counts.astype(int), kind="stable")[:number]
    values = np.log1p(counts[top] * 1e4 / store.library_size[cell])
    return torch.tensor(genes[top].astype(int)), torch.tensor(values, dtype=torch.float32)


# %%
cells = np.flatnonzero(~store.held_out)  # the cells to learn from
first_genes, first_values = strongest(cells[0], 8)
second_genes, second_values = strongest(cells[1], 5)
print("first: ", ", ".join(store.symbols[first_genes.numpy()]))
print("second:", ", ".join(store.symbols[second_genes.numpy()]))

# %% [markdown]
# Computers like rectangles, so the second cell is filled up with zeros: **padding**. A value of 0 marks it, since a
# gene that is expressed has more. From now on we must take care that padding never affects a result.

# %%
genes = nn.utils.rnn.pad_sequence([first_genes, second_genes], batch_first=True)  # (2, 8), numbers of genes
values = nn.utils.rnn.pad_sequence([first_values, second_values], batch_first=True)  # (2, 8)
print("genes", tuple(genes.shape), "values", tuple(values.shape))
print("second cell:", [round(v, 2) for v in values[1].tolist()])

# %% [markdown]
# Which of them are tokens? The store numbers the genes so that tokens come first, so a look at the number will do.

# %%
is_token = (genes < store.n_tokens) & (values > 0)  # (2, 8)
print("tokens:", is_token.sum(1).tolist(), "of", (values > 0).sum(1).tolist(), "genes")


# %%
def label(gene, value):
    """A gene's symbol, in brackets if it is no token."""
    if value == 0:
        return "padding"
    return store.symbols[gene] if gene < store.n_tokens else f"({store.symbols[gene]})"


labels = [["[CELL]", *map(label, *row)] for row in zip(genes.tolist(), values.tolist(), strict=True)]
print(labels[1])

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for panel, row, token, names, title in zip(panels, values, is_token, labels, ["first", "second"], strict=True):
    panel.bar(range(8), row * token, color=BLUE, label="a token")
    panel.bar(range(8), row * ~token, color=ORANGE, label="in the bag only")
    panel.set_xticks(range(8), names[1:], rotation=60, ha="right")
    panel.set_title(f"What the model reads of the {title} cell", fontsize=11)
panels[0].set_ylabel("value: ln(1 + counts per 10,000)")
panels[0].set_ylim(0, 8.5)
panels[1].legend(frameon=False, loc="upper right")
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: two bar charts, a bar for each gene, its height the gene's value. The first cell has 8 genes, the second 5
# and three empty places called padding. Blue genes are tokens; orange ones, with their names in brackets, are not,
# since 300 others vary more than one expects of their mean.*

# %% [markdown]
# ## 2. A bag of all genes
#
# We take the library's model at its start, before any training, read its weights as plain *tensors* (tables of numbers
# with any number of dimensions), and do each step with them by hand.

# %%
from scfm_lib.dataset import log_normalise
from scfm_lib.start import new_model, pca_start

shape = config.model.model_copy()
shape.n_genes = store.n_tokens  # the data may have fewer genes than the config asks for
start = pca_start(store, cells, shape.gene_embedding_dim, seed=0)
library = new_model(shape, seed=0, start=start).eval()
w = library.state_dict()  # name -> tensor
print(len(w), "tensors, such as bag_embedding", tuple(w["bag_embedding"].shape))

# %% [markdown]
# **[CELL]** is a vector that belongs to no gene: in the blocks it reads the genes, and it ends as the cell's vector.
# Where should it start? It could be the same in every cell, and learn of each gene by attention. But attention over
# all the genes of a cell costs a lot. So [CELL] starts from something cheap that already sums up all of them.
#
# First the cell is laid out over all genes, a place for each. (Padding adds 0 to gene 0, so it changes nothing.)

# %%
profile = torch.zeros(2, len(store.symbols)).scatter_add(1, genes, values)  # (2, 765)
print(tuple(genes.shape), "->", tuple(profile.shape), "(B, G)")
print("places that are not 0:", (profile > 0).sum(1).tolist())

# %% [markdown]
# Each gene has a row of 64 numbers, its *bag vector*. Every expressed gene contributes its vector, times its value, and
# all are added up: a **bag** of genes, in which, as in any bag, there is no order. It is one matrix product.

# %%
total = profile @ w["bag_embedding"]  # (2, 765) @ (765, 64)
gene_by_gene = sum(value * w["bag_embedding"][gene] for gene, value in zip(first_genes, first_values, strict=True))
assert torch.allclose(total[0], gene_by_gene, atol=1e-5)
print(tuple(profile.shape), "@", tuple(w["bag_embedding"].shape), "->", tuple(total.shape))

# %% [markdown]
# What is in these vectors? At the start, a **PCA** (principal component analysis) of the training cells. It looks for
# the direction, over all genes, in which the cells differ most, then for the next one at a right angle to it, and so
# on, 64 times. `pca_start` has found them, and the cells' spread (standard deviation) along each. Every direction is
# divided by the first spread, so that numbers of about 1 come out.

# %%
everyone = torch.tensor(log_normalise(store.matrix(cells), store.library_size[cells]).toarray())  # (cells, 765)
directions, spreads = start["components"], start["spread"]
assert torch.allclose(w["bag_embedding"], directions / spreads[0])
print("all training cells", tuple(everyone.shape), " directions", tuple(directions.shape))
print("spread along the first three:", [round(s, 1) for s in spreads[:3].tolist()])

# %% [markdown]
# What all cells have in common does not help to tell them apart. Yet it is a large part of each bag, since values are
# never negative. So the bag of the **mean cell** is taken away:

# %%
bags = everyone @ w["bag_embedding"]  # (cells, 64)
centred_bags = bags - w["bag_centre"]
print(f"length of the mean of all bags: {bags.mean(0).norm():.2f} before, {centred_bags.mean(0).norm():.2f} after")
print(f"what differs between cells:     {bags.std(0).norm():.2f} before, {centred_bags.std(0).norm():.2f} after")

# %% [markdown]
# With that, the bag is exactly where the cell lies in the PCA:

# %%
from sklearn.decomposition import PCA

scores = PCA(64, svd_solver="arpack", random_state=0).fit_transform(everyone.numpy())  # (cells, 64)
assert np.allclose(centred_bags, scores / scores[:, 0].std(ddof=1), atol=1e-3)
print("the bags are scikit-learn's PCA, over the spread of its first component:", scores.shape)

# %%
figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for panel, gene in zip(panels, ["LYZ", "NKG7"], strict=True):
    amount = everyone[:, list(store.symbols).index(gene)]
    dots = panel.scatter(centred_bags[:, 0], centred_bags[:, 1], c=amount, s=7, cmap="cividis")
    panel.set(xlabel="first number of the bag", title=f"{gene}: its value in each cell")
    figure.colorbar(dots, ax=panel)
panels[0].set_ylabel("second number of the bag")
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: the training cells as dots, placed by the first two of the 64 numbers of their bags, before any training.
# Left coloured by the value of LYZ, a gene of monocytes and dendritic cells, right by NKG7, a gene of NK and cytotoxic
# T cells: each is high in another region.*
#
# So before the first training step [CELL] already starts at a PCA of all genes, which is a good description of a cell.
# The bag is widened to H = 128 and added to a learned vector that is the same for all:

# %%
bag = total - w["bag_centre"]
cell = w["cell_token"] + bag @ w["bag_to_cell.weight"].T  # (2, 128)
assert torch.allclose(cell, library.cell_start(genes, values), atol=1e-5)
print(tuple(bag.shape), "->", tuple(cell.shape), "(B, H): where [CELL] starts")

# %% [markdown]
# **Exercise 3.1** (easy, 5 minutes). Write `bag(genes, values, vectors, centre)` for one cell: `genes` and `values` are
# `(S,)`, padding with value 0 included; `vectors` is `(G, E)` and `centre` `(E,)`; return the bag `(E,)`, less the
# centre. Then `answer = bag`.

# %%
answer = ...
exercises.check("3.1", answer)

# %% [markdown]
# ## 3. From a gene and its value to a token
#
# A bag adds up and no more: it cannot say "much of this gene, but only where that one is there". For that, the most
# variable genes become **tokens**: a vector for each such gene of each cell, and the vectors can look at each other.
#
# **Which gene?** Each token gene has a row of 64 learned numbers, its *embedding*. The model simply looks it up.
# (Places that are no token look up gene 0; what they get will be masked.)

# %%
number = genes * is_token  # (2, 8)
embedded = w["gene_embedding"][number]
print(tuple(number.shape), "->", tuple(embedded.shape), "(B, S, gene_embedding_dim)")

# %% [markdown]
# The model is 128 wide, so a matrix widens the 64 numbers. It gives two vectors for each gene: its *identity* ("I am
# LST1") and a *slope*, which says how the vector changes with the amount.

# %%
both = embedded @ w["gene_to_token.weight"].T  # (2, 8, 256)
identity, slope = both.chunk(2, dim=-1)
print(tuple(both.shape), "->", tuple(identity.shape), "and", tuple(slope.shape))

# %% [markdown]
# **How much?** Identity plus slope times value is a straight line. But twice the value need not mean twice as much to
# the model, so a small network of 32 units adds a curve that is the same for all genes. A unit is a *hinge*: flat on
# one side of its **kink**, a slanted line on the other,
#
# $$\max(0,\; v - \text{kink}) \qquad\text{or, facing the other way,}\qquad \max(0,\; \text{kink} - v).$$
#
# In the library's terms it is `relu(weight * v + bias)` with a weight of 1 or -1, so the kink is at `-bias / weight`.

# %%
facing, bias = w["value_in.weight"].squeeze(1), w["value_in.bias"]  # (32,) and (32,)
kinks = -bias / facing
there = everyone[everyone > 0]  # all values of the training cells
among = (kinks > there.min()) & (kinks < there.max())
print(f"32 kinks from {kinks.min():.1f} to {kinks.max():.1f}, {int((facing > 0).sum())} of them rise")
print(f"values from {there.min():.1f} to {there.max():.1f}: {int(among.sum())} kinks lie among them")

# %%
grid = torch.linspace(0, 8, 200)  # values
hinges = F.relu(grid[:, None] * facing + bias)  # (200, 32)
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.hist(there.numpy(), bins=60, density=True, color="0.8", label="values of these cells")
for unit in range(0, 32, 3):
    colour, style, told = (BLUE, "-", "rising") if facing[unit] > 0 else (ORANGE, "--", "falling")
    axes.plot(grid, hinges[:, unit], style, color=colour, label=told if unit < 6 else None)
axes.set(xlabel="value: ln(1 + counts per 10,000)", ylabel="a unit's output", ylim=(0, 2.5))
axes.set_title("Hinges before training: they bend where the values are", fontsize=11)
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# *Figure: eleven of the 32 hinges over the value. Blue lines are 0 and rise from their kink on; dashed orange lines
# fall to 0 at their kink. The kinks are spread evenly over the axis from 1.2 to 6.5. Behind them in grey, how often
# each value occurs in these cells.*
#
# Why must kinks lie where values are? Only there does a unit bend anything. If its kink is below all values, it is a
# straight line for every gene, and the slope has that already. If it faces away from all values, it is 0 for every
# gene, gets no gradient, and stays dead. (The kinks that lie below these values are for cells that were read deeper:
# the more molecules a cell has, the smaller is the value of a single one.)

# %%
value = values.unsqueeze(-1)  # (2, 8, 1)
inner = F.relu(value @ w["value_in.weight"].T + w["value_in.bias"])  # (2, 8, 32)
amount = inner @ w["value_out.weight"].T + w["value_out.bias"]  # (2, 8, 128)
print(tuple(value.shape), "->", tuple(inner.shape), "->", tuple(amount.shape))

# %% [markdown]
# The three are added, and [CELL] is put in front.

# %%
gene_tokens = identity + slope * value + amount  # (2, 8, 128)
x = torch.cat([cell[:, None], gene_tokens], dim=1)
seen = F.pad(is_token, (1, 0), value=True)  # (2, 9): who may be read; [CELL] is always there
print(tuple(x.shape), "(B, 1 + S, H)")

# %%
theirs, attend = library.read(genes, values, most_tokens=8)
assert torch.allclose(x, theirs, atol=1e-5)
assert (seen == attend[:, 0, 0]).all()
print("what we give to the blocks is what the library gives")

# %% [markdown]
# What is *not* there: a position. In a text, word 3 comes after word 2; in a cell, no gene comes after another. A cell
# is a set, and we shall test that the model treats it as one.

# %% [markdown]
# ## 4. Attention by hand
#
# So far each token knows of its own gene only, and [CELL] knows a sum. *Attention* lets each token collect from the
# others what it needs.
#
# First every token is brought to the same scale, so that a strong gene does not drown out the rest. That is a **layer
# norm**: subtract the mean of a token's 128 numbers, divide by their standard deviation, then a learned scale and
# shift (1 and 0 at the start).

# %%
centred = x - x.mean(dim=-1, keepdim=True)
spread = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()  # 1e-5: never divide by 0
normed = centred / spread * w["blocks.0.attention_norm.weight"] + w["blocks.0.attention_norm.bias"]
assert torch.allclose(normed, library.blocks[0].attention_norm(x), atol=1e-5)
print(tuple(normed.shape), "as before; a token now has mean 0 and standard deviation 1")

# %% [markdown]
# ### Queries, keys and values
#
# Each token makes three vectors of itself:
#
# * a **query**: what am I looking for?
# * a **key**: what do I have to offer?
# * a **value**: what do I hand over to whoever reads me? (Not the expression value: the word is used twice.)
#
# One matrix makes all three at once.

# %%
qkv = normed @ w["blocks.0.qkv.weight"].T + w["blocks.0.qkv.bias"]  # (2, 9, 384)
q, k, v = qkv.chunk(3, dim=-1)
print(tuple(qkv.shape), "->", tuple(q.shape), "three times")

# %% [markdown]
# Attention has 4 *heads*, each with a quarter of the numbers, so that a token can ask four questions at once. We look
# at the first head.

# %%
head_width = shape.hidden_dim // shape.num_heads  # 128 / 4 = 32
q1, k1, v1 = (part[..., :head_width] for part in (q, k, v))
print("one head:", tuple(q1.shape))

# %% [markdown]
# ### Scores
#
# How well does a key answer a query? Their dot product tells: large if they point the same way. All pairs at once are
# a matrix product, $QK^\top$. A sum of $d = 32$ products has a spread that grows with $\sqrt{d}$, so we divide by that;
# else the softmax below would soon be all or nothing.

# %%
scores = q1 @ k1.transpose(1, 2) / math.sqrt(head_width)
print(tuple(scores.shape), "(B, who asks, who is read)")

# %% [markdown]
# ### Mask, then softmax
#
# Padding must not be read, nor a gene that is no token. We set their *columns* to minus infinity; since $e^{-\infty} =
# 0$, the **softmax** then gives them a weight of exactly 0. The softmax turns each row of scores into weights that add
# up to 1:
#
# $$\text{attention} = \text{softmax}\!\left(\frac{QK^\top}{\sqrt{d}} + \text{mask}\right)$$

# %%
masked = scores.masked_fill(~seen[:, None, :], -torch.inf)
attention = masked.softmax(dim=-1)
print("each row adds up to 1:     ", torch.allclose(attention.sum(-1), torch.ones(2, 9)))
print("weight on what is no token:", attention[1][:, ~seen[1]].max().item())


# %%
def heat_map(axes, numbers, columns, rows, title, **colours):
    picture = axes.imshow(numbers, aspect="auto", **colours)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_title(title, fontsize=11)
    axes.figure.colorbar(picture, ax=axes, fraction=0.046)


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
most = scores[1].abs().max().item()
heat_map(left, scores[1], labels[1], labels[1], "Scores: for all places", cmap="PuOr", vmin=-most, vmax=most)
heat_map(right, attention[1], labels[1], labels[1], "Weights: for tokens alone", cmap="cividis", vmin=0)
left.set_ylabel("who asks")
for axes in (left, right):
    axes.set_xlabel("who is read")
plt.tight_layout()
plt.show()

# %% [markdown]
# *Figure: two heat maps of the second cell, a row for each token that asks and a column for each that is read. Left,
# the scores, for padding and the gene in brackets too. Right, the weights after mask and softmax: their four columns
# are at 0, and each row adds up to 1.*
#
# Do not look for biology here: the matrices that make queries and keys are still random. (*NKG7* and *GNLY* may look
# alike because the vectors of genes come from the PCA.) What a trained model's [CELL] reads is for notebook 06. The
# rows of padding and of the gene in brackets are computed too, but nobody ever reads them.
#
# **Exercise 3.2** (medium, 6 minutes). Write `attention_weights(q, k, seen)` for one head and one cell: `q` and `k`
# are `(T, d)`, `seen` is `(T,)` with False for padding; return the weights `(T, T)`. Then
# `answer = attention_weights`.

# %%
answer = ...
exercises.check("3.2", answer)

# %% [markdown]
# ### Mixing
#
# Now each token collects: the values of all tokens, each times its weight, added up.

# %%
mixed = attention @ v1  # (2, 9, 9) @ (2, 9, 32)
print(tuple(attention.shape), "@", tuple(v1.shape), "->", tuple(mixed.shape))

# %% [markdown]
# ### All heads
#
# The same for each head, and the four results side by side. That is all of attention, in a few lines:


# %%
def attend_by_hand(q, k, v, seen, heads):
    """(B, T, H) three times and (B, T) -> what each token collected (B, T, H)."""
    mixed = []
    for q_head, k_head, v_head in zip(*(t.chunk(heads, dim=-1) for t in (q, k, v)), strict=True):
        scores = q_head @ k_head.transpose(1, 2) / math.sqrt(q_head.shape[-1])
        mixed.append(scores.masked_fill(~seen[:, None, :], -torch.inf).softmax(dim=-1) @ v_head)
    return torch.cat(mixed, dim=-1)


by_hand = attend_by_hand(q, k, v, seen, shape.num_heads)
print(tuple(by_hand.shape), "(B, 1 + S, H)")

# %% [markdown]
# ### The same by torch
#
# `scaled_dot_product_attention` does this in one call for all heads, faster and without ever storing the whole table
# of weights where it can avoid that. It wants the heads as a dimension of their own.


# %%
def split_heads(t, heads=shape.num_heads):
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, H) -> (B, heads, T, H / heads)


mask = seen[:, None, None, :]  # (B, 1, 1, T): the same for all heads and for all who ask
by_torch = F.scaled_dot_product_attention(split_heads(q), split_heads(k), split_heads(v), attn_mask=mask)
print(tuple(by_torch.shape), "(B, heads, 1 + S, H / heads)")

# %%
by_torch = by_torch.transpose(1, 2).flatten(2)  # heads side by side again: (B, 1 + S, H)
assert torch.allclose(by_hand, by_torch, atol=1e-5)
print("attention by hand and by torch agree:", tuple(by_torch.shape))

# %% [markdown]
# What does [CELL] read in the first cell, head by head?

# %%
head_scores = split_heads(q)[0] @ split_heads(k)[0].transpose(1, 2) / math.sqrt(head_width)  # (4, 9, 9)
cell_reads = head_scores.masked_fill(~seen[0], -torch.inf).softmax(dim=-1)[:, 0]  # (4, 9): [CELL]'s row of each head
figure, axes = plt.subplots(figsize=(7, 2.8))
heads = [f"head {number}" for number in range(1, 5)]
heat_map(axes, cell_reads, labels[0], heads, "[CELL] asks four questions at once", cmap="cividis", vmin=0)
plt.show()

# %% [markdown]
# *Figure: a heat map with a row for each of the four heads and a column for each token of the first cell: how much of
# each token [CELL] reads, and nothing of the genes in brackets. The heads have different patterns, since each has
# weights of its own.*

# %% [markdown]
# ## 5. A block
#
# Attention is the first half of a block. What was collected goes through one more matrix and is **added** to the
# token, not put in its place: a *residual connection*, which lets many blocks stand on one another without losing what
# was there before. Written as a module (the names are the library's, so that its weights will fit):


# %%
class MyAttention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.num_heads = shape.num_heads
        self.attention_norm = nn.LayerNorm(shape.hidden_dim)
        self.qkv = nn.Linear(shape.hidden_dim, 3 * shape.hidden_dim)
        self.attention_out = nn.Linear(shape.hidden_dim, shape.hidden_dim)

    def attend(self, x, seen):
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        return x + self.attention_out(attend_by_hand(q, k, v, seen, self.num_heads))


# %% [markdown]
# The second half works on each token alone: norm, widen from 128 to 512, bend (GELU, a smooth relative of ReLU),
# narrow to 128, add. Attention moves information between genes; the **feed-forward** part works on it, token by token.


# %%
class MyBlock(MyAttention):
    def __init__(self, shape):
        super().__init__(shape)
        self.ff_norm = nn.LayerNorm(shape.hidden_dim)
        self.ff_in = nn.Linear(shape.hidden_dim, shape.ff_dim)
        self.ff_out = nn.Linear(shape.ff_dim, shape.hidden_dim)

    def forward(self, x, seen):
        x = self.attend(x, seen)
        return x + self.ff_out(F.gelu(self.ff_in(self.ff_norm(x))))


# %%
block = MyBlock(shape)
block.load_state_dict(library.blocks[0].state_dict())
after = block(x, seen)
assert torch.allclose(after, library.blocks[0](x, mask), atol=1e-5)
print(tuple(x.shape), "->", tuple(after.shape), "and the same numbers as the library's block")

# %% [markdown]
# The shape stays, so blocks can be stacked: 2 in MINIMAL, 4 in DEFAULT, 6 in LARGE. (In training the library can also
# drop some numbers at random, *dropout*; it is off by default.)

# %% [markdown]
# ## 6. The encoder
#
# Your own model, in four short classes, each adding a part to the one before. (One would usually write a single class,
# as `scfm_lib/model.py` does; here they inherit from one another only so that you can read it in parts.) First the bag
# of section 2:


# %%
class MyBag(nn.Module):
    def __init__(self, shape, all_genes):
        super().__init__()
        self.cell_token = nn.Parameter(torch.zeros(shape.hidden_dim))
        self.bag_embedding = nn.Parameter(torch.zeros(all_genes, shape.gene_embedding_dim))
        self.register_buffer("bag_centre", torch.zeros(shape.gene_embedding_dim))  # kept with the weights, not trained
        self.bag_to_cell = nn.Linear(shape.gene_embedding_dim, shape.hidden_dim, bias=False)

    def cell_start(self, genes, values):
        profile = torch.zeros(len(genes), len(self.bag_embedding)).scatter_add(1, genes, values)
        return self.cell_token + self.bag_to_cell(profile @ self.bag_embedding - self.bag_centre)


# %% [markdown]
# Then the tokens of section 3:


# %%
class MyTokens(MyBag):
    def __init__(self, shape, all_genes):
        super().__init__(shape, all_genes)
        self.gene_embedding = nn.Parameter(torch.zeros(shape.n_genes, shape.gene_embedding_dim))
        self.gene_to_token = nn.Linear(shape.gene_embedding_dim, 2 * shape.hidden_dim, bias=False)
        self.value_in = nn.Linear(1, 32)
        self.value_out = nn.Linear(32, shape.hidden_dim)

    def tokens(self, genes, values):
        identity, slope = self.gene_to_token(self.gene_embedding[genes]).chunk(2, dim=-1)
        value = values.unsqueeze(-1)
        return identity + slope * value + self.value_out(F.relu(self.value_in(value)))


# %% [markdown]
# Then the blocks, and one last norm. Of all rows only [CELL], row 0, is kept, and narrowed to as many numbers as a
# gene's vector has. This is the **cell's vector**.


# %%
class MyEncoder(MyTokens):
    def __init__(self, shape, all_genes):
        super().__init__(shape, all_genes)
        self.blocks = nn.ModuleList(MyBlock(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.hidden_dim)
        self.to_latent = nn.Linear(shape.hidden_dim, shape.gene_embedding_dim)

    def encode(self, genes, values):
        is_token = (genes < len(self.gene_embedding)) & (values > 0)
        x = torch.cat([self.cell_start(genes, values)[:, None], self.tokens(genes * is_token, values)], dim=1)
        for block in self.blocks:
            x = block(x, F.pad(is_token, (1, 0), value=True))
        return self.to_latent(self.norm(x[:, 0]))


# %% [markdown]
# (The zeros are only placeholders. What stands there before training comes in section 9.)

# %% [markdown]
# ## 7. The decoder
#
# From a cell's vector, which gene should the next molecule come from? Any of all G genes, tokens or not. The cell's 64
# numbers are compared, by a dot product, with a vector of each gene. A *bias* adds how common the gene is in any cell.
# All that the model knows of a cell must pass through these 64 numbers, which is why they are what you use afterwards.

# %%
vectors = library.encode(genes, values)  # (2, 64)
log_odds = vectors @ w["output_embedding"].T + w["output_bias"]  # (2, G)
print(tuple(vectors.shape), "->", tuple(log_odds.shape))

# %% [markdown]
# These are log-odds (or *logits*): any numbers. Their softmax over all genes is the **share** of molecules that the
# model expects from each.

# %%
shares = log_odds.softmax(dim=1)
assert torch.allclose(log_odds, library(genes, values), atol=1e-4)
print("shares add up to", [round(total, 2) for total in shares.sum(1).tolist()])
print(f"genes that are no token get {shares[:, store.n_tokens :].sum(1).mean():.0%} of the molecules")


# %%
class MyTransformer(MyEncoder):
    def __init__(self, shape, all_genes):
        super().__init__(shape, all_genes)
        self.output_embedding = nn.Parameter(torch.zeros(all_genes, shape.gene_embedding_dim))
        self.output_bias = nn.Parameter(torch.zeros(all_genes))

    def decode(self, cells):
        return cells @ self.output_embedding.T + self.output_bias

    def forward(self, genes, values):
        return self.decode(self.encode(genes, values))


# %% [markdown]
# ## 8. Does yours do what the library's does?
#
# The strictest test there is: the same weights in, the same numbers out. `load_state_dict` complains if a single name
# or shape differs.

# %%
mine = MyTransformer(shape, len(store.symbols)).eval()
print(mine.load_state_dict(library.state_dict()))

# %% [markdown]
# And on real input: a batch as it is used in training, with all genes. Each molecule of a cell went to one of two
# halves by the toss of a coin; the model reads a half (`genes`, `values`) and predicts the other (`target_genes`,
# `target_counts`).

# %%
from scfm_lib.dataset import HalfCells

batch = HalfCells(store, cells, config.training.batch_size, seed=0)[0]
print("read:   ", tuple(batch.genes.shape), "of which at most", batch.most_tokens, "in a row are tokens")
print("predict:", tuple(batch.target_genes.shape))

# %%
ours, theirs = mine(batch.genes, batch.values), library(batch.genes, batch.values)
assert torch.allclose(mine.encode(batch.genes, batch.values), library.encode(batch.genes, batch.values), atol=1e-4)
assert torch.allclose(ours, theirs, atol=1e-4)
print(tuple(ours.shape), "log-odds, the same from your class and from the library's")

# %% [markdown]
# ### A cell is a set
#
# If we shuffle the genes of each cell together with their values, nothing may change. If we add padding, nothing may
# change either. But if a gene is taken away, the result must change, whether the gene is a token or not.

# %%
order = torch.randperm(batch.genes.shape[1], generator=torch.Generator().manual_seed(0))
shuffled = mine(batch.genes[:, order], batch.values[:, order])
wider = mine(F.pad(batch.genes, (0, 20)), F.pad(batch.values, (0, 20)))
tokens_alone = mine(batch.genes, batch.values * (batch.genes < store.n_tokens))
print("shuffled:              the same", torch.allclose(shuffled, ours, atol=1e-4))
print("more padding:          the same", torch.allclose(wider, ours, atol=1e-4))
print("without the bag genes: the same", torch.allclose(tokens_alone, ours, atol=1e-4))

# %% [markdown]
# ## 9. Where the first numbers come from
#
# Weights cannot all begin at 0: every unit would compute the same, get the same gradient, and stay like the others. So
# they begin as random numbers. How large should they be? A sum of $n$ random terms grows with $\sqrt{n}$, so a layer
# with $n$ inputs gets weights with a spread of $0.5 / \sqrt{n}$: what comes out is then about half as large as what
# goes in, however wide the layer is.


# %%
def initialise(model):
    """Random numbers for every layer; the hinges of section 3 get their kinks."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5 / layer.in_features**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    facing = torch.tensor([1.0, -1.0]).repeat(16)
    model.value_in.weight.copy_(facing[:, None])
    model.value_in.bias.copy_(-facing * torch.linspace(1.2, 6.5, 32))  # log1p of counts per 10,000 mostly lies there
    nn.init.normal_(model.cell_token, std=0.02)
    nn.init.normal_(model.bag_embedding, std=len(model.bag_embedding) ** -0.5)
    nn.init.normal_(model.gene_embedding, std=1 / 8)
    nn.init.normal_(model.output_embedding, std=1 / 10)


# %% [markdown]
# Then everything that belongs to a single gene is set from the PCA of section 2. Its *loadings* are the directions
# times their spreads: they say how strongly a gene takes part in what sets cells apart. They replace the random vectors
# of tokens and of the decoder, scaled so that the token genes' numbers have the same spread as before. But now a gene
# that takes part in much has a long vector, and one that takes part in little a short one. The bag's vectors are the
# directions themselves. The decoder's bias gets the log of each gene's share of all molecules, so the model at its
# start already expects common genes.


# %%
def put_in(model, start):
    """The PCA of the training cells, and how common each gene is."""
    loadings = start["components"] * start["spread"]  # (G, 64)
    loadings = loadings / loadings[: len(model.gene_embedding)].std()
    model.bag_embedding.copy_(start["components"] / start["spread"][0])
    model.bag_centre.copy_(start["centre"] / start["spread"][0])
    model.gene_embedding.copy_(loadings[: len(model.gene_embedding)] / 8)
    model.output_embedding.copy_(loadings / 10)
    model.output_bias.copy_(start["log_share"])


# %%
torch.manual_seed(0)  # the same random numbers in the same order: both classes make their layers in one order
begun = MyTransformer(shape, len(store.symbols)).eval()
initialise(begun)
put_in(begun, start)
assert all(torch.allclose(begun.state_dict()[name], weight) for name, weight in w.items())
print("the same", len(w), "tensors as in the library's new model, from the same seed")

# %% [markdown]
# ## 10. What the library leaves out
#
# Your class works out rows that nobody reads. The library gives the same numbers without them, in two ways. (And it
# widens the table of token genes once, not each token again; for the same gene that is the same product.)
#
# **Places that are no token.** Batches come with the tokens first in each row, and `batch.most_tokens` says how many
# columns hold all of them. Only these go to the blocks; the bag has read the rest.

# %%
into_blocks, attend = library.read(batch.genes, batch.values, batch.most_tokens)
print("genes", tuple(batch.genes.shape), "-> what the blocks get", tuple(into_blocks.shape))

# %% [markdown]
# In a whole genome that is most of the genes: a cell of PBMC3k shows 849 on average, of which 112 are among the 1,000
# most variable (notebook 02).
#
# **In the last block, all rows but [CELL]'s.** After it only row 0 is read. So in this block the other rows need no
# query, no output and no feed-forward; their keys and values are all that [CELL] asks of them. In earlier blocks every
# row is needed: it is read in the next one. The library's block has a switch for that.

# %%
between = library.blocks[0](into_blocks, attend)  # all rows: the next block reads them
whole = library.blocks[1](between, attend)
alone = library.blocks[1](between, attend, cell_only=True)
print("whole", tuple(whole.shape), " [CELL] alone", tuple(alone.shape))

# %%
assert torch.allclose(whole[:, :1], alone, atol=1e-4)
print("[CELL]'s row is the same")

# %% [markdown]
# What does it save? Count the multiplications of one cell with 100 tokens: every row that is computed costs a query, an
# output and the feed-forward part; every token that is read costs a key and a value.


# %%
def multiplications(tokens, rows, h, f):
    """In a block where `rows` of a cell's `tokens` are computed."""
    keys_and_values = tokens * 2 * h * h
    queries_and_output = rows * 2 * h * h
    scores_and_mixing = rows * 2 * tokens * h
    feed_forward = rows * 2 * h * f
    return keys_and_values + queries_and_output + scores_and_mixing + feed_forward


# %%
for preset in ("minimal", "default", "large"):
    dims = scfm.load_config(preset).model
    full = multiplications(101, 101, dims.hidden_dim, dims.ff_dim)
    last = multiplications(101, 1, dims.hidden_dim, dims.ff_dim)
    saved = (full - last) / (dims.num_layers * full)
    print(f"{preset:8} {dims.num_layers} blocks: last block {last / full:.0%} of a whole one, {saved:.0%} of all saved")

# %% [markdown]
# The fewer blocks, the more this saves, most of all in MINIMAL with its two. It is the same model, only without what
# nobody reads.
#
# **Exercise 3.3** (hard, 12 minutes). Write `cell_row(block, x, seen)`: the output of a block for [CELL] alone,
# `(B, 1, H)`, without computing the other rows. `x` is `(B, T, H)`, `seen` is `(B, T)`, and `block` has the layers of
# your `MyBlock` and its `num_heads`. Then `answer = cell_row`.

# %%
answer = ...
exercises.check("3.3", answer)

# %% [markdown]
# ## 11. The loss: how surprised is the model?
#
# The model gave each gene a share. Now come the molecules of the other half. Each one costs **minus the logarithm of
# its gene's share**: little if the model expected it, much if not. This is the *multinomial* likelihood, which tells
# how probable a handful of draws is if the shares are known.
#
# By hand with three genes, of which we expect shares .5, .3 and .2, and see 2, 0 and 1 molecules:

# %%
expected, molecules = [0.5, 0.3, 0.2], [2, 0, 1]
costs = [-count * math.log(share) for share, count in zip(expected, molecules, strict=True)]
print(f"2 x {-math.log(0.5):.2f} + 0 x {-math.log(0.3):.2f} + 1 x {-math.log(0.2):.2f} = {sum(costs):.2f} nats")

# %% [markdown]
# The gene with no molecule costs nothing by itself. But the share of .3 that was given to it is missing elsewhere, so
# the model does learn from zeros, without a token for any of them. And a cell with twice the molecules asks for the
# same shares: how deep it was sequenced need not be predicted. (It does count for more, since each molecule counts
# once.)
#
# Now a real half cell, gene by gene:

# %%
shares_of_one = ours[0].softmax(dim=0)  # (G,)
nats = 0.0
for gene, count in zip(batch.target_genes[0], batch.target_counts[0], strict=True):
    nats -= (count * shares_of_one[gene].log()).item()  # padding has a count of 0 and adds nothing
print(f"{nats / batch.target_counts[0].sum().item():.2f} nats per molecule")

# %% [markdown]
# The library does it for all cells at once and never computes a share: $\log p_g$ is gene $g$'s log-odds minus
# `logsumexp` of all, which cannot overflow.

# %%
from scfm_lib.model import prediction_loss

loss = prediction_loss(ours[:1], batch.target_genes[:1], batch.target_counts[:1]).item()
assert math.isclose(loss, nats, rel_tol=1e-4)
print("by hand and by the library: the same")

# %%
loss_of_all = prediction_loss(ours, batch.target_genes, batch.target_counts)
print(f"the whole batch: {(loss_of_all / batch.molecules).item():.2f} nats per molecule, before any training")

# %% [markdown]
# **Exercise 3.4** (easy, 3 minutes). A model that knows nothing gives each of 1,000 genes the same log-odds. What does
# a molecule cost it, in nats? (Two decimals will do.)

# %%
answer = ...
exercises.check("3.4", answer)

# %% [markdown]
# ## 12. Counting parameters
#
# A *parameter* is a number that training may change. A linear layer from $a$ to $b$ has $a \cdot b$ weights and, if it
# has biases, $b$ of them; a layer norm of width $h$ has $2h$. With $n$ genes that can be tokens and $G$ genes in all:


# %%
def parameters_by_part(n, g, e, h, f, layers):
    """Parameters by part: n token genes, g genes, widths e (gene vectors), h (hidden), f (feed-forward), and blocks."""
    return {
        "bag_of_genes": g * e + e * h,  # vectors; widened without a bias
        "cell_token": h,
        "gene_embedding": n * e,
        "gene_to_token": e * 2 * h,  # no bias
        "value_network": (1 * 32 + 32) + (32 * h + h),
        "attention": layers * ((h * 3 * h + 3 * h) + (h * h + h)),
        "feed_forward": layers * ((h * f + f) + (f * h + h)),
        "norms": (2 * layers + 1) * 2 * h,  # two in each block, one at the end
        "decoder": (h * e + e) + g * e + g,  # narrowed; vectors and biases
    }


# %% [markdown]
# $G$ stands in two parts only, the bag and the decoder: $G \cdot (2e + 1)$ of all parameters, two vectors of width $e$
# and a bias for each gene. For these cells, and for MINIMAL on a whole genome of 20,000 genes:

# %%
h, f, layers = 128, 512, 2  # MINIMAL's
here = parameters_by_part(store.n_tokens, len(store.symbols), 64, h, f, layers)
genome = parameters_by_part(1000, 20_000, 64, h, f, layers)
print(f"{'':15} {'these cells':>12} {'20,000 genes':>14}")
for part in here:
    print(f"{part:15} {here[part]:>12,} {genome[part]:>14,}")
print(f"{'all':15} {sum(here.values()):>12,} {sum(genome.values()):>14,}")

# %% [markdown]
# With a whole genome most parameters belong to single genes ($G(2e + 1) + ne$, here 2,644,000 of them); the blocks,
# which do the computing, stay the same size.
#
# Formulas can be wrong, so ask the model itself; yours will do:

# %%
minimal = scfm.load_config("minimal").model
for dims, all_genes, counted in ((shape, len(store.symbols), here), (minimal, 20_000, genome)):
    built = sum(parameter.numel() for parameter in MyTransformer(dims, all_genes).parameters())
    assert built == sum(counted.values())
    print(f"{all_genes:>6,} genes: {built:>9,} numbers in your own class")

# %% [markdown]
# ### The three presets
#
# The same count for all three, with 20,000 genes:

# %%
counts = {}
for preset in ("minimal", "default", "large"):
    m = scfm.load_config(preset).model
    counts[preset] = parameters_by_part(m.n_genes, 20_000, m.gene_embedding_dim, m.hidden_dim, m.ff_dim, m.num_layers)
    print(f"{preset:8} {sum(counts[preset].values()):>10,}")

# %%
blocks = {preset: parts["attention"] + parts["feed_forward"] for preset, parts in counts.items()}
figure, axes = plt.subplots(figsize=(7, 2.6))
genes_part = [sum(counts[preset].values()) - blocks[preset] for preset in counts]
axes.barh([preset.upper() for preset in counts], [n / 1e6 for n in blocks.values()], color=BLUE, label="blocks")
left = [n / 1e6 for n in blocks.values()]
axes.barh(
    [preset.upper() for preset in counts], [n / 1e6 for n in genes_part], left=left, color=ORANGE, label="the rest"
)
axes.invert_yaxis()
axes.set(xlabel="million parameters, with 20,000 genes", title="The larger the model, the more of it is blocks")
axes.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# *Figure: a bar for each preset, the parameters of its blocks in blue and all others, which mostly belong to single
# genes, in orange. In MINIMAL nearly all are orange, in LARGE the blocks are the larger part.*
#
# **Exercise 3.5** (medium, 8 minutes). How many parameters does *one* block of DEFAULT have? Its `hidden_dim` is 256,
# its `ff_dim` 1,024, its `num_heads` 8.

# %%
answer = ...
exercises.check("3.5", answer)

# %% [markdown]
# ## 13. The larger relatives
#
# Our model is a small member of a family. What a *token* is and what the model has to *predict* is where its members
# differ most:
#
# | | tokens | amount | predicts (loss) |
# |---|---|---|---|
# | ours | expressed genes of the 1,000 to 5,000 most variable; the rest in a bag | value: a line per gene, a curve | other half's counts of all genes (multinomial) |
# | scGPT | expressed genes, 1,200 at most | value, in bins per cell | values of withheld genes (squared error) |
# | Geneformer | expressed genes, 2,048 at most | order alone: genes ranked | which gene is masked (cross-entropy) |
# | scFoundation | expressed genes of 19,264 | value, by an embedding | values of masked genes (squared error) |
#
# * **scGPT** ([Cui et al., *Nature Methods* 2024](https://doi.org/10.1038/s41592-024-02201-0); 33 million human cells)
# predicts the genes withheld from those it is given; an attention mask keeps apart what it may know. The 1,200 are a
# limit of its pretraining.
# * **Geneformer** ([Theodoris et al., *Nature* 2023](https://doi.org/10.1038/s41586-023-06139-9); about 30 million
# human cells) ranks a cell's genes by expression relative to their typical level; 15 % of the places are masked. This
# is its first version.
# * **scFoundation** ([Hao et al., *Nature Methods* 2024](https://doi.org/10.1038/s41592-024-02305-7); over 50 million
# human cells) has an encoder for the expressed genes and a decoder for all. It is told the depth of a cell, and the
# depth at which to predict it.
# * **Ours** learns from your cells, and predicts one half of a cell's molecules from the other.
#
# Size and millions of cells do not settle which vectors are better: without fine-tuning, scGPT and Geneformer can do
# worse than simpler methods ([Kedzierska et al., *Genome Biology* 2025](https://doi.org/10.1186/s13059-025-03574-x)).
# So in notebook 06 our model, too, has to stand beside PCA.

# %% [markdown]
# ## Key takeaways
#
# * Every expressed gene is read: [CELL] starts from a bag of all of them, which at the start is a PCA.
# * A token is which gene plus how much of it; a cell is a set of tokens, with [CELL] in front to collect.
# * A hinge bends only at its kink, so kinks belong where the values are.
# * Attention is three steps: scores $QK^\top/\sqrt{d}$, softmax with padding at minus infinity, a weighted sum.
# * A block is attention, then a feed-forward part, each behind a norm and *added* to what was there.
# * The decoder gives each gene a share; a molecule costs minus the logarithm of its gene's share.
# * Two implementations with the same weights must give the same numbers. That test finds most bugs.
# * Parameters can be counted by hand: 3,078,048 for MINIMAL with 20,000 genes.
#
# ## Quiz

# %%
exercises.quiz("3.a")

# %%
# exercises.quiz("3.a", "a")  # your answer

# %%
exercises.quiz("3.b")

# %%
# exercises.quiz("3.b", "a")  # your answer

# %%
exercises.quiz("3.c")

# %%
# exercises.quiz("3.c", "a")  # your answer

# %%
exercises.quiz("3.d")

# %%
# exercises.quiz("3.d", "a")  # your answer

# %% [markdown]
# ## What next
#
# The model is built, but it has not learned anything yet. In [04 · Training](04_training.ipynb) it learns: the loop
# written out, tested on one batch, then the library's.
