"""Notebook 03, the model: a bag, attention weights, the last block's one row, what knowing nothing costs, counting."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scfm_lib.config import ModelConfig
from scfm_lib.model import Block

from .judges import Exercise, Question, function, number, outputs, same, slip

BAGS = {  # wrong answers to exercise 3.1
    (
        lambda genes, values, vectors, centre: values @ vectors[genes]
    ): "right but for the centre: take it away at the end.",
    (
        lambda genes, values, vectors, centre: (values > 0).float() @ vectors[genes] - centre
    ): "every gene counts as much as any other: each vector should be multiplied by its gene's value.",
    (
        lambda genes, values, vectors, centre: values @ vectors[genes] / (values > 0).sum() - centre
    ): "that is the mean over the genes; a bag is their sum, so that a cell with more genes has more in it.",
    (
        lambda genes, values, vectors, centre: values @ (vectors[genes] - centre)
    ): "the centre is taken away once for each gene; it is the bag of the mean cell, so take it from the sum, once.",
    (
        lambda genes, values, vectors, centre: vectors[genes].sum(0) - centre
    ): "the values are missing, so padding has a say too: it looks up gene 0.",
    (
        lambda genes, values, vectors, centre: values @ vectors[: len(values)] - centre
    ): "these are the vectors of the first genes of the table; look up those of the cell: vectors[genes].",
    (
        lambda genes, values, vectors, centre: torch.zeros(len(vectors)).index_put((genes,), values) @ vectors - centre
    ): "gene 0 is expressed here, and padding, which names gene 0 too, wrote its 0 over it: add, do not overwrite.",
}


def _bag(answer: Callable[..., Tensor]) -> str | None:
    coins = torch.Generator().manual_seed(0)
    genes, vectors = torch.tensor([4, 0, 2, 0, 0]), torch.randn(12, 3, generator=coins)
    values, centre = torch.tensor([1.5, 0.5, 2.0, 0.0, 0.0]), torch.randn(3, generator=coins)
    got = torch.as_tensor(answer(genes.clone(), values.clone(), vectors.clone(), centre.clone())).float()
    if got.shape == (5, 3):
        return "there is still a row for each gene: add them up."
    if got.shape != (3,):
        return f"vectors of width 3 should give a bag of shape (3,); got {tuple(got.shape)}."
    return slip(
        got,
        values @ vectors[genes] - centre,
        outputs(BAGS, genes, values, vectors, centre),
        "the numbers differ: the sum over the genes of value times vectors[gene], less the centre.",
    )


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.T / math.sqrt(q.shape[-1])


def _weights(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


ATTENTION = {  # wrong answers to exercise 3.2
    (
        lambda q, k, seen: _weights(q @ k.T, seen)
    ): "the softmax is right but for the scale: divide the scores by the square root of d.",
    (
        lambda q, k, seen: _weights(q @ k.T / q.shape[-1], seen)
    ): "the scores are divided by d; the square root of d was asked for.",
    (
        lambda q, k, seen: _scores(q, k).softmax(-1)
    ): "padding still gets a share: set its column to minus infinity before the softmax.",
    (
        lambda q, k, seen: _scores(q, k).softmax(-1) * seen
    ): "padding is set to 0 after the softmax, so the other weights no longer add up to 1: mask before it.",
    (
        lambda q, k, seen: (_scores(q, k) * seen).softmax(-1)
    ): "a score of 0 is not a weight of 0, since exp(0) = 1: use minus infinity for padding.",
    (
        lambda q, k, seen: _scores(q, k).masked_fill(~seen, -torch.inf)
    ): "these are scores, not yet weights: the softmax is missing.",
    (lambda q, k, seen: _scores(q, k)): "these are scores, not yet weights: mask and softmax are missing.",
    (
        lambda q, k, seen: _weights(q @ k.T / 4, seen)
    ): "scores are divided by 4, whatever d is: the square root of d, which is the last dimension of q.",
    (
        lambda q, k, seen: _weights(_scores(k, q), seen)
    ): "queries and keys are exchanged: row i should hold what token i asks, q[i] with every k.",
}


def _attention(answer: Callable[..., Tensor]) -> str | None:
    q, k = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    seen = torch.tensor([True, True, True, True, False])
    got = torch.as_tensor(answer(q.clone(), k.clone(), seen.clone())).float()
    if got.shape != (5, 5):
        return f"5 tokens should give weights of shape (5, 5), a row for each token that asks; got {tuple(got.shape)}."
    if got.isnan().any():
        return (
            "there are NaNs: somewhere the softmax met nothing but minus infinity. The mask belongs on the columns "
            "(who is read), and the softmax runs along each row."
        )
    return slip(
        got[seen],  # what padding asks is read by nobody, so its row may hold anything
        _weights(_scores(q, k), seen)[seen],
        [
            *((weights[seen], why) for weights, why in outputs(ATTENTION, q, k, seen)),
            (
                lambda got: not same(got.sum(-1), torch.ones(4), atol=1e-4),
                "each row should add up to 1: along which dimension does the softmax run?",
            ),
        ],
        "rows add up to 1, but the weights differ: scores are q times k transposed, over the square root of d.",
    )


def _attended(block: nn.Module, x: Tensor, seen: Tensor, heads: int = 2, asking: int = 1) -> Tensor:
    """The first `asking` rows after a block's attention, (B, asking, H), from its layers."""
    q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q[:, :asking], k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
    return x[:, :asking] + block.attention_out(mixed.transpose(1, 2).flatten(2))


