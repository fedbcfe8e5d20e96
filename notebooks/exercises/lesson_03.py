"""Notebook 03, the model: attention weights, the last block's one row, what knowing nothing costs, counting."""

import math
from collections.abc import Callable
from typing import Any

from . import Exercise, Question

GENES = 1_000  # of exercise 3.3
H, F, LAYERS = 256, 1024, 4  # DEFAULT's block, of exercise 3.4


def _attention(answer: Callable[..., Any]) -> str | None:
    import torch

    if not callable(answer):
        return "answer should be the function itself: answer = attention_weights, without brackets."
    coins = torch.Generator().manual_seed(0)
    q, k = (torch.randn(5, 16, generator=coins) for _ in range(2))
    seen = torch.tensor([True, True, True, True, False])
    got = answer(q.clone(), k.clone(), seen.clone())
    if got is None:
        return "the function returns nothing: return the weights."
    got = torch.as_tensor(got).float()
    if got.shape != (5, 5):
        return f"5 tokens should give weights of shape (5, 5), a row for each token that asks; got {tuple(got.shape)}."
    if got.isnan().any():
        return (
            "there are NaNs: somewhere the softmax met nothing but minus infinity. The mask belongs on the columns "
            "(who is read), and the softmax runs along each row."
        )

    def weights(scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    scores = q @ k.T
    scaled = scores / math.sqrt(16)
    slips = [
        ("the softmax is right but for the scale: divide the scores by the square root of d.", weights(scores)),
        ("the scores are divided by d; the square root of d was asked for.", weights(scores / 16)),
        ("padding still gets a share: set its column to minus infinity before the softmax.", scaled.softmax(-1)),
        (
            "padding is set to 0 after the softmax, so the other weights no longer add up to 1: mask before it.",
            scaled.softmax(-1) * seen,
        ),
        (
            "a score of 0 is not a weight of 0, since exp(0) = 1: use minus infinity for padding.",
            (scaled * seen).softmax(-1),
        ),
        ("these are scores, not yet weights: the softmax is missing.", scaled.masked_fill(~seen, -torch.inf)),
        ("these are scores, not yet weights: mask and softmax are missing.", scaled),
        ("queries and keys are exchanged: row i should hold what token i asks, q[i] with every k.", weights(scaled.T)),
    ]
    if torch.allclose(got, weights(scaled), atol=1e-5):
        return None
    for message, wrong in slips:
        if torch.allclose(got, wrong, atol=1e-5):
            return message
    if not torch.allclose(got.sum(-1), torch.ones(5), atol=1e-4):
        return "each row should add up to 1: along which dimension does the softmax run?"
    return "rows add up to 1, but the weights differ: scores are q times k transposed, over the square root of d."


def _cell_row(answer: Callable[..., Any]) -> str | None:
    import torch

    from scfm_lib.config import ModelConfig
    from scfm_lib.model import Block

    if not callable(answer):
        return "answer should be the function itself: answer = cell_row, without brackets."
    small = ModelConfig(n_genes=20, gene_embedding_dim=8, hidden_dim=16, num_layers=1, num_heads=2, ff_dim=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, x = Block(small).eval(), torch.randn(2, 6, 16)
    seen = torch.ones(2, 6, dtype=torch.bool)
    seen[1, 4:] = False
    attend = seen[:, None, None, :]
    asked: list[bool] = []  # was the library's forward used?
    rows = [1]  # tokens of a cell that went through the layers after attention
    hooks = [block.register_forward_pre_hook(lambda *_: asked.append(True))]
    for layer in (block.attention_out, block.ff_in):
        hooks.append(layer.register_forward_pre_hook(lambda _, given: rows.append(given[0].numel() // (2 * 16))))
    with torch.no_grad():
        try:
            got = answer(block, x.clone(), seen.clone())
        finally:
            for hook in hooks:
                hook.remove()
        expected = block(x, attend, cell_only=True)
        alone = block(x[:, :1], torch.ones(2, 1, 1, 1, dtype=torch.bool))
        unmasked = block(x, torch.ones_like(attend))[:, :1]
        block.num_heads = 1
        one_head = block(x, attend)[:, :1]
    if got is None:
        return "the function returns nothing: return [CELL]'s row, (B, 1, H)."
    if asked:
        return "that calls the library's block as a whole; use its layers (block.qkv, ...), as in your own class."
    if got.shape == x.shape:
        return "the rows of all tokens came back; [CELL]'s alone was asked for, the first one."
    if got.shape != expected.shape:
        return f"the shape should be (B, 1, H), here {tuple(expected.shape)}, not {tuple(got.shape)}: slice by [:, :1]."

    def same(wrong: torch.Tensor) -> bool:
        return torch.allclose(got, wrong, atol=1e-5)

    if same(expected):
        if max(rows) == 1:
            return None
        return (
            f"the numbers are right, but {max(rows)} rows of each cell were worked on and thrown away: keep [CELL]'s "
            "query alone, before attention."
        )
    if same(alone):
        return "[CELL] reads nobody but itself: only its query is needed, but the keys and values of all tokens."
    if same(unmasked):
        return "right but for padding: it is read too. Where does seen come in?"
    if same(one_head):
        return f"one head over the whole width; the block has {small.num_heads}, each with a softmax of its own."
    return "the numbers differ: attention for [CELL]'s query, added to x[:, :1], then the feed-forward part, added too."


def _knows_nothing(answer: float) -> str | None:
    value, right = float(answer), math.log(GENES)
    if math.isclose(value, right, abs_tol=0.01):
        return None
    if math.isclose(value, 1 / GENES, rel_tol=0.01):
        return "that is the share each gene gets; the loss of a molecule is minus the logarithm of it."
    if math.isclose(value, -right, abs_tol=0.01):
        return "the sign: the logarithm of a share below 1 is negative, and the loss is minus that."
    if math.isclose(value, math.log2(GENES), abs_tol=0.05):
        return "that is in bits (logarithm to base 2); nats use the natural logarithm."
    if math.isclose(value, math.log10(GENES), abs_tol=0.01):
        return "that is the logarithm to base 10; nats use the natural logarithm, math.log or np.log."
    if math.isclose(value, GENES * right, rel_tol=0.01):
        return "that sums over the genes; a molecule belongs to one gene, so it pays once."
    return "equal log-odds give each gene the same share: which? A molecule costs minus the natural logarithm of it."


def _one_block(answer: int) -> str | None:
    weights = 3 * H * H + H * H + 2 * H * F
    biases = 3 * H + H + F + H
    norms = 2 * 2 * H
    right = weights + biases + norms
    value = float(answer)
    if value == right:
        return None
    if value == weights:
        return "those are the weights of the linear layers alone; each layer has a bias for every output too."
    if value == weights + biases:
        return "close: the two layer norms are missing, each with a scale and a shift of width h."
    if value == weights + norms:
        return "close: the biases of the linear layers are missing, one for every output."
    if value == right * LAYERS:
        return f"that is all {LAYERS} blocks of DEFAULT; one was asked for."
    if value == 3 * H * H + H * H + 3 * H + H:
        return "that is attention alone; the feed-forward part and the norms come on top."
    if value == 2 * H * F + F + H:
        return "that is the feed-forward part alone; attention and the norms come on top."
    if value == 4 * 128 * 128 + 2 * 128 * 512 + 4 * 128 + 512 + 128 + 4 * 128:
        return "that is a block of MINIMAL; DEFAULT has h = 256 and f = 1,024."
    if value > right:
        return f"too many by {value - right:,.0f}. Heads share the layers: their number changes no count."
    return f"too few by {right - value:,.0f}. Four linear layers (qkv, attention_out, ff_in, ff_out), two norms."


EXERCISES = {
    "3.1": Exercise(
        task="Write attention_weights(q, k, seen): one head's weights for one cell, (T, T), nothing for padding.",
        judge=_attention,
        right="Every row adds up to 1, and padding gets exactly 0.",
        hint="scores = q @ k.T / square root of d; scores.masked_fill(~seen, -torch.inf); then .softmax(dim=-1).",
        solution=(
            "import math\n"
            "\n"
            "import torch\n"
            "\n\n"
            "def attention_weights(q, k, seen):\n"
            "    scores = q @ k.T / math.sqrt(q.shape[-1])\n"
            "    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)\n"
            "\n\n"
            "answer = attention_weights"
        ),
        minutes=6,
        difficulty="medium",
        wrong=(
            "def answer(q, k, seen):\n    return (q @ k.T).masked_fill(~seen, -torch.inf).softmax(dim=-1)",
            "def answer(q, k, seen):\n    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)",
            "def answer(q, k, seen):\n    return (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf).softmax(dim=0)",
        ),
    ),
    "3.2": Exercise(
        task="Write cell_row(block, x, seen): a block's output for [CELL] alone, (B, 1, H).",
        judge=_cell_row,
        right="One query reads all keys and values; no other row goes through the layers that come after.",
        hint="q = q[:, :1] after the chunk, k and v as they are. Then go on with x[:, :1] in the place of x.",
        solution=(
            "import torch.nn.functional as F\n"
            "\n\n"
            "def cell_row(block, x, seen):\n"
            "    q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)\n"
            "    parts = (q[:, :1], k, v)  # [CELL] asks, all tokens answer\n"
            "    q, k, v = (t.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for t in parts)\n"
            "    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])\n"
            "    x = x[:, :1] + block.attention_out(mixed.transpose(1, 2).flatten(2))\n"
            "    return x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))\n"
            "\n\n"
            "answer = cell_row"
        ),
        minutes=12,
        difficulty="hard",
        wrong=(
            "def answer(block, x, seen):\n    return block(x, seen[:, None, None, :], cell_only=True)",
            "import torch.nn.functional as F\ndef answer(block, x, seen):\n    q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)\n    q, k, v = (t.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for t in (q[:, :1], k, v))\n    mixed = F.scaled_dot_product_attention(q, k, v)\n    x = x[:, :1] + block.attention_out(mixed.transpose(1, 2).flatten(2))\n    return x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))",
        ),
    ),
    "3.3": Exercise(
        task="What does a molecule cost a model that gives 1,000 genes the same log-odds, in nats?",
        judge=_knows_nothing,
        right="ln(1,000), about 6.91 nats: the model hesitates among all 1,000 genes.",
        hint="Which share does each of 1,000 equal genes get? Minus the natural logarithm of it.",
        solution="import math\n\nanswer = -math.log(1 / 1_000)",
        minutes=3,
        difficulty="easy",
        wrong=(
            "answer = 1 / 1_000",
            "answer = math.log2(1_000)",
        ),
    ),
    "3.4": Exercise(
        task="How many parameters does one block of DEFAULT have (h = 256, f = 1,024, 8 heads)?",
        judge=_one_block,
        right="789,760. DEFAULT has four of them, and they are most of its 3,780,752 parameters.",
        hint="qkv: h to 3h. attention_out: h to h. ff_in: h to f. ff_out: f to h, all with biases. Two norms: 2h each.",
        solution=(
            "h, f = 256, 1024\n"
            "attention = (h * 3 * h + 3 * h) + (h * h + h)\n"
            "feed_forward = (h * f + f) + (f * h + h)\n"
            "norms = 2 * 2 * h\n"
            "answer = attention + feed_forward + norms"
        ),
        minutes=8,
        difficulty="medium",
        wrong=(
            "h, f = 256, 1024\nanswer = 4 * h * h + 2 * h * f",
            "h, f = 256, 1024\nanswer = 4 * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h)",
        ),
    ),
}

QUESTIONS = {
    "3.a": Question(
        question="You give the model the same genes and values of a cell in another order. What happens to its vector?",
        choices={
            "a": "it changes, since a transformer reads its tokens one after the other",
            "b": "it stays the same, but for rounding",
            "c": "it changes unless the genes are sorted by name",
        },
        answer="b",
        why={
            "a": "tokens are read all at once; a transformer that should know their order must be told positions.",
            "b": "nothing tells the model a position, and sums do not mind the order: a cell is a set of genes.",
            "c": "no order is special: the model is told which gene a token is by its embedding, not by its place.",
        },
    ),
    "3.b": Question(
        question="Why can the last block compute [CELL] alone, but not the blocks before it?",
        choices={
            "a": "the gene tokens that an earlier block makes are read by the next one",
            "b": "the blocks before it have no [CELL] token",
            "c": "it could be done in all blocks, with the same result",
        },
        answer="a",
        why={
            "a": "they become keys and values there; after the last block nobody reads them.",
            "b": "[CELL] is put in front before the first block, and goes through all of them.",
            "c": "then the next block would find no gene tokens to read; try it, and the numbers change.",
        },
    ),
    "3.c": Question(
        question="Which of these models is told the order of a cell's genes by expression, but no expression values?",
        choices={"a": "scGPT", "b": "ours", "c": "Geneformer"},
        answer="c",
        why={
            "a": "scGPT is told values, sorted into bins within each cell.",
            "b": "ours is told values, as log1p of counts per 10,000, and no order.",
            "c": "it is given genes ranked by expression relative to their typical level; the position is the value.",
        },
    ),
}
