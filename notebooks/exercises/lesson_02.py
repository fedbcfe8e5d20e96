"""Notebook 02, from counts to tokens: quality control, pairs of tokens, splitting molecules, shared genes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .judges import Exercise, Judge, Question, function, number


def _split(answer: Callable[..., Any]) -> str | None:
    counts = np.array([0, 1, 400, 7, 2000, 3] * 20)
    got = answer(counts.copy(), np.random.default_rng(1))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return "return two arrays: return half_a, half_b."
    a, b = (np.asarray(half) for half in got)
    if a.shape != counts.shape or b.shape != counts.shape:
        return f"each half should have shape {counts.shape}; they have {a.shape} and {b.shape}."
    if not np.array_equal(a + b, counts):
        return "the two halves do not add up to the counts: a molecule goes to one half, never to both or to none."
    if (a < 0).any() or (b < 0).any():
        return "a half has fewer than 0 molecules of some gene."
    if (a != np.round(a)).any():
        return "there are halves of molecules: a molecule is whole, it goes here or there."
    large = counts >= 400
    if ((a[large] == 0) | (b[large] == 0)).all():
        return "whole genes go to one side; toss a coin for each molecule of a gene."
    if np.array_equal(a, counts // 2) or np.array_equal(b, counts // 2):
        return "no coin was tossed: every gene is cut in the middle, and the halves are not independent."
    if abs(a.sum() / counts.sum() - 0.5) > 0.02:
        return f"the coin is not fair: {a.sum() / counts.sum():.0%} of the molecules went to the first half."
    spread = (a[large] - counts[large] / 2).std() / np.sqrt(counts[large] / 4).mean()
    if not 0.5 < spread < 1.6:
        return (
            "halves of large counts vary more or less than coins do: n coins have a standard deviation of sqrt(n) / 2."
        )
    if np.array_equal(np.asarray(answer(counts.copy(), np.random.default_rng(2))[0]), a):
        return "another generator gave the same halves: use the one that is passed in."
    return None


def _shared(answer: Any) -> str | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "two numbers are asked for: answer = (choose_from, read)."
    choose_from, read = (float(count) for count in answer)
    if choose_from in (14_000, 18_000, 20_000, 32_000):
        return "a gene that one of the data sets lacks cannot be in the vocabulary: it would look like a zero there."
    if choose_from == 2_000:
        return "2,000 is what it chooses; from how many?"
    if choose_from != 12_000:
        return "the genes that both have: how many are those?"
    if read == 2_000:
        return "2,000 are the tokens; what about the genes that are no tokens?"
    if read == 10_000:
        return "those are the genes in the bag alone; are tokens not in it, and not predicted?"
    if read != 12_000:
        return "the first number is right; can it read more genes than both data sets have?"
    return None


EXERCISES = {
    "2.1": Exercise(
        task="How many cells would min_genes: 200 remove?",
        judge=number(
            7,
            {
                693: "that many would stay; how many go?",
                11: "a cell with exactly 200 genes stays: less than, not at most.",
                700: "that is all of them.",
                (lambda cells: 0 < cells < 1): "that is a share; the number of cells was asked for.",
            },
            rounded=(7.0,),
            otherwise='count the cells whose adata.obs["genes_seen"] is below 200.',
            rel=0,
        ),
        right="7 of 700. On a whole genome cells have more genes, so 200 is a mild cut there.",
        hint='A comparison gives True or False for each cell, and True counts as 1 in a sum. The numbers: adata.obs["genes_seen"].',
        solution="""
            import numpy as np

            import scfm_lib as scfm

            adata = scfm.find_data("bundled")
            genes_seen = np.asarray((adata.X > 0).sum(axis=1)).ravel()
            answer = int((genes_seen < 200).sum())
        """,
    ),
    "2.2": Exercise(
        task="How many times more pairs of tokens do 1,000 tokens make than 112?",
        judge=number(
            1_000**2 / 112**2,
            {
                1_000 / 112: "that is how many times more tokens; each of them looks at each.",
                1_000**2: "that is how many pairs there are for 1,000 tokens; how many times more than for 112?",
                1_000 - 112: "that is a difference of tokens; a ratio of pairs was asked for.",
            },
            otherwise="n tokens make n times n pairs; divide those of 1,000 by those of 112.",
            rel=0.03,  # so that it is right with [CELL] too, 1,001 and 113
            rounded=(80, 79.7, 1_001**2 / 113**2),
        ),
        right="About 80 times. (The rest of the work grows in proportion, so the whole is less than that.)",
        hint="Every token is scored against every token: n * n pairs.",
        solution="answer = 1_000**2 / 112**2",
    ),
    "2.3": Exercise(
        task="Write split(counts, coins): each molecule to one of two halves by a fair coin.",
        judge=function(
            "split",
            _split,
            {
                (lambda n, coins: coins.binomial(n, 0.5)): "return two arrays",
                (lambda n, coins: (coins.binomial(n, 0.5), coins.binomial(n, 0.5))): "do not add up",
                (lambda n, coins: (n / 2, n / 2)): "halves of molecules",
                (lambda n, coins: (n // 2, n - n // 2)): "no coin was tossed",
                (lambda n, coins: (n * (here := coins.random(len(n)) < 0.5), n * ~here)): "whole genes go to one side",
                (lambda n, coins: (half := coins.binomial(n, 0.6), n - half)): "the coin is not fair: 60%",
            },
            [
                (lambda n, coins: (half := coins.binomial(n, 0.5), n - half)),
                (lambda n, coins: [half := coins.binomial(n, 0.5), n - half][::-1]),
                (lambda n, coins: (half := np.array([(coins.random(k) < 0.5).sum() for k in n]), n - half)),
                (lambda n, coins: (half := np.array([coins.integers(0, 2, k).sum() for k in n]), n - half)),
            ],
            returns="two arrays, half_a, half_b",
        ),
        right="The halves are independent samples of the same cell.",
        hint="How many heads in n tosses? coins.binomial(n, 0.5) draws that, for a whole array of n at once.",
        solution="""
            def split(counts, coins):
                half_a = coins.binomial(counts, 0.5)
                return half_a, counts - half_a


            answer = split
        """,
    ),
    "2.4": Exercise(
        task="From how many genes does the library choose its tokens, and how many does the model read and predict?",
        judge=Judge(
            _shared,
            [
                ((20_000, 2_000), "a gene that one of the data sets lacks"),
                ((2_000, 12_000), "2,000 is what it chooses"),
                ((12_000, 2_000), "2,000 are the tokens"),
                ((12_000, 10_000), "those are the genes in the bag alone"),
                ((12_000, 20_000), "can it read more genes"),
                (12_000, "two numbers are asked for"),
            ],
            [(12_000, 12_000), [12e3, 12e3], ("12000", np.int64(12_000))],
        ),
        right="12,000 and 12,000: what every data set measured can be compared, and all of it is read and predicted.",
        hint="What would the model think of a gene that one laboratory never measured?",
        solution="answer = (12_000, 12_000)",
    ),
    "2.5": Exercise(
        task='What share of the cells called "CD14+ Monocyte" has at least one molecule of FCGR3A?',
        judge=number(
            124 / 129,
            {
                124: "that many cells; their share of the 129 was asked for.",
                5 / 129: "that is the share without a molecule of it.",
                124 / 700: "that is a share of all cells; take those of this type alone.",
                124
                / 218: "that is the share of this type among the cells that express FCGR3A; it was asked the other way round.",
                96: "that is in per cent; a share from 0 to 1 was asked for.",
            },
            otherwise="of the cells whose cell_type is that, in how many is the count of FCGR3A above 0?",
            rel=0.01,
            rounded=(0.96, 0.961),
        ),
        right="96 %, and 28 % of them have S100A8. Most of these are non-classical monocytes.",
        hint='Choose the cells with adata.obs["cell_type"] == "CD14+ Monocyte"; then (adata[these, "FCGR3A"].X > 0).',
        solution="""
            import scfm_lib as scfm

            adata = scfm.find_data("bundled")
            these = adata.obs["cell_type"] == "CD14+ Monocyte"
            answer = (adata[these, "FCGR3A"].X > 0).mean()
        """,
    ),
}

QUESTIONS = {
    "2.a": Question(
        "A gene has a count of 0 in a cell. What do you know?",
        {
            "the cell does not express it": "most molecules of a cell are never caught, so it may well; only for deep cells is a 0 good evidence.",
            "none of its molecules was caught": "and that is all. The deeper the cell was read, the more it says.",
            "the measurement failed": "zeros are what most of a good experiment looks like.",
        },
        answer="b",
    ),
    "2.b": Question(
        "Why are highly variable genes chosen without the held-out cells?",
        {
            "to save time": "it takes a second either way.",
            "because held-out cells have poor quality": "they are drawn by a hash of their names; nothing is wrong with them.",
            "because the list is learned from data, and held-out cells must not teach": "else the judge has helped to choose the questions.",
        },
        answer="c",
    ),
    "2.c": Question(
        "Why does each molecule, not each gene, go to one of the halves?",
        {
            "then both halves are samples of the whole cell, and independent of each other given the cell": "so predicting one from the other needs what kind of cell this is, and it trained better too (CONTRIBUTING.md).",
            "then the halves are equal": "coins make them differ; equal halves could be copied.",
            "then there are fewer tokens": "there are more: a gene with many molecules is seen in both.",
        },
        answer="a",
    ),
}
