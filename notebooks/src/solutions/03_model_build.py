# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Building the model: solutions
#
# Try them yourself first: `exercises.hint("3.1")` gives a nudge.

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
# **Exercise 3.1** (medium, 6 minutes). Write `attention_weights(q, k, seen)` for one head and one cell: `q` and `k`
# are `(T, d)`, `seen` is `(T,)` with False for padding; return the weights `(T, T)`. Then
# `answer = attention_weights`.

# %%
import math

import torch


def attention_weights(q, k, seen):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


answer = attention_weights
exercises.check("3.1", answer)

# %% [markdown]
# **Exercise 3.2** (hard, 12 minutes). Write `cell_row(block, x, seen)`: the output of a block for [CELL] alone,
# `(B, 1, H)`, without computing the other rows. `x` is `(B, T, H)`, `seen` is `(B, T)`, and `block` has the layers of
# your `MyBlock` and its `num_heads`. Then `answer = cell_row`.

# %%
import torch.nn.functional as F


def cell_row(block, x, seen):
    q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)
    parts = (q[:, :1], k, v)  # [CELL] asks, all tokens answer
    q, k, v = (t.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for t in parts)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
    x = x[:, :1] + block.attention_out(mixed.transpose(1, 2).flatten(2))
    return x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))


answer = cell_row
exercises.check("3.2", answer)

# %% [markdown]
# **Exercise 3.3** (easy, 3 minutes). A model that knows nothing gives each of 1,000 genes the same log-odds. What does
# a molecule cost it, in nats? (Two decimals will do.)

# %%

answer = -math.log(1 / 1_000)
exercises.check("3.3", answer)

# %% [markdown]
# **Exercise 3.4** (medium, 8 minutes). How many parameters does *one* block of DEFAULT have? Its `hidden_dim` is 256,
# its `ff_dim` 1,024, its `num_heads` 8.

# %%
h, f = 256, 1024
attention = (h * 3 * h + 3 * h) + (h * h + h)
feed_forward = (h * f + f) + (f * h + h)
norms = 2 * 2 * h
answer = attention + feed_forward + norms
exercises.check("3.4", answer)
