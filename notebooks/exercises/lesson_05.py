"""Notebook 05, watching a run: an alarm, what a batch weighs, four slow runs, what a worker can save."""

import math
from collections.abc import Callable, Mapping

from . import Exercise, Question

CAUSES = {"A": "tiny batch", "B": "transfers", "C": "loader", "D": "no mixed precision"}  # of exercise 5.3
PAIRS = 64 * 150  # half cells times genes of the longest, of exercise 5.2
NAN = math.nan
RUNS: tuple[
    tuple[list[float], list[float], int | None, str], ...
] = (  # losses, norms, the alarm, what a slip there means
    ([6.0, 5.6, 5.4, 5.5, 5.3], [1.0, 0.9, 3.0, 0.8, 0.9], None, "a small rise wakes you at night for nothing"),
    ([6.0, 5.5, 5.2, 5.9, 5.3], [1.0] * 5, 3, "a jump is missed: compare with the lowest loss so far, not the first"),
    ([6.0, 5.0, 5.3, 5.6, 5.9], [1.0] * 5, 3, "a slow climb is missed: no single step of it is large"),
    ([6.0, 5.5, NAN, NAN], [1.0] * 4, 2, "a loss that is not a number is missed: NaN > x is False, whatever x is"),
    ([6.0, 5.5, 5.2, 5.1], [1.0, 1.0, math.inf, 1.0], 2, "an infinite gradient norm is missed"),
    ([NAN, NAN], [1.0, 1.0], 0, "a run that is broken from its first row is missed: 0 is a row too, and not None"),
    ([6.0, 5.8, 7.0, 8.0], [1.0] * 4, 2, "the first row that alarms is asked for"),
)


def _alarm(answer: Callable[[list[float], list[float]], int | None]) -> str | None:
    if not callable(answer):
        return "answer should be the function itself: answer = alarm, without brackets."
    for losses, norms, expected, meaning in RUNS:
        got = answer(list(losses), list(norms))
        if isinstance(got, bool):
            return "it says whether, not where: return the number of the row, or None."
        if got != expected:
            return f"{meaning}. With losses {losses} and norms {norms} it returns {got!r}."
    return None


def _one_worker(answer: Callable[[float, float], float]) -> str | None:
    if not callable(answer):
        return "answer should be the function itself: answer = speedup, without brackets."

    def is_formula(formula: Callable[[float, float], float]) -> bool:
        cases = ((0.2, 0.3), (0.3, 0.2), (0.1, 0.1), (4.0, 1.0))
        return all(math.isclose(float(answer(d, c)), formula(d, c), rel_tol=1e-6) for d, c in cases)

    if is_formula(lambda d, c: (d + c) / max(d, c)):
        return None
    slips = [
        ("the wait vanishes only if preparing is the shorter part; try it with 4 s and 1 s.", lambda d, c: (d + c) / c),
        ("that is right only where preparing takes longer than computing.", lambda d, c: (d + c) / d),
        ("upside down: how many times as fast is the old time over the new.", lambda d, c: max(d, c) / (d + c)),
        ("that is the seconds of the new step; how many times as fast is the old step over it.", max),
        (
            "the two go on side by side, and the longer one sets the pace, not the shorter.",
            lambda d, c: (d + c) / min(d, c),
        ),
    ]
    for message, formula in slips:
        if is_formula(formula):
            return message
    return (
        "without a worker a step takes data + compute; with one, they go on side by side. Which of them is waited for?"
    )


def _microseconds(answer: float) -> str | None:
    value = float(answer)
    right = PAIRS * (8 + 4) * 2 / 12e9 * 1e6

    def near(wrong: float) -> bool:
        return math.isclose(value, wrong, rel_tol=0.02)

    if near(right):
        return None
    if near(right / 2):
        return "half of it: the half that is predicted travels too, with genes and counts of its own."
    if near(right * 8 / 12):
        return "an int64 takes 8 bytes; only float32 takes 4."
    if near(right * 16 / 12):
        return "a float32 takes 4 bytes; only int64 takes 8."
    if near(right * 8):
        return "that is for bits: the bus moves 12 gigabytes a second, not gigabits."
    if near(right / 1e6):
        return "those are seconds; microseconds were asked for."
    if near(right / 1e3):
        return "those are milliseconds; microseconds were asked for."
    if near(right * 12e9 / 1e6):
        return "those are the bytes of the batch; divide by 12e9 bytes a second, and turn it into microseconds."
    return "bytes of the four tensors, over 12e9 bytes a second, times 1e6. Each is 64 x 150."


def _four_causes(answer: Mapping[str, str]) -> str | None:
    if not isinstance(answer, Mapping):
        return f"answer should be a dictionary with a cause for each of {', '.join(CAUSES)}."
    if missing := [name for name in CAUSES if name not in answer]:
        return f"no cause is given for {', '.join(missing)}."
    said = {name: str(answer[name]).strip().lower() for name in CAUSES}
    if unknown := [cause for cause in said.values() if cause not in CAUSES.values()]:
        return f"{unknown[0]!r} is not one of the four causes: {', '.join(sorted(CAUSES.values()))}."
    wrong = [name for name in CAUSES if said[name] != CAUSES[name]]
    if not wrong:
        return None
    nudges = {
        "A": "A has no card, and hardly waits for data; what is unusual about its settings?",
        "B": "B's card is idle most of the time, in half precision, with a batch that is not small and data in time.",
        "C": "C spends a large share of each step before it has anything to compute with.",
        "D": "D's card is busy nearly all of the time, so nothing keeps it waiting; what is it busy with?",
    }
    return f"{4 - len(wrong)} of 4 are right. {nudges[wrong[0]]}"


