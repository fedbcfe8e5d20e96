"""Notebook 01, the machine: bytes of training, the largest batch, half precision, hours."""

import math
from typing import Any

from . import Exercise, Question

PARAMETERS = 3_780_752  # DEFAULT's
ACTIVATIONS = 644_749_568  # bytes: DEFAULT on a T4, batches of 32, as `scfm.estimate` counts them
OVERHEAD, BUDGET, BATCH = 500_000_000, 4_000_000_000, 32  # of exercise 1.2
CELLS, HELD_OUT, EPOCHS, SPEED = 25_000, 0.2, 50, 300  # of exercise 1.4


def _megabytes(answer: float) -> str | None:
    value, one = float(answer), 4 * PARAMETERS / 1e6

    def near(wrong: float) -> bool:
        return math.isclose(value, wrong, rel_tol=0.005)

    if near(4 * one):
        return None
    if near(one):
        return "that is one copy, 4 bytes each; training keeps a gradient and two averages of it too."
    if near(2 * one) or near(3 * one):
        return f"that is {value / one:.0f} copies; AdamW alone keeps two numbers for each parameter."
    if near(4 * one * 1e6):
        return "that is in bytes; a megabyte is 1,000,000 of them."
    if near(4 * one * 1e6 / 2**20):
        return "that is in MiB (1,048,576 bytes); here a megabyte is 1,000,000 bytes."
    return "4 bytes for a number; how many numbers does training keep for each parameter?"


def _batch(answer: float) -> str | None:
    value, per_cell = float(answer), ACTIVATIONS / BATCH
    exact = (BUDGET - OVERHEAD - 16 * PARAMETERS) / per_cell
    if value == math.floor(exact):
        return None
    if value != int(value):
        return f"a batch has whole cells: {value:.1f} would have to be cut."
    if value == math.ceil(exact):
        return "one cell too many: round down, or the last one does not fit."
    if abs(value - BUDGET / per_cell) <= 1:
        return "that leaves nothing for what torch takes on the card (500 MB) and for the parameters."
    if abs(value - (BUDGET - OVERHEAD) / per_cell) <= 1:
        return "close: the parameters with their gradients and averages need room too, 16 bytes each."
    if abs(value - (BUDGET - 16 * PARAMETERS) / per_cell) <= 1:
        return "torch's own 500 MB are missing."
    return "what is left of 4 GB for activations, divided by the activations of one cell (a 32nd of those printed)?"


def _precision(answer: Any) -> str | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return 'two words are asked for: answer = ("precision", "what keeps them").'
    kind, keeper = (str(word).lower().strip() for word in answer)
    if kind == "bf16":
        return "a T4 has compute capability 7.5; bf16 in hardware begins at 8.0. See what the library printed for it."
    if kind == "fp32":
        return "fp32 would do, but leaves the T4's tensor cores idle; the library takes what is fast there."
    if kind != "fp16":
        return f'{kind!r} is none of "fp32", "bf16" and "fp16".'
    if "scal" not in keeper:
        return "fp16 is right. Below about 6e-8 it has nothing, and coarse steps well before: what lifts gradients up first?"
    return None


def _hours(answer: float) -> str | None:
    value = float(answer)
    seconds = CELLS * (1 - HELD_OUT) * EPOCHS / SPEED

    def near(wrong: float) -> bool:
        return math.isclose(value, wrong, rel_tol=0.02)

    if near(seconds / 3600):
        return None
    if near(seconds):
        return "that is in seconds; an hour has 3,600."
    if near(seconds / 60):
        return "that is in minutes; hours were asked for."
    if near(seconds / 3600 / (1 - HELD_OUT)):
        return "that counts the held-out cells too; nothing is learned from them."
    if near(seconds / 3600 / EPOCHS):
        return f"that is one epoch; there are {EPOCHS}."
    return "cells to learn from, times epochs, over cells a second; then seconds to hours."


