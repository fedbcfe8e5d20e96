"""Notebook 05, watching a run: an alarm, what a batch weighs, four slow runs, what a worker can save."""

from collections.abc import Callable
from math import inf, nan

import numpy as np

from .judges import Exercise, Question, function, labels, number, slip

TRAVEL = 64 * 150 * (8 + 4) * 2 / 12e9 * 1e6  # microseconds, of exercise 5.2
CAUSES = {"A": "tiny batch", "B": "host", "C": "loader", "D": "no mixed precision"}  # of exercise 5.3
RUNS = (  # of exercise 5.1: losses, norms, the alarm, what a slip there means
    ([6.0, 5.6, 5.4, 5.5, 5.3], [1.0, 0.9, 3.0, 0.8, 0.9], None, "a small rise wakes you at night for nothing"),
    ([6.0, 5.5, 5.2, 5.9, 5.3], [1.0] * 5, 3, "a jump is missed: compare with the lowest loss so far, not the first"),
    ([6.0, 5.0, 5.3, 5.6, 5.9], [1.0] * 5, 3, "a slow climb is missed: no single step of it is large"),
    ([6.0, 5.5, nan, nan], [1.0] * 4, 2, "a loss that is not a number is missed: NaN > x is False, whatever x is"),
    ([6.0, 5.5, 5.2, 5.1], [1.0, 1.0, inf, 1.0], 2, "an infinite gradient norm is missed"),
    ([6.0, 5.5, 5.2, 5.1], [1.0, nan, 1.0, 1.0], 1, "a gradient norm that is not a number is missed"),
    ([nan, nan], [1.0, 1.0], 0, "a run that is broken from its first row is missed: 0 is a row too, and not None"),
    ([6.0, 5.8, 7.0, 8.0], [1.0] * 4, 2, "the first row that alarms is asked for"),
)
SECONDS = ((0.2, 0.3), (0.3, 0.2), (0.1, 0.1), (4.0, 1.0))  # of data and of compute, of exercise 5.4
SPEEDUPS = {  # wrong answers to exercise 5.4
    (lambda d, c: (d + c) / c): "the wait vanishes only if preparing is the shorter part; try it with 4 s and 1 s.",
    (lambda d, c: (d + c) / d): "that is right only where preparing takes longer than computing.",
    (lambda d, c: max(d, c) / (d + c)): "upside down: how many times as fast is the old time over the new.",
    max: "that is the seconds of the new step; how many times as fast is the old step over it.",
    (
        lambda d, c: (d + c) / min(d, c)
    ): "the two go on side by side, and the longer one sets the pace, not the shorter.",
}


def _alarm(answer: Callable[[list[float], list[float]], int | None]) -> str | None:
    for losses, norms, expected, meaning in RUNS:
        got = answer(list(losses), list(norms))
        if isinstance(got, bool):
            return "it says whether, not where: return the number of the row, or None."
        if got != expected:
            return f"{meaning}. With losses {losses} and norms {norms} it returns {got!r}."
    return None


def _alarm_of_arrays(losses: list[float], norms: list[float]) -> np.integer | None:
    """Exercise 5.1 without a loop."""
    before = np.minimum.accumulate([inf, *losses[:-1]])
    rows = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms) & (losses - before <= 0.5)))
    return rows[0] if len(rows) else None


def _one_worker(answer: Callable[[float, float], float]) -> str | None:
    def on_all(formula: Callable[[float, float], float]) -> list[float]:
        return [float(formula(data, compute)) for data, compute in SECONDS]

    return slip(
        on_all(answer),
        on_all(lambda data, compute: (data + compute) / max(data, compute)),
        [(on_all(wrong), why) for wrong, why in SPEEDUPS.items()],
        "without a worker a step takes data + compute; with one, they go on side by side. Which of them is waited for?",
    )


