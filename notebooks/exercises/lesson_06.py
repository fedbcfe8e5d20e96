"""Notebook 06, evaluation: find the leak, macro-F1, the spread over seeds, a mean of crashes, a claim to defend."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import harmonic_mean, mean, pstdev, stdev, variance
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from .judges import Exercise, Judge, Question, function, number, outputs, slip

INNOCENT = {
    1: "step 1 is a rule fixed beforehand and applied to each cell by itself: nothing is learned from held-out cells.",
    3: "step 3 divides a cell by its own total: no other cell is read.",
    4: "step 4 fits on the training cells and only applies what it learned: that is how it should be.",
}
MISSED = {  # the steps that leak
    2: "one step chooses something by looking at all cells, held-out ones too, before anything is trained.",
    5: "one step looks at the held-out score several times and keeps what looked best there.",
    6: "one step puts cells that are alike for a reason (not their type) on both sides. Read what is to be claimed.",
}
SCGPT, HARMONY = (0.4832, 0.4562, 0, 0.4342, 0, 0), (0.5753, 0.4982, 0.4171, 0.5237, 0.5345, 0.4507)  # OpenProblems
OURS, THEIRS = (0.79, 0.75, 0.82, 0.77), (0.77, 0.74, 0.78, 0.75)


def _leaks(answer: Sequence[int]) -> str | None:
    given = {int(step) for step in (re.findall(r"\d+", answer) if isinstance(answer, str) else answer)}
    if strange := sorted(given - INNOCENT.keys() - MISSED.keys()):
        return f"there are steps 1 to 6; {strange[0]} is not one of them."
    if innocent := sorted(given & INNOCENT.keys()):
        return INNOCENT[innocent[0]]
    if missed := sorted(MISSED.keys() - given):
        return f"{len(given)} found, more to find: {MISSED[missed[0]]}"
    return None


def _f1(truth: np.ndarray, guess: np.ndarray, average: str | None = None) -> Any:
    return f1_score(truth, guess, average=average, zero_division=0)


def _macro(score: Callable[..., float], truth: np.ndarray, guess: np.ndarray) -> float:
    return score(truth, guess, average="macro", zero_division=0)


F1_SCORES = {  # wrong answers to exercise 6.2
    accuracy_score: "that is accuracy: rare types hardly count there. Give each type an F1 first.",
    (
        lambda t, g: _f1(t, g, "weighted")
    ): "that weighs each type by its cells; macro means that every type counts the same.",
    (
        lambda t, g: _f1(t, g)[_f1(t, g) > 0].mean()
    ): "the type that was never guessed was left out of the mean. It was missed completely, which is an F1 of 0.",
    (lambda t, g: _macro(recall_score, t, g)): "that is the mean recall; F1 also has precision in it.",
    (lambda t, g: _macro(precision_score, t, g)): "that is the mean precision; F1 also has recall in it.",
    (
        lambda t, g: harmonic_mean([_macro(precision_score, t, g), _macro(recall_score, t, g)])
    ): "precision and recall were averaged first; take the F1 of each type, then the mean.",
    (lambda t, g: _f1(t, g).sum()): "that is the sum over the types, not their mean.",
}


def _from_a_table(truth: Sequence[str], guess: Sequence[str]) -> float:
    """Exercise 6.2 by counting pairs."""
    pairs, kinds = Counter(zip(truth, guess, strict=True)), sorted(set(truth))
    said, meant = Counter(guess), Counter(truth)
    return sum(2 * pairs[kind, kind] / (said[kind] + meant[kind]) for kind in kinds) / len(kinds)


def _macro_f1(answer: Callable[..., Any]) -> str | None:
    truth = np.array(["B"] * 6 + ["T"] * 12 + ["DC"] * 3)
    guess = np.array(["B"] * 4 + ["T"] * 2 + ["T"] * 11 + ["B"] + ["T"] * 3)  # no DC is ever guessed
    try:
        got = float(answer(truth.copy(), guess.copy()))
    except KeyError as missing:
        if missing.args != ("DC",):  # an error of another kind
            raise
        return f"{missing} is never guessed here, so a table of guesses has no column for it; its TP is 0, and so is its F1."
    return slip(
        got,
        _f1(truth, guess, "macro"),
        [
            (math.isnan, "NaN: a type that is never guessed has no true positives; its F1 is 0, not 0 / 0."),
            *outputs(F1_SCORES, truth, guess),
        ],
        "the number differs. For each type: F1 = 2 TP / (2 TP + FP + FN); then the mean over the types of truth.",
        rel=0,
        atol=6e-4,  # three digits will do
    )


def _spread(answer: Sequence[float]) -> str | None:
    try:
        difference, error = map(float, answer)
    except (TypeError, ValueError):
        return "give two numbers: answer = (mean difference, its standard error)."
    differences = [a - b for a, b in zip(OURS, THEIRS, strict=True)]
    right, deviation, biased = mean(differences), stdev(differences), pstdev(differences) / 2
    apart = math.sqrt(variance(OURS) / 4 + variance(THEIRS) / 4)
    return slip(
        difference,
        right,
        [(-right, "the sign: ours less PCA was asked for.")],
        "the mean difference is off: ours less PCA for each seed, then their mean.",
        atol=6e-4,
    ) or slip(
        error,
        deviation / 2,
        {
            deviation: "that is the standard deviation of a difference; the mean of n has that over the square root of n.",
            biased: "divide the squares by n - 1, not n (ddof=1): the mean itself was estimated from these four.",
            apart: "that forgets that both were judged on the same split: take the spread of the four differences.",
        }.items(),
        "the mean is right, the standard error is not: standard deviation of the four differences, over the root of 4.",
        atol=4e-4,
    )


def _of_finished(answer: Sequence[float]) -> str | None:
    try:
        scgpt, harmony = map(float, answer)
    except (TypeError, ValueError):
        return "give two numbers: answer = (scGPT's mean, Harmony's mean)."
    finished = [place for place, score in enumerate(SCGPT) if score]
    right, beside = (mean(scores[place] for place in finished) for scores in (SCGPT, HARMONY))
    return slip(
        scgpt,
        right,
        {
            mean(SCGPT): "for scGPT, crashes are still counted as 0: take only the data sets on which it has a score.",
            sum(SCGPT) / 5: "scGPT finished three of the six: divide by how many scores it has.",
            beside: "the other way round: scGPT first, then Harmony.",
        }.items(),
        "scGPT's mean is off: add up its scores and divide by how many there are.",
        atol=6e-3,
    ) or slip(
        harmony,
        beside,
        [(mean(HARMONY), "Harmony's mean is over all six sets, scGPT's over three: take the same three for both.")],
        "Harmony's mean is off: over the three data sets that scGPT finished.",
        atol=6e-3,
    )


EXERCISES = {
    "6.1": Exercise(
        task="Which of the six steps let the answer leak? Give a list of their numbers.",
        judge=Judge(
            _leaks,
            [
                *(([2, 5, 6, step], why) for step, why in INNOCENT.items()),
                *(([step for step in MISSED if step != missed], why) for missed, why in MISSED.items()),
                ([2, 5, 6, 7], "7 is not one of them"),
            ],
            [[2, 5, 6], {6, 5, 2}, np.array([5, 2, 6]), ("2", "5", "6"), "2, 5 and 6"],
        ),
        right="Choosing genes, choosing k and splitting donors: each lets held-out cells say something beforehand.",
        hint="Ask of each step: had the held-out cells been others, would it have come out differently?",
        solution="answer = [2, 5, 6]",
    ),
    "6.2": Exercise(
        task="Write macro_f1(truth, guess) without sklearn.",
        judge=function(
            "macro_f1",
            _macro_f1,
            {
                **F1_SCORES,
                (lambda truth, guess: math.nan): "NaN: a type",
                (lambda truth, guess: pd.crosstab(truth, guess)["DC"].sum()): "'DC' is never guessed here",
            },
            [
                (lambda truth, guess: round(_f1(truth, guess, "macro"), 3)),
                _from_a_table,
                (lambda truth, guess: torch.tensor(_from_a_table(list(truth), list(guess)))),
            ],
            returns="the mean",
        ),
        right="Every type counts the same, so a rare type that is missed costs as much as a common one.",
        hint="For each type: TP = ((guess == t) & (truth == t)).sum(), and so on; F1 = 2 TP / (2 TP + FP + FN).",
        solution="""
            import numpy as np


            def macro_f1(truth, guess):
                scores = []
                for kind in np.unique(truth):
                    tp = ((guess == kind) & (truth == kind)).sum()
                    fp = ((guess == kind) & (truth != kind)).sum()
                    fn = ((guess != kind) & (truth == kind)).sum()
                    scores.append(2 * tp / (2 * tp + fp + fn))
                return np.mean(scores)


            answer = macro_f1
        """,
    ),
    "6.3": Exercise(
        task="Four seeds, two methods: the mean difference and its standard error, as (mean, error).",
        judge=Judge(
            _spread,
            [
                ((-0.0225, 0.0063), "the sign"),
                ((0.05, 0.0063), "the mean difference is off"),
                ((0.0225, 0.0126), "the mean of n has that over the square root of n"),
                ((0.0225, 0.0054), "divide the squares by n - 1"),
                ((0.0225, 0.0175), "both were judged on the same split"),
            ],
            [(0.0225, 0.0063), (0.023, 0.006), np.array([0.0225, 0.00629])],
        ),
        right="3.6 standard errors, but of four seeds alone (p is about .04), and other cells or donors were not tried.",
        hint="Same seed, same split: subtract seed by seed first. Then np.std(differences, ddof=1) / n ** 0.5.",
        solution="""
            import numpy as np

            ours, pca = np.array([0.79, 0.75, 0.82, 0.77]), np.array([0.77, 0.74, 0.78, 0.75])
            difference = ours - pca
            answer = (difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5)
        """,
    ),
    "6.4": Exercise(
        task="Means of scGPT and of Harmony over the data sets that scGPT finished, as (scGPT's, Harmony's).",
        judge=Judge(
            _of_finished,
            [
                ((0.2289, 0.4999), "crashes are still counted as 0"),
                ((0.2747, 0.5324), "divide by how many scores it has"),
                ((0.4579, 0.4999), "take the same three for both"),
                ((0.5324, 0.4579), "the other way round"),
                ((0.4579, 0.61), "Harmony's mean is off"),
            ],
            [(0.4579, 0.5324), (0.458, 0.532), np.array([0.45787, 0.5324])],
        ),
        right="Doing nothing has .422 there: scGPT is above that and below Harmony, and not at half of it.",
        hint="Which columns of scGPT are not 0? Take those three, for both methods.",
        solution="""
            scgpt = [0.4832, 0.4562, 0.4342]
            harmony = [0.5753, 0.4982, 0.5237]
            answer = (sum(scgpt) / 3, sum(harmony) / 3)
        """,
    ),
    "6.5": Exercise(
        task="Which of the four sentences may stand in a paper? Give its number.",
        judge=number(
            3,
            {
                1: "1 names neither data, score nor seeds, and it is not what was measured: PCA is ahead in some of it.",
                2: "2 speaks of donors, but cells of the same experiment were held out: no new donor was ever judged.",
                4: "4 reports only what looks well: the distance that suits the model best, no seeds, and not PBMC3k, where PCA leads by NMI.",
            },
            otherwise="there are sentences 1 to 4.",
            rel=0,
        ),
        right="It says on which cells, by which score, beside what, how often repeated, and where the model loses.",
        hint="Look for what was compared, on which cells, how often, and whether the losses are told.",
        solution="answer = 3",
    ),
}

QUESTIONS = {
    "6.a": Question(
        "The UMAP of model A shows tidier islands than that of model B. What follows?",
        {
            "A's vectors tell cell types apart better": "UMAP pulls neighbours together whatever they are, and its islands change with its settings and seed.",
            "nothing yet: measure both with a probe on held-out cells": "a UMAP is a picture to look at, not a measurement; what matters is what can be read from the vectors.",
            "A was trained for longer": "nothing in a UMAP tells how long a model was trained.",
        },
        answer="b",
    ),
    "6.b": Question(
        "[CELL] gives a gene ten times the even share of its attention. What do you know?",
        {
            "the gene decides which type the cell is": "attention is a weight inside the model; the model was never told a type.",
            "without the gene, the cell's vector would change most": "not necessarily: that depends on what is read there too, and on the earlier blocks. It can be measured.",
            "the last block reads that token a lot; take the gene away to see what it changes": "attention says where a block reads. What a gene changes is another question with its own experiment.",
        },
        answer="c",
    ),
    "6.c": Question(
        "With 5 labels per type, fine-tuning gives .60 and logistic regression on a PCA .66, five draws each. Then?",
        {
            "use the PCA with logistic regression, and report both, with their spread": "the simpler method is a fine answer, and the reader learns when the model is not worth its trouble.",
            "try other learning rates on the held-out cells until fine-tuning wins": "then the held-out cells have chosen the rate, and the score on them is no longer honest.",
            "report only the draw in which fine-tuning won": "the best of five draws is luck by choice. Mean and spread over all of them, please.",
        },
        answer="a",
    ),
    "6.d": Question(
        "Model A has the higher silhouette, model B the higher kNN macro-F1. Which vectors do you take to name cells?",
        {
            "A's: its types are further apart": "tight, far islands are what the silhouette rewards, and cells can lie in the wrong one.",
            "B's: there a cell's neighbours are of its type": "that is what naming by neighbours needs; check that the difference is larger than its range.",
            "the mean of both scores decides": "a mean of two measures that ask different things answers neither question.",
        },
        answer="b",
    ),
}