def _rest(block: nn.Module, x: Tensor) -> Tensor:
    """What a block does after attention."""
    return x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))


def _by_hand(block: nn.Module, x: Tensor, seen: Tensor, heads: int = 2, asking: int = 1) -> Tensor:
    """The first `asking` rows that a block gives, (B, asking, H)."""
    return _rest(block, _attended(block, x, seen, heads, asking))


class _MyBlock(Block):
    """The library's block with the two calls that the lesson's own has: `block(x, seen)` and `block.attend(x, seen)`."""

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        return _attended(self, x, seen, asking=x.shape[1])

    def forward(self, x: Tensor, attend: Tensor, cell_only: bool = False) -> Tensor:
        return super().forward(x, attend[:, None, None, :] if attend.dim() == 2 else attend, cell_only)


class _Asking(TorchFunctionMode):
    """Notes how many of 6 tokens ask in the attention that is computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 1

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is F.scaled_dot_product_attention:
            self.rows = max(self.rows, (args[0] if args else kwargs["query"]).shape[-2])
        elif isinstance(made, Tensor) and made.shape[-2:] == (6, 6):  # a score for each pair
            self.rows = 6
        return made


CELL_ROWS = {  # wrong answers to exercise 3.3
    (
        lambda block, x, seen: _by_hand(block, x[:, :1], seen[:, :1])
    ): "[CELL] reads nobody but itself: only its query is needed, but the keys and values of all tokens.",
    (
        lambda block, x, seen: _by_hand(block, x, torch.ones_like(seen))
    ): "right but for padding: it is read too. Where does seen come in?",
    (
        lambda block, x, seen: _by_hand(block, x, seen, heads=1)
    ): "one head over the whole width; the block has 2, each with a softmax of its own.",
}


def _cell_row(answer: Callable[..., Tensor]) -> str | None:
    small = ModelConfig(n_genes=20, gene_embedding_dim=8, hidden_dim=16, num_layers=1, num_heads=2, ff_dim=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block, x = _MyBlock(small).eval(), torch.randn(2, 6, 16)
    seen = torch.ones(2, 6, dtype=torch.bool)
    seen[1, 4:] = False
    asked: list[bool] = []  # was the library's forward used?
    rows = [1]  # tokens of a cell that went through the layers after attention
    hooks = [block.register_forward_pre_hook(lambda *_: asked.append(True))]
    for layer in (block.attention_out, block.ff_in):
        hooks.append(layer.register_forward_pre_hook(lambda _, given: rows.append(given[0].numel() // (2 * 16))))
    with torch.no_grad():
        try:
            with _Asking() as asking:
                got = answer(block, x.clone(), seen.clone())
        finally:
            for hook in hooks:
                hook.remove()
        right = block(x, seen[:, None, None, :], cell_only=True)
        wrong = outputs(CELL_ROWS, block, x, seen)
    if asked:
        return "that calls the block as a whole, which computes every row: use its layers (block.qkv, ...) one by one."
    if got.shape == x.shape:
        return "the rows of all tokens came back; [CELL]'s alone was asked for, the first one."
    if got.shape != right.shape:
        return f"the shape should be (B, 1, H), here {tuple(right.shape)}, not {tuple(got.shape)}: slice by [:, :1]."
    if same(got, right) and (worked_on := max(asking.rows, *rows)) > 1:
        return (
            f"the numbers are right, but {worked_on} rows of each cell were worked on and thrown away: keep [CELL]'s "
            "query alone, before attention."
        )
    return slip(
        got,
        right,
        wrong,
        "the numbers differ: attention for [CELL]'s query, added to x[:, :1], then the feed-forward part, added too.",
    )


def _all_ask(block: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
    """Right numbers, for which every token asks and all but [CELL]'s answers are thrown away."""
    q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in block.qkv(block.attention_norm(x)).chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
    return _rest(block, x[:, :1] + block.attention_out(mixed.transpose(1, 2).flatten(2)[:, :1]))