EXERCISES = {
    "5.1": Exercise(
        task="Write alarm(losses, norms): the number of the first logged row that should wake you, or None.",
        judge=function(
            "alarm",
            _alarm,
            {
                (lambda loss, norm: next((i for i in range(1, 5) if loss[i] > loss[i - 1]), None)): "a small rise",
                (lambda loss, norm: next((i for i, x in enumerate(loss) if x != x), None)): "a jump is missed",
                (
                    lambda loss, norm: next((i for i in range(1, 5) if loss[i] > loss[i - 1] + 0.5), None)
                ): "a slow climb",
                (lambda loss, norm: any(x > min(loss) + 0.5 for x in loss)): "it says whether, not where",
                (
                    lambda loss, norm: next(
                        (i for i, x in enumerate(loss) if not x <= min([x, *loss[:i]]) + 0.5 or norm[i] == inf), None
                    )
                ): "a gradient norm that is not a number is missed",
            },
            [
                (
                    lambda loss, norm: next(
                        (i for i, x in enumerate(loss) if not (x <= min([x, *loss[:i]]) + 0.5 and norm[i] < inf)), None
                    )
                ),
                _alarm_of_arrays,
                (lambda loss, norm: None if (row := _alarm_of_arrays(loss, norm)) is None else float(row)),
            ],
        ),
        right=f"{len(RUNS)} runs, {len(RUNS)} times the right row: you can sleep while it trains.",
        hint="Go through the rows, and keep the lowest loss so far. math.isfinite(x) is False for NaN and infinity.",
        solution="""
            import math


            def alarm(losses, norms):
                lowest = math.inf
                for row, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
                    if not math.isfinite(loss) or not math.isfinite(norm) or loss > lowest + 0.5:
                        return row
                    lowest = min(lowest, loss)
                return None


            answer = alarm
        """,
    ),
    "5.2": Exercise(
        task="How many microseconds does a batch of 64 half cells with 150 genes take to a card, at 12 GB/s?",
        judge=number(
            TRAVEL,
            {
                TRAVEL / 2: "half of it: the half that is predicted travels too, with genes and counts of its own.",
                TRAVEL * 8 / 12: "an int64 takes 8 bytes; only float32 takes 4.",
                TRAVEL * 16 / 12: "a float32 takes 4 bytes; only int64 takes 8.",
                TRAVEL * 8: "that is for bits: the bus moves 12 gigabytes a second, not gigabits.",
                TRAVEL / 1e6: "those are seconds; microseconds were asked for.",
                TRAVEL / 1e3: "those are milliseconds; microseconds were asked for.",
                TRAVEL
                * 12e3: "those are the bytes of the batch; divide by 12e9 bytes a second, and turn it into microseconds.",
            },
            otherwise="bytes of the four tensors, over 12e9 bytes a second, times 1e6. Each is 64 x 150.",
            rel=0.045,
            rounded=(19, 19.2, 20),
        ),
        right="About 19 microseconds. The bytes are not the problem: waiting for each other is.",
        hint="Four tensors of 64 x 150: two of int64 (8 bytes), two of float32 (4 bytes).",
        solution="""
            entries = 64 * 150
            size = entries * (8 + 4) + entries * (8 + 4)  # bytes: what is read, what is predicted
            answer = size / 12e9 * 1e6
        """,
    ),
    "5.3": Exercise(
        task="Name the cause for each of the runs A, B, C and D.",
        judge=labels(
            "cause",
            CAUSES,
            nudges={
                "A": "A has no card, and hardly waits for data; what is unusual about its settings?",
                "B": "B's card is idle most of the time, in half precision, with a batch that is not small and data in time.",
                "C": "C spends a large share of each step before it has anything to compute with.",
                "D": "D's card is busy nearly all of the time, so nothing keeps it waiting; what is it busy with?",
            },
        ),
        right="All four. Now see whether the doctor agrees.",
        hint="First the share of waiting, then whether a card is idle, then the precision, then the batch size.",
        solution='answer = {"A": "tiny batch", "B": "host", "C": "loader", "D": "no mixed precision"}',
    ),
    "5.4": Exercise(
        task="Write speedup(data, compute): how many times as fast steps get with one worker.",
        judge=function(
            "speedup",
            _one_worker,
            SPEEDUPS,
            [
                (lambda data, compute: 1 + min(data, compute) / max(data, compute)),
                (lambda data, compute: 1 + data / compute if data < compute else 1 + compute / data),
                (lambda data, compute: np.sum([data, compute]) / np.max([data, compute])),
            ],
            returns="how many times as fast a step is",
        ),
        right="It never exceeds 2, and is highest where the two take the same time.",
        hint="While the model computes on one batch, the worker prepares the next. The slower one sets the pace.",
        solution="""
            def speedup(data, compute):
                return (data + compute) / max(data, compute)


            answer = speedup
        """,
    ),
}

QUESTIONS = {
    "5.a": Question(
        "nvidia-smi says GPU-Util 98 %. Is there nothing left to gain?",
        {
            "nothing: the card works as hard as it can": "run D had such a figure, and computed in fp32: busy is not the same as fast.",
            "there may be: it says that some kernel ran nearly all of the time, not that it used the whole card": "one small kernel after the other gives a high figure too. Precision and cells per second tell more.",
            "nothing, unless its memory is full too": "memory in use says how large the batch is, not how well the card computes.",
        },
        answer="b",
    ),
    "5.b": Question(
        "In one row the gradient norm is 40, with max_grad_norm 1; the loss goes on falling. What do you do?",
        {
            "nothing yet: that gradient was scaled down to norm 1; watch whether it becomes the rule": "clipping is there for the odd batch. If it becomes the rule and the loss stops falling, lower the learning rate.",
            "stop at once and lower the learning rate": "one odd batch is no reason: clipping made its gradient one like any other.",
            "raise max_grad_norm to 40, so that nothing is lost": "then AdamW's average of squares remembers the odd batch: this step would go 1.2 times as far, and a hundred after it too short.",
        },
        answer="a",
    ),
    "5.c": Question(
        "A run's losses look as they should, but its cells per second have halved within the hour. Where do you look?",
        {
            "at the learning rate, which has been falling": "a step costs the same operations at any learning rate.",
            "at the machine: what else runs on it, and does it slow down because it is hot or on battery?": "the run does the same work step after step, so what changed is what it gets: processor, memory or disk.",
            "at the held-out loss, in case the model has begun to learn by heart": "what a step costs does not depend on what is learned in it.",
        },
        answer="b",
    ),
}
