"""Notebook 07, scaling up: memory is a line in the batch size, gradients of parts, what a second card costs."""

import math
from collections.abc import Callable
from typing import Any

from . import Exercise, Question

AT_16, AT_32, ROOM = 1.1, 1.7, 7.2  # GB, of exercise 7.1
FASTER = 1.6  # times, of exercise 7.3


def _largest_batch(answer: int) -> str | None:
    per_cell = (AT_32 - AT_16) / 16
    right = math.floor((ROOM - (AT_16 - 16 * per_cell)) / per_cell + 1e-9)
    value = float(answer)
    if value == right:
        return None
    if abs(value - ROOM / (AT_32 / 32)) < 1.1:
        return "that takes all of the memory as proportional to the cells; a part of it is there whatever the batch."
    if abs(value - ROOM / (AT_16 / 16)) < 1.1:
        return "that takes memory as proportional, from the smaller batch; parameters are there whatever the batch."
    if abs(value - ROOM / per_cell) < 1.1:
        return "that is what fits if nothing but the cells took memory: take away the part that is always there first."
    if abs(value - (ROOM - AT_32) / per_cell) < 1.1:
        return "so many cells fit on top of the 32 that were measured; count those too."
    if abs(value - right) <= 1:
        return "off by one: a cell that fits by half does not fit, and one that fits just so does."
    return "draw the line through (16, 1.1) and (32, 1.7): where does it start, how steep is it, when is it at 7.2?"


def _whole_gradient(answer: Callable[..., Any]) -> str | None:
    import torch

    if not callable(answer):
        return "answer should be the function itself: answer = whole_gradient, without brackets."
    parts = [torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]), torch.tensor([-3.0, 8.0])]
    molecules = [100.0, 300.0, 50.0]
    got = answer([part.clone() for part in parts], list(molecules))
    if got is None:
        return "the function returns nothing: return the gradient."
    got = torch.as_tensor(got).float()
    if got.shape != (2,):
        return f"the gradient has the shape of each part's, (2,) here; got {tuple(got.shape)}."
    weighted = sum(count * part for count, part in zip(molecules, parts, strict=True))
    if torch.allclose(got, weighted / sum(molecules), atol=1e-5):
        return None
    if torch.allclose(got, sum(parts) / 3, atol=1e-5):
        return "that is the plain mean: a part with 50 molecules counts as much as one with 300."
    if torch.allclose(got, sum(parts), atol=1e-5):
        return "that is the plain sum: with three parts the step would be about three times too long."
    if torch.allclose(got, weighted, rtol=1e-4):
        return "weighted by molecules, but not divided by all of them: the gradient should be per molecule."
    if torch.allclose(got, weighted / 3, rtol=1e-4):
        return "divide by the number of all molecules, not by the number of parts."
    return "each part's gradient is per molecule of that part: times its molecules, added up, over all molecules."


def _second_card(answer: float) -> str | None:
    value, right = float(answer), 2 / FASTER
    if math.isclose(value, right, abs_tol=0.006):
        return None
    if math.isclose(value, 1 / FASTER, abs_tol=0.006):
        return "that is how the hours change; but each hour is now paid for two cards."
    if math.isclose(value, FASTER / 2, abs_tol=0.006):
        return "upside down: that is the share of the second card's work that is not lost on the way."
    if math.isclose(value, 2, abs_tol=0.006):
        return "twice the price an hour, but the hours are fewer."
    if math.isclose(value, FASTER, abs_tol=0.006):
        return "that is how much sooner it is done; what is paid is price per hour times hours."
    return "price per hour changes by one factor and hours by another: multiply them."


EXERCISES = {
    "7.1": Exercise(
        task="What is the largest batch that fits in 7.2 GB, if 16 cells take 1.1 GB and 32 cells take 1.7 GB?",
        judge=_largest_batch,
        right="0.5 GB whatever the batch, and 0.0375 GB for each cell: 178 of them.",
        hint="16 more cells took 0.6 GB more. So what would a batch of no cells take?",
        solution=(
            "per_cell = (1.7 - 1.1) / 16  # GB\n"
            "always = 1.1 - 16 * per_cell  # GB: parameters, gradients, AdamW\n"
            "answer = int((7.2 - always) / per_cell)"
        ),
        minutes=5,
        difficulty="medium",
        wrong=("answer = int(7.2 / (1.7 / 32))", "answer = int(7.2 / (0.6 / 16))", "answer = 146"),
    ),
    "7.2": Exercise(
        task="Write whole_gradient(parts, molecules): the batch's gradient per molecule, from those of its parts.",
        judge=_whole_gradient,
        right="Weighted by molecules it is exact, in however many parts or processes.",
        hint="A part's gradient is its sum over molecules, divided by their number. Undo that, add, divide by all.",
        solution=(
            "def whole_gradient(parts, molecules):\n"
            "    weighted = sum(count * part for part, count in zip(parts, molecules, strict=True))\n"
            "    return weighted / sum(molecules)\n"
            "\n\n"
            "answer = whole_gradient"
        ),
        minutes=6,
        difficulty="medium",
        wrong=(
            "def answer(parts, molecules):\n    return sum(parts) / len(parts)",
            "def answer(parts, molecules):\n    return sum(parts)",
            "def answer(parts, molecules):\n    return sum(count * part for part, count in zip(parts, molecules, strict=True))",
        ),
    ),
    "7.3": Exercise(
        task="Two cards are 1.6 times as fast as one. How many times as much does the run cost, at twice the price an hour?",
        judge=_second_card,
        right="1.25 times: a quarter more money, and the run is done in 62.5 % of the time.",
        hint="Cost is price per hour times hours. The price doubles; what do the hours do?",
        solution="answer = 2 / 1.6",
        minutes=3,
        difficulty="easy",
        wrong=("answer = 1 / 1.6", "answer = 1.6 / 2", "answer = 2"),
    ),
}

QUESTIONS = {
    "7.a": Question(
        question="Training runs out of a card's memory. Which lever changes nothing but the time a step takes?",
        choices={
            "a": "a smaller model",
            "b": "a smaller batch with accumulation, so that a step has as many cells as before",
            "c": "half of the cells",
        },
        answer="b",
        why={
            "a": "it is another model, which may learn less.",
            "b": "the gradients of the parts add up to that of the whole, so the steps stay the same, but for rounding.",
            "c": "the cells of a data set lie on disk; a batch takes as much memory as before.",
        },
    ),
    "7.b": Question(
        question="Your data set grows from 10,000 to a million cells of the same kind. What grows in proportion?",
        choices={
            "a": "the memory of the card",
            "b": "the memory of the machine",
            "c": "the store on disk and the time of an epoch",
        },
        answer="c",
        why={
            "a": "it holds the model and one batch, whose size you chose.",
            "b": "the store is mapped, not loaded: only what a batch needs is read.",
            "c": "each cell is kept once on disk and seen once an epoch. Fewer epochs may do, then.",
        },
    ),
    "7.c": Question(
        question="Why share weights as safetensors and not as a pickle?",
        choices={
            "a": "a pickle can run code on the machine of whoever opens it",
            "b": "safetensors rounds the weights, so the file is smaller",
            "c": "a pickle cannot hold tensors",
        },
        answer="a",
        why={
            "a": "safetensors holds names, shapes and numbers, and nothing that could be run.",
            "b": "nothing is rounded: the vectors are equal to the bit.",
            "c": "it can, and much besides, which is the trouble.",
        },
    ),
}
