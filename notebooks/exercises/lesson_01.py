"""Notebook 01, the machine: bytes of training, the largest batch, half precision, hours."""

import re
from typing import Any

from .judges import Exercise, Judge, Question, number

PARAMETERS = 8_695_520  # DEFAULT's with 20,000 genes
COPY = 4 * PARAMETERS / 1e6  # MB: one number of 4 bytes for each of them
KEPT = 4 * COPY  # MB: the parameter, its gradient, and AdamW's two averages
ACTIVATIONS = 772_982_272 / 32  # bytes for one cell of a batch; a test compares with what the lesson prints


def _cells(free: float) -> int:
    """Cells whose activations fit in so many bytes."""
    return int(free // ACTIVATIONS)


CELLS = _cells(4e9 - 500e6 - KEPT * 1e6)  # of exercise 1.2
HOURS = 25_000 * 0.8 * 50 / 300 / 3600  # of exercise 1.4


SPELLED = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float": "fp32"}
SCALING = r"scaler|scaling|(scal|multipl).*(loss|grad)|(loss|grad).*(scal|multipl)"  # words that mean a gradient scaler


def _precision(answer: Any) -> str | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return 'two answers are asked for: answer = ("precision", "what keeps them").'
    kind, keeper = (str(word).lower().strip().removeprefix("torch.") for word in answer)
    kind = SPELLED.get(kind, kind)
    if kind == "bf16":
        return "a T4 has compute capability 7.5; bf16 in hardware begins at 8.0. See what the library printed for it."
    if kind == "fp32":
        return "fp32 would do, but leaves the T4's tensor cores idle; the library takes what is fast there."
    if kind != "fp16":
        return f'{kind!r} is none of "fp32", "bf16" and "fp16".'
    if not re.search(SCALING, keeper):
        return "fp16 is right. Below about 6e-8 it has nothing, and coarse steps well before: what lifts gradients up first?"
    return None


EXERCISES = {
    "1.1": Exercise(
        task="How many MB do DEFAULT's parameters, gradients and optimizer take together?",
        judge=number(
            KEPT,
            {
                COPY: "that is one copy, 4 bytes each; training keeps a gradient and averages of it too.",
                KEPT / 1e3: "that is in GB; megabytes were asked for.",
                2 * COPY: "those are parameters and gradients; the optimizer keeps averages too.",
                3 * COPY: "that is one average; AdamW keeps two for each parameter.",
                1e6 * KEPT: "that is in bytes; a megabyte is 1,000,000 of them.",
                1e6 * KEPT / 2**20: "that is in MiB (1,048,576 bytes); here a megabyte is 1,000,000 bytes.",
            },
            otherwise="4 bytes for a number; how many numbers does training keep for each parameter?",
            rounded=(139, 139.1, 139.13),
        ),
        right="139 MB, 16 bytes for each parameter. Not what fills a card.",
        hint="Four numbers of 4 bytes: the parameter, its gradient, and two averages.",
        solution="""
            answer = 8_695_520 * 4 * 4 / 1e6
        """,
    ),
    "1.2": Exercise(
        task="The largest batch of DEFAULT that fits in 4 GB of a T4?",
        judge=number(
            CELLS,
            {
                (lambda cells: cells % 1 != 0): "a batch has whole cells: the last one would have to be cut.",
                CELLS + 1: "one cell too many: round down, or the last one does not fit.",
                range(
                    _cells(4e9), _cells(4e9) + 2
                ): "that leaves nothing for what torch takes on the card (500 MB) and for the parameters.",
                range(
                    _cells(4e9 - 500e6), _cells(4e9 - 500e6) + 2
                ): "close: the parameters with their gradients and averages need room too.",
                range(_cells(4e9 - KEPT * 1e6), _cells(4e9 - KEPT * 1e6) + 2): "torch's own 500 MB are missing.",
            },
            otherwise="what is left of 4 GB for activations, divided by the activations of one cell (a 32nd of those printed)?",
            rel=0,
        ),
        right=f"{CELLS} cells. Real batches differ in length, so leave some room: scfm estimate says how much.",
        hint="Take 500 MB and the answer to 1.1 off 4 GB; divide by a 32nd of the activations; round down.",
        solution="""
            activations = 773e6 / 32  # bytes for one cell of a batch
            left = 4e9 - 500e6 - 139.1e6  # the last: exercise 1.1
            answer = int(left // activations)
        """,
    ),
    "1.3": Exercise(
        task="Which precision on a T4, and what keeps gradients of 1e-8 from becoming 0?",
        judge=Judge(
            _precision,
            [
                (("bf16", "its range"), "bf16 in hardware begins at 8.0"),
                (("fp32", "its digits"), "leaves the T4's tensor cores idle"),
                (("fp16", "clipping"), "fp16 is right"),
                (("fp16", "scaled dot product attention"), "fp16 is right"),
                (("int8", "scaler"), "'int8' is none of"),
                ("fp16", "two answers are asked for"),
            ],
            [
                ("fp16", "gradient scaler"),
                ("torch.float16", "loss scaling"),
                ("FP16", "multiplying the loss first"),
                ["half", "GradScaler"],
            ],
        ),
        right="fp16 with a gradient scaler: it multiplies the loss by a large number, and divides before the step.",
        hint="The library printed what it takes for a T4. What keeps them is in the sentence above that.",
        solution='answer = ("fp16", "scaler")',
    ),
    "1.4": Exercise(
        task="How many hours do 50 epochs of 25,000 cells take at 300 cells a second, with 20 % held out?",
        judge=number(
            HOURS,
            {
                HOURS * 3600: "that is in seconds; an hour has 3,600.",
                HOURS * 60: "that is in minutes; hours were asked for.",
                HOURS / 0.8: "that counts the held-out cells too; nothing is learned from them.",
                HOURS / 50: "that is one epoch; there are 50.",
            },
            otherwise="cells to learn from, times epochs, over cells a second; then seconds to hours.",
            rel=0.03,
            rounded=(0.9, 0.93, 0.926),
        ),
        right="0.93 hours, about 56 minutes.",
        hint="20,000 cells are learned from in each epoch.",
        solution="answer = 25_000 * 0.8 * 50 / 300 / 3600",
    ),
}

QUESTIONS = {
    "1.a": Question(
        "Training does not fit in your card's memory. What helps most?",
        {
            "fewer cells in the data set": "cells are read from disk batch by batch, so the data set's length hardly counts; it costs time.",
            "fewer cells in a batch": "activations follow the batch, and they are most of it; accumulation keeps the step as large.",
            "fewer epochs": "each epoch reuses the same memory; fewer save time alone.",
        },
        answer="b",
    ),
    "1.b": Question(
        "torch.cuda.is_available() is True. Does that mean that you can train on the card?",
        {
            "yes, that is what it asks": "it asks the driver, not the build of torch: on Kaggle's P100 it is True and every kernel fails.",
            "only if the card has 12 GB": "MINIMAL needs less than 1 GB; memory is another question.",
            "not yet: run a kernel on it": "a build of torch may hold no code for the card; scfm check runs a kernel in a process of its own.",
        },
        answer="c",
    ),
    "1.c": Question(
        "Your container may use 2 of a machine's 64 cores. How many threads for training?",
        {
            "64": "64 threads would take turns on 2 cores and wait for each other.",
            "2": "one for each core that you may use; scfm check reads the container's limit.",
            "32, half of them": "still 16 threads for each core that you may use.",
        },
        answer="b",
    ),
}
