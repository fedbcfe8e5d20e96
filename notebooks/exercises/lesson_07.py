"""Notebook 07, scaling up: memory is a line in the batch size, gradients of parts, what a second card costs."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .judges import Exercise, Question, function, number, outputs, slip


def _weighted(parts: list[Tensor], molecules: list[float]) -> Tensor:
    return sum(count * part for part, count in zip(parts, molecules, strict=True))


NOT_ADDED = "that is a gradient for each part; the batch has one: add them up."
GRADIENTS = {  # wrong answers to exercise 7.2
    (lambda g, n: sum(g) / 3): "that is the plain mean: a part with 50 molecules counts as much as one with 300.",
    (lambda g, n: sum(g)): "that is the plain sum: with three parts the step would be about three times too long.",
    _weighted: "weighted by molecules, but not divided by all of them: the gradient should be per molecule.",
    (lambda g, n: _weighted(g, n) / 3): "divide by the number of all molecules, not by the number of parts.",
    (lambda g, n: [part * count / sum(n) for part, count in zip(g, n, strict=True)]): NOT_ADDED,
}


def _whole_gradient(answer: Callable[..., Tensor]) -> str | None:
    parts = [torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]), torch.tensor([-3.0, 8.0])]
    molecules = [100.0, 300.0, 50.0]
    got = answer([part.clone() for part in parts], list(molecules))
    if isinstance(got, list | tuple) and len(got) == len(parts):
        return NOT_ADDED
    got = torch.as_tensor(got).float()
    if got.shape != (2,):
        return f"the gradient has the shape of each part's, (2,) here; got {tuple(got.shape)}."
    return slip(
        got,
        _weighted(parts, molecules) / sum(molecules),
        outputs(GRADIENTS, parts, molecules),
        "each part's gradient is per molecule of that part: times its molecules, added up, over all molecules.",
    )


EXERCISES = {
    "7.1": Exercise(
        task="What is the largest batch that fits in 7.2 GB, if 16 cells take 1.1 GB and 32 cells take 1.7 GB?",
        judge=number(
            178,
            {
                range(
                    135, 137
                ): "that takes all of the memory as proportional to the cells; a part of it is there whatever the batch.",
                range(
                    104, 106
                ): "that takes memory as proportional, from the smaller batch; parameters are there whatever the batch.",
                range(
                    191, 194
                ): "that is what fits if nothing but the cells took memory: take away the part that is always there first.",
                range(146, 148): "so many cells fit on top of the 32 that were measured; count those too.",
                179: "one too many: 179 cells take 7.21 GB.",
                range(149, 178): "that fits, and leaves some room; the largest that fits was asked for.",
            },
            otherwise="draw the line through (16, 1.1) and (32, 1.7): where does it start, how steep is it, when is it at 7.2?",
            rel=0,
        ),
        right="0.5 GB whatever the batch, and 0.0375 GB for each cell: 178 of them.",
        hint="16 more cells took 0.6 GB more. So what would a batch of no cells take?",
        solution="""
            per_cell = (1.7 - 1.1) / 16  # GB
            always = 1.1 - 16 * per_cell  # GB: parameters, gradients, the optimizer's averages
            answer = int((7.2 - always) / per_cell)
        """,
    ),
    "7.2": Exercise(
        task="Write whole_gradient(parts, molecules): the batch's gradient per molecule, from those of its parts.",
        judge=function(
            "whole_gradient",
            _whole_gradient,
            GRADIENTS,
            [
                (lambda g, n: sum(count / sum(n) * part for part, count in zip(g, n, strict=True))),
                (lambda g, n: torch.tensor(n) @ torch.stack(g) / sum(n)),
                (lambda g, n: np.average(np.stack(g), axis=0, weights=n)),
            ],
            returns="the gradient",
        ),
        right="Weighted by molecules it is exact, in however many parts or processes.",
        hint="A part's gradient is its sum over molecules, divided by their number. Undo that, add, divide by all.",
        solution="""
            def whole_gradient(parts, molecules):
                weighted = sum(count * part for part, count in zip(parts, molecules, strict=True))
                return weighted / sum(molecules)


            answer = whole_gradient
        """,
    ),
    "7.3": Exercise(
        task="Two cards are 1.6 times as fast as one. How many times as much does the run cost, at twice the price an hour?",
        judge=number(
            2 / 1.6,
            {
                1 / 1.6: "that is how the hours change; but each hour is now paid for two cards.",
                1.6 / 2: "upside down: that is the share of the second card's work that is not lost on the way.",
                2: "twice the price an hour, but the hours are fewer.",
                1.6: "that is how much sooner it is done; what is paid is price per hour times hours.",
            },
            otherwise="price per hour changes by one factor and hours by another: multiply them.",
            rel=0.045,
            rounded=(1.25, 1.3, 1.2),
        ),
        right="1.25 times: a quarter more money, and the run is done in 62.5 % of the time.",
        hint="Cost is price per hour times hours. The price doubles; what do the hours do?",
        solution="answer = 2 / 1.6  # twice the price an hour, for 1 / 1.6 of the hours",
    ),
}

QUESTIONS = {
    "7.a": Question(
        "Training runs out of a card's memory. Which lever changes nothing but the time a step takes?",
        {
            "a smaller model": "it is another model, which may learn less.",
            "a smaller batch with accumulation, so that a step has as many cells as before": "the gradients of the parts add up to that of the whole, so the steps stay the same, but for rounding.",
            "half of the cells": "the cells of a data set lie on disk; a batch takes as much memory as before.",
        },
        answer="b",
    ),
    "7.b": Question(
        "Your data set grows from 10,000 to a million cells of the same kind. What grows in proportion?",
        {
            "the memory of the card": "it holds the model and one batch, whose size you chose.",
            "the memory of the machine": "the store is mapped, not loaded: only what a batch needs is read.",
            "the store on disk and the time of an epoch": "each cell is kept once on disk and seen once an epoch. Fewer epochs may do, then.",
        },
        answer="c",
    ),
    "7.c": Question(
        "Why share weights as safetensors and not as a pickle?",
        {
            "a pickle can run code on the machine of whoever opens it": "safetensors holds names, shapes and numbers, and nothing that could be run.",
            "safetensors rounds the weights, so the file is smaller": "nothing is rounded: the vectors are equal to the bit.",
            "a pickle cannot hold tensors": "it can, and much besides, which is the trouble.",
        },
        answer="a",
    ),
}