def _without_fused_attention(block: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
    """Exercise 3.3 with the query of [CELL] alone made from its part of the weights, and attention as plain products."""
    normed, (wide, half) = block.attention_norm(x), (x.shape[-1], x.shape[-1] // 2)
    q = F.linear(normed[:, :1], block.qkv.weight[:wide], block.qkv.bias[:wide])
    k, v = block.qkv(normed)[..., wide:].chunk(2, dim=-1)
    heads = []
    for part in (slice(0, half), slice(half, wide)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / half**0.5
        heads.append(scores.masked_fill(~seen[:, None, :], -torch.inf).softmax(-1) @ v[..., part])
    return _rest(block, x[:, :1] + block.attention_out(torch.cat(heads, dim=-1)))


NATS = math.log(1_000)  # of exercise 3.4
H, FF = 256, 1_024  # DEFAULT's block, of exercise 3.5
WEIGHTS, BIASES, NORMS = 4 * H * H + 2 * H * FF, 5 * H + FF, 2 * 2 * H
BLOCK = WEIGHTS + BIASES + NORMS

EXERCISES = {
    "3.1": Exercise(
        task="Write bag(genes, values, vectors, centre): value times vector, added up over a cell's genes, less the centre.",
        judge=function(
            "bag",
            _bag,
            {
                **BAGS,
                (lambda genes, values, vectors, centre: values[:, None] * vectors[genes]): "a row for each gene",
                (lambda genes, values, vectors, centre: values @ vectors[genes] + centre): "the numbers differ",
            },
            [
                (lambda genes, values, vectors, centre: (values[:, None] * vectors[genes]).sum(0) - centre),
                (lambda genes, values, vectors, centre: torch.einsum("s,se->e", values, vectors[genes]) - centre),
                (lambda genes, values, vectors, centre: vectors[genes[values > 0]].T @ values[values > 0] - centre),
                (
                    lambda genes, values, vectors, centre: (
                        torch.zeros(len(vectors)).scatter_add(0, genes, values) @ vectors - centre
                    ).numpy()
                ),
            ],
            returns="the bag",
        ),
        right="Padding adds 0 times a vector, so it has no say, and no order is left in a sum.",
        hint="vectors[genes] is (S, E). values @ that multiplies each row by its value and adds up.",
        solution="""
            def bag(genes, values, vectors, centre):
                return values @ vectors[genes] - centre


            answer = bag
        """,
    ),
    "3.2": Exercise(
        task="Write attention_weights(q, k, seen): one head's weights for one cell, (T, T), nothing for padding.",
        judge=function(
            "attention_weights",
            _attention,
            {
                **ATTENTION,
                (lambda q, k, seen: _scores(q, k).masked_fill(~seen, -torch.inf).softmax(0)): "there are NaNs",
                (lambda q, k, seen: _scores(q, k).softmax(0)): "along which dimension does the softmax run?",
            },
            [
                (lambda q, k, seen: _weights(_scores(q, k), seen[None, :])),
                (lambda q, k, seen: (_scores(q, k) + torch.where(seen, 0.0, -torch.inf)).softmax(1)),
                (lambda q, k, seen: _weights(_scores(q, k), seen) * seen[:, None]),
                (lambda q, k, seen: (e := _scores(q, k).exp() * seen) / e.sum(1, keepdim=True)),
                (
                    lambda q, k, seen: F.scaled_dot_product_attention(
                        *(t[None] for t in (q, k, torch.eye(len(k)))), attn_mask=seen[None, None]
                    )[0]
                ),
            ],
            returns="the weights",
        ),
        right="Every row adds up to 1, and padding gets exactly 0.",
        hint="scores = q @ k.T / square root of d; scores.masked_fill(~seen, -torch.inf); then .softmax(dim=-1).",
        solution="""
            import math

            import torch


            def attention_weights(q, k, seen):
                scores = q @ k.T / math.sqrt(q.shape[-1])
                return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


            answer = attention_weights
        """,
    ),
    "3.3": Exercise(
        task="Write cell_row(block, x, seen): a block's output for [CELL] alone, (B, 1, H).",
        judge=function(
            "cell_row",
            _cell_row,
            {
                **CELL_ROWS,
                (lambda block, x, seen: block(x, seen)[:, :1]): "that calls the block as a whole",
                (lambda block, x, seen: block(x, seen[:, None, None, :])[:, :1]): "that calls the block as a whole",
                (lambda block, x, seen: _rest(block, block.attend(x, seen)[:, :1])): "6 rows of each cell",
                (lambda block, x, seen: _by_hand(block, x, seen, asking=6)): "the rows of all tokens came back",
                (lambda block, x, seen: _by_hand(block, x, seen, asking=6)[:, :1]): "6 rows of each cell",
                _all_ask: "6 rows of each cell",
            },
            [_by_hand, _without_fused_attention, (lambda block, x, seen: _by_hand(block, x, seen).contiguous())],
            returns="[CELL]'s row, (B, 1, H)",
        ),
        right="One query reads all keys and values; no other row goes through the layers that come after.",
        hint="q = q[:, :1] after the chunk, k and v as they are. Then go on with x[:, :1] in the place of x.",
        solution="""
            import torch.nn.functional as F


            def cell_row(block, x, seen):
                q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)
                parts = (q[:, :1], k, v)  # [CELL] asks, all tokens answer
                q, k, v = (t.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for t in parts)
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
                x = x[:, :1] + block.attention_out(mixed.transpose(1, 2).flatten(2))
                return x + block.ff_out(F.gelu(block.ff_in(block.ff_norm(x))))


            answer = cell_row
        """,
    ),
    "3.4": Exercise(
        task="What does a molecule cost a model that gives 1,000 genes the same log-odds, in nats?",
        judge=number(
            NATS,
            {
                1 / 1_000: "that is the share each gene gets; the loss of a molecule is minus the logarithm of it.",
                -NATS: "the sign: the logarithm of a share below 1 is negative, and the loss is minus that.",
                math.log2(1_000): "that is in bits (logarithm to base 2); nats use the natural logarithm.",
                3: "that is the logarithm to base 10; nats use the natural logarithm, math.log or np.log.",
                1_000 * NATS: "that sums over the genes; a molecule belongs to one gene, so it pays once.",
            },
            otherwise="equal log-odds give each gene the same share: which? A molecule costs minus the natural logarithm of it.",
            rounded=(6.9, 6.91, 6.908),
        ),
        right="ln(1,000), about 6.91 nats: the model hesitates among all 1,000 genes.",
        hint="Which share does each of 1,000 equal genes get? Minus the natural logarithm of it.",
        solution="""
            import math

            answer = -math.log(1 / 1_000)
        """,
    ),
    "3.5": Exercise(
        task="How many parameters does one block of DEFAULT have (h = 256, f = 1,024, 8 heads)?",
        judge=number(
            BLOCK,
            {
                WEIGHTS: "those are the weights of the linear layers alone; each layer has a bias for every output too.",
                WEIGHTS + BIASES: "close: the two layer norms are missing, each with a scale and a shift of width h.",
                WEIGHTS + NORMS: "close: the biases of the linear layers are missing, one for every output.",
                4 * BLOCK: "that is all 4 blocks of DEFAULT; one was asked for.",
                4 * H * H + 4 * H: "that is attention alone; the feed-forward part and the norms come on top.",
                2 * H * FF + FF + H: "that is the feed-forward part alone; attention and the norms come on top.",
                198_272: "that is a block of MINIMAL; DEFAULT has h = 256 and f = 1,024.",
            },
            otherwise=lambda count: (
                "close: give every digit, as a count has."
                if abs(count - BLOCK) < 0.001 * BLOCK
                else "too many: heads share the layers, so their number changes no count."
                if count > BLOCK
                else "too few: there are four linear layers (qkv, attention_out, ff_in, ff_out) and two norms."
            ),
            rel=0,
        ),
        right="789,760. DEFAULT has four of them: 3,159,040 of its 8,695,520 parameters at 20,000 genes.",
        hint="qkv: h to 3h. attention_out: h to h. ff_in: h to f. ff_out: f to h, all with biases. Two norms: 2h each.",
        solution="""
            h, f = 256, 1024
            attention = (h * 3 * h + 3 * h) + (h * h + h)
            feed_forward = (h * f + f) + (f * h + h)
            norms = 2 * 2 * h
            answer = attention + feed_forward + norms
        """,
    ),
}

QUESTIONS = {
    "3.a": Question(
        "You give the model the same genes and values of a cell in another order. What happens to its vector?",
        {
            "it changes, since a transformer reads its tokens one after the other": "tokens are read all at once; a transformer that should know their order must be told positions.",
            "it stays the same, but for rounding": "nothing tells the model a position, and sums do not mind the order: a cell is a set of genes.",
            "it changes unless the genes are sorted by name": "no order is special: the model is told which gene a token is by its embedding, not by its place.",
        },
        answer="b",
    ),
    "3.b": Question(
        "Why can the last block compute [CELL] alone, but not the blocks before it?",
        {
            "the gene tokens that an earlier block makes are read by the next one": "they become keys and values there; after the last block nobody reads them.",
            "the blocks before it have no [CELL] token": "[CELL] is put in front before the first block, and goes through all of them.",
            "it could be done in all blocks, with the same result": "then the next block would find no gene tokens to read; try it, and the numbers change.",
        },
        answer="a",
    ),
    "3.c": Question(
        "Which of these models is told the order of a cell's genes by expression, but no expression values?",
        {
            "scGPT": "scGPT is told values, sorted into bins within each cell.",
            "ours": "ours is told values, as log1p of counts per 10,000, and no order.",
            "Geneformer": "it is given genes ranked by expression relative to their typical level; the position is the value.",
        },
        answer="c",
    ),
    "3.d": Question(
        "A gene is expressed but not among the n_genes most variable. What becomes of it?",
        {
            "nothing: the model never learns of it": "it is in the bag from which [CELL] starts, and its molecules are predicted too.",
            "it becomes a token like the others, but its weight in attention is small": "it has no embedding among the tokens; its column is masked or left out, so attention gives it exactly 0.",
            "it is thrown into the bag where [CELL] starts, and its molecules are predicted": "take it away and the vector changes, as you saw. What it cannot do is attend to other genes.",
        },
        answer="c",
    ),
}
