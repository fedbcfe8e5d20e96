"""Notebook 06, evaluation: find the leak, macro-F1, the spread over seeds, a claim that can be defended."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from . import Exercise, Question

LEAKS = {2, 5, 6}
INNOCENT = {
    1: "step 1 is a rule fixed beforehand and applied to each cell by itself: nothing is learned from held-out cells.",
    3: "step 3 divides a cell by its own total: no other cell is read.",
    4: "step 4 fits on the training cells and only applies what it learned: that is how it should be.",
}
MISSED = {
    2: "one step chooses something by looking at all cells, held-out ones too, before anything is trained.",
    5: "one step looks at the held-out score several times and keeps what looked best there.",
    6: "one step puts cells that are alike for a reason (not their type) on both sides. Read what is to be claimed.",
}
OURS, THEIRS = (0.79, 0.75, 0.82, 0.77), (0.77, 0.74, 0.78, 0.75)


def _leaks(answer: Sequence[int]) -> str | None:
    given = {int(step) for step in answer}
    if given == LEAKS:
        return None
    strange = given - set(range(1, 7))
    if strange:
        return f"there are steps 1 to 6; {sorted(strange)[0]} is not one of them."
    for step in sorted(given - LEAKS):
        return INNOCENT[step]
    return f"{len(given)} found, more to find: {MISSED[min(LEAKS - given)]}"


def _macro_f1(answer: Callable[..., Any]) -> str | None:
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    if not callable(answer):
        return "answer should be the function itself: answer = macro_f1, without brackets."
    truth = np.array(["B"] * 6 + ["T"] * 10 + ["DC"] * 3)
    guess = np.array(["B"] * 5 + ["T"] + ["T"] * 8 + ["B"] * 2 + ["T"] * 3)  # no DC is ever guessed
    got = answer(truth.copy(), guess.copy())
    if got is None:
        return "the function returns nothing: return the mean."
    got = float(got)
    right = f1_score(truth, guess, average="macro", zero_division=0)
    if math.isnan(got):
        return "NaN: a type that is never guessed has no true positives; its F1 is 0, not 0 / 0."
    if math.isclose(got, right, abs_tol=1e-6):
        return None
    each = f1_score(truth, guess, average=None, zero_division=0)
    precision = precision_score(truth, guess, average="macro", zero_division=0)
    recall = recall_score(truth, guess, average="macro", zero_division=0)
    slips = [
        ("that is accuracy: rare types hardly count there. Give each type an F1 first.", accuracy_score(truth, guess)),
        (
            "that weighs each type by its cells; macro means that every type counts the same.",
            f1_score(truth, guess, average="weighted", zero_division=0),
        ),
        (
            "the type that was never guessed was left out of the mean. It was missed completely, which is an F1 of 0.",
            float(each[each > 0].mean()),
        ),
        ("that is the mean recall; F1 also has precision in it.", recall),
        ("that is the mean precision; F1 also has recall in it.", precision),
        (
            "precision and recall were averaged first; take the F1 of each type, then the mean.",
            2 * precision * recall / (precision + recall),
        ),
        ("that is the sum over the types, not their mean.", float(each.sum())),
    ]
    for message, wrong in slips:
        if math.isclose(got, wrong, abs_tol=1e-6):
            return message
    return "the number differs. For each type: F1 = 2 TP / (2 TP + FP + FN); then the mean over the types of truth."


def _spread(answer: Sequence[float]) -> str | None:
    import statistics

    if not isinstance(answer, list | tuple) or len(answer) != 2:
        return "give two numbers: answer = (mean difference, its standard error)."
    mean, error = map(float, answer)
    differences = [a - b for a, b in zip(OURS, THEIRS, strict=True)]
    right, deviation = statistics.mean(differences), statistics.stdev(differences)
    if math.isclose(mean, -right, abs_tol=5e-4):
        return "the sign: ours less PCA was asked for."
    if not math.isclose(mean, right, abs_tol=5e-4):
        return "the mean difference is off: ours less PCA for each seed, then their mean."
    if math.isclose(error, deviation / 2, abs_tol=2e-4):
        return None
    if math.isclose(error, deviation, abs_tol=2e-4):
        return "that is the standard deviation of a difference; the mean of n has that over the square root of n."
    if math.isclose(error, statistics.pstdev(differences) / 2, abs_tol=2e-4):
        return "divide the squares by n - 1, not n (ddof=1): the mean itself was estimated from these four."
    apart = math.sqrt(statistics.variance(OURS) / 4 + statistics.variance(THEIRS) / 4)
    if math.isclose(error, apart, abs_tol=2e-4):
        return "that forgets that both were judged on the same split: take the spread of the four differences."
    return (
        "the mean is right, the standard error is not: standard deviation of the four differences, over the root of 4."
    )


def _claim(answer: int) -> str | None:
    number = int(answer)
    if number == 3:
        return None
    replies = {
        1: "1 names neither data, score nor seeds, and it is not what was measured: PCA is ahead in some of it.",
        2: "2 speaks of donors, but cells of the same experiment were held out: no new donor was ever judged.",
        4: "4 reports only what looks well: PBMC3k, where PCA leads by logistic F1, is left out, and so are the seeds.",
    }
    return replies.get(number, "there are sentences 1 to 4.")


EXERCISES = {
    "6.1": Exercise(
        task="Which of the six steps let the answer leak? Give a list of their numbers.",
        judge=_leaks,
        right="Choosing genes, choosing k and splitting donors: each lets held-out cells say something beforehand.",
        hint="Ask of each step: had the held-out cells been others, would it have come out differently?",
        solution="answer = [2, 5, 6]",
        minutes=5,
        difficulty="medium",
        wrong=("answer = [2]", "answer = [2, 4, 5, 6]", "answer = [2, 5]"),
    ),
    "6.2": Exercise(
        task="Write macro_f1(truth, guess) without sklearn.",
        judge=_macro_f1,
        right="Every type counts the same, so a rare type that is missed costs as much as a common one.",
        hint="For each type: TP = ((guess == t) & (truth == t)).sum(), and so on; F1 = 2 TP / (2 TP + FP + FN).",
        solution=(
            "import numpy as np\n"
            "\n\n"
            "def macro_f1(truth, guess):\n"
            "    scores = []\n"
            "    for kind in np.unique(truth):\n"
            "        tp = ((guess == kind) & (truth == kind)).sum()\n"
            "        fp = ((guess == kind) & (truth != kind)).sum()\n"
            "        fn = ((guess != kind) & (truth == kind)).sum()\n"
            "        scores.append(2 * tp / (2 * tp + fp + fn))\n"
            "    return np.mean(scores)\n"
            "\n\n"
            "answer = macro_f1"
        ),
        minutes=8,
        difficulty="medium",
        wrong=(
            "answer = lambda truth, guess: (truth == guess).mean()",
            "answer = lambda truth, guess: np.mean([(guess[truth == kind] == kind).mean() for kind in np.unique(truth)])",
        ),
    ),
    "6.3": Exercise(
        task="Four seeds, two methods: the mean difference and its standard error, as (mean, error).",
        judge=_spread,
        right="More than three standard errors, but over seeds alone: other cells or donors were not tried.",
        hint="Same seed, same split: subtract seed by seed first. Then np.std(differences, ddof=1) / n ** 0.5.",
        solution=(
            "ours, pca = np.array([0.79, 0.75, 0.82, 0.77]), np.array([0.77, 0.74, 0.78, 0.75])\n"
            "difference = ours - pca\n"
            "answer = (difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5)"
        ),
        minutes=6,
        difficulty="medium",
        wrong=(
            "d = np.array([0.02, 0.01, 0.04, 0.02])\nanswer = (d.mean(), d.std(ddof=1))",
            "d = np.array([0.02, 0.01, 0.04, 0.02])\nanswer = (d.mean(), d.std() / 2)",
            "d = np.array([0.02, 0.01, 0.04, 0.02])\nanswer = (-d.mean(), d.std(ddof=1) / 2)",
        ),
    ),
    "6.4": Exercise(
        task="Which of the four sentences may stand in a paper? Give its number.",
        judge=_claim,
        right="It says on which cells, by which score, beside what, how often repeated, and where the model loses.",
        hint="Look for what was compared, on which cells, how often, and whether the losses are told.",
        solution="answer = 3",
        minutes=4,
        difficulty="easy",
        wrong=("answer = 1", "answer = 2", "answer = 4"),
    ),
}

QUESTIONS = {
    "6.a": Question(
        question="The UMAP of model A shows tidier islands than that of model B. What follows?",
        choices={
            "a": "A's vectors tell cell types apart better",
            "b": "nothing yet: measure both with a probe on held-out cells",
            "c": "A was trained for longer",
        },
        answer="b",
        why={
            "a": "UMAP pulls neighbours together whatever they are, and its islands change with its settings and seed.",
            "b": "a UMAP is a picture to look at, not a measurement; what matters is what can be read from the vectors.",
            "c": "nothing in a UMAP tells how long a model was trained.",
        },
    ),
    "6.b": Question(
        question="[CELL] gives a gene ten times the even share of its attention. What do you know?",
        choices={
            "a": "the gene decides which type the cell is",
            "b": "without the gene, the cell's vector would change most",
            "c": "the last block reads that token a lot; take the gene away to see what it changes",
        },
        answer="c",
        why={
            "a": "attention is a weight inside the model; the model was never told a type.",
            "b": "not necessarily: that depends on what is read there too, and on the earlier blocks. It can be measured.",
            "c": "attention says where a block reads. What a gene changes is another question with its own experiment.",
        },
    ),
    "6.c": Question(
        question="With 5 labels per type, fine-tuning gives .60 and logistic regression on a PCA .66, five draws each. "
        "Then?",
        choices={
            "a": "use the PCA with logistic regression, and report both, with their spread",
            "b": "try other learning rates on the held-out cells until fine-tuning wins",
            "c": "report only the draw in which fine-tuning won",
        },
        answer="a",
        why={
            "a": "the simpler method is a fine answer, and the reader learns when the model is not worth its trouble.",
            "b": "then the held-out cells have chosen the rate, and the score on them is no longer honest.",
            "c": "the best of five draws is luck by choice. Mean and spread over all of them, please.",
        },
    ),
}