ALARM = """import math


def alarm(losses, norms):
    lowest = math.inf
    for row, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not math.isfinite(loss) or not math.isfinite(norm) or loss > lowest + 0.5:
            return row
        lowest = min(lowest, loss)
    return None


answer = alarm"""

EXERCISES = {
    "5.1": Exercise(
        task="Write alarm(losses, norms): the number of the first logged row that should wake you, or None.",
        judge=_alarm,
        right="Seven runs, seven times the right row: you can sleep while it trains.",
        hint="Go through the rows, and keep the lowest loss so far. math.isfinite(x) is False for NaN and infinity.",
        solution=ALARM,
        wrong=(
            "answer = lambda losses, norms: next((i for i, x in enumerate(losses) if x != x), None)",
            "def alarm(losses, norms):\n"
            "    for i in range(1, len(losses)):\n"
            "        if losses[i] > losses[i - 1] + 0.5:\n"
            "            return i\n"
            "answer = alarm",
            "answer = lambda losses, norms: any(loss > min(losses) + 0.5 for loss in losses)",
            "answer = lambda losses, norms: next((i for i in range(1, 5) if losses[i] > losses[i - 1]), None)",
        ),
        minutes=10,
        difficulty="medium",
    ),
    "5.2": Exercise(
        task="How many microseconds does a batch of 64 half cells with 150 genes take to a card, at 12 GB/s?",
        judge=_microseconds,
        right="About 19 microseconds. The bytes are not the problem: waiting for each other is.",
        hint="Four tensors of 64 x 150: two of int64 (8 bytes), two of float32 (4 bytes).",
        solution=(
            "entries = 64 * 150\n"
            "size = entries * (8 + 4) + entries * (8 + 4)  # bytes: what is read, what is predicted\n"
            "answer = size / 12e9 * 1e6"
        ),
        wrong=(
            "answer = 64 * 150 * (8 + 4) / 12e9 * 1e6",
            "answer = 64 * 150 * (4 + 4) * 2 / 12e9 * 1e6",
            "answer = 64 * 150 * (8 + 4) * 2 / 12e9",
        ),
        minutes=5,
        difficulty="easy",
    ),
    "5.3": Exercise(
        task="Name the cause for each of the runs A, B, C and D.",
        judge=_four_causes,
        right="All four. Now see whether the doctor agrees.",
        hint="First the share of waiting, then whether a card is idle, then the precision, then the batch size.",
        solution='answer = {"A": "tiny batch", "B": "transfers", "C": "loader", "D": "no mixed precision"}',
        wrong=(
            'answer = {"A": "loader", "B": "transfers", "C": "tiny batch", "D": "no mixed precision"}',
            'answer = {"A": "tiny batch", "B": "no mixed precision", "C": "loader", "D": "transfers"}',
            'answer = {"A": "tiny batch", "B": "transfers", "C": "loader"}',
        ),
        minutes=8,
        difficulty="medium",
    ),
    "5.4": Exercise(
        task="Write speedup(data, compute): how many times as fast steps get with one worker.",
        judge=_one_worker,
        right="It never exceeds 2, and is highest where the two take the same time.",
        hint="While the model computes on one batch, the worker prepares the next. The slower one sets the pace.",
        solution=(
            "def speedup(data, compute):\n    return (data + compute) / max(data, compute)\n\n\nanswer = speedup"
        ),
        wrong=(
            "answer = lambda data, compute: (data + compute) / compute",
            "answer = lambda data, compute: max(data, compute)",
            "answer = lambda data, compute: data / compute",
        ),
        minutes=5,
        difficulty="easy",
    ),
}

QUESTIONS = {
    "5.a": Question(
        question="nvidia-smi says GPU-Util 98 %. Is there nothing left to gain?",
        choices={
            "a": "nothing: the card works as hard as it can",
            "b": "there may be: it says that some kernel ran nearly all of the time, not that it used the whole card",
            "c": "nothing, unless its memory is full too",
        },
        answer="b",
        why={
            "a": "run D had such a figure, and computed in fp32: busy is not the same as fast.",
            "b": "one small kernel after the other gives a high figure too. Precision and cells per second tell more.",
            "c": "memory in use says how large the batch is, not how well the card computes.",
        },
    ),
    "5.b": Question(
        question="In one row the gradient norm is 40, with max_grad_norm 1; the loss goes on falling. What do you do?",
        choices={
            "a": "nothing yet: that step was scaled down to norm 1; watch whether it becomes the rule",
            "b": "stop at once and lower the learning rate",
            "c": "raise max_grad_norm to 40, so that nothing is lost",
        },
        answer="a",
        why={
            "a": "clipping is there for the odd batch. If every row is far above the limit, lower the learning rate.",
            "b": "one odd batch is no reason: clipping made it a step like any other.",
            "c": "then one odd batch could take forty times the usual step, and undo what was learned.",
        },
    ),
    "5.c": Question(
        question="The training loss goes on falling; the held-out loss has been rising for five epochs. What is it?",
        choices={
            "a": "the learning rate is too low",
            "b": "the loader mixes up the cells",
            "c": "the model learns its cells by heart: use the checkpoint of the lowest held-out loss, or more cells",
        },
        answer="c",
        why={
            "a": "then both would fall, only slowly.",
            "b": "then both would stay high.",
            "c": "what it still learns holds for its own cells alone.",
        },
    ),
}