EXERCISES = {
    "1.1": Exercise(
        task="How many MB do DEFAULT's parameters, gradients and optimizer take together?",
        judge=_megabytes,
        right="60 MB, 16 bytes for each parameter. Not what fills a card.",
        hint="Four numbers of 4 bytes for each parameter.",
        solution="answer = 3_780_752 * 4 * 4 / 1e6",
        minutes=3,
        difficulty="easy",
        wrong=("answer = 3_780_752 * 4 / 1e6", "answer = 3_780_752 * 16", "answer = 3_780_752 * 12 / 1e6"),
    ),
    "1.2": Exercise(
        task="The largest batch of DEFAULT that fits in 4 GB of a T4?",
        judge=_batch,
        right="170 cells. Real batches differ in length, so leave some room: scfm estimate says how much.",
        hint="Take 500 MB and 16 bytes a parameter off 4 GB; divide by a 32nd of the activations; round down.",
        solution=(
            "activations = 644_749_568 / 32  # bytes for one cell of a batch\n"
            "left = 4_000_000_000 - 500_000_000 - 16 * 3_780_752\n"
            "answer = int(left // activations)"
        ),
        minutes=6,
        difficulty="medium",
        wrong=("answer = 198", "answer = 173", "answer = 171"),
    ),
    "1.3": Exercise(
        task="Which precision on a T4, and what keeps gradients of 1e-6 from becoming 0?",
        judge=_precision,
        right="fp16 with a gradient scaler: it multiplies the loss by a large number, and divides before the step.",
        hint="The library printed what it takes for a T4. The second word is in the sentence above that.",
        solution='answer = ("fp16", "scaler")',
        minutes=3,
        difficulty="easy",
        wrong=('answer = ("bf16", "its range")', 'answer = ("fp16", "clipping")', 'answer = ("fp32", "its digits")'),
    ),
    "1.4": Exercise(
        task="How many hours do 50 epochs of 25,000 cells take at 300 cells a second, with 20 % held out?",
        judge=_hours,
        right="0.93 hours, about 56 minutes.",
        hint="20,000 cells are learned from in each epoch.",
        solution="answer = 25_000 * 0.8 * 50 / 300 / 3600",
        minutes=5,
        difficulty="medium",
        wrong=(
            "answer = 25_000 * 50 / 300 / 3600",
            "answer = 25_000 * 0.8 * 50 / 300 / 60",
            "answer = 25_000 * 0.8 / 300 / 3600",
        ),
    ),
}

QUESTIONS = {
    "1.a": Question(
        question="Training does not fit in your card's memory. What helps most?",
        choices={
            "a": "fewer cells in the data set",
            "b": "fewer cells in a batch",
            "c": "fewer epochs",
        },
        answer="b",
        why={
            "a": "cells are read from disk batch by batch, so the data set's length hardly counts; it costs time.",
            "b": "activations follow the batch, and they are most of it; accumulation keeps the step as large.",
            "c": "each epoch reuses the same memory; fewer save time alone.",
        },
    ),
    "1.b": Question(
        question="torch.cuda.is_available() is True. Does that mean that you can train on the card?",
        choices={
            "a": "yes, that is what it asks",
            "b": "only if the card has 12 GB",
            "c": "not yet: run a kernel on it",
        },
        answer="c",
        why={
            "a": "it asks the driver, not the build of torch: on Kaggle's P100 it is True and every kernel fails.",
            "b": "MINIMAL needs less than 1 GB; memory is another question.",
            "c": "a build of torch may hold no code for the card; scfm check runs a kernel in a process of its own.",
        },
    ),
    "1.c": Question(
        question="Your container may use 2 of a machine's 64 cores. How many threads for training?",
        choices={"a": "64", "b": "2", "c": "32, half of them"},
        answer="b",
        why={
            "a": "64 threads would take turns on 2 cores and wait for each other.",
            "b": "one for each core that you may use; scfm check reads the container's limit.",
            "c": "still 16 threads for each core that you may use.",
        },
    ),
}
