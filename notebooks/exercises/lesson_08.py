"""Notebook 08, your own cells: four patients to diagnose, a config for few cells, mixing by chance, whole donors."""

from collections.abc import Callable
from typing import Any

from . import Exercise, Question

FINDINGS = ("healthy", "cells in columns", "normalised, then rounded", "cells there twice")  # of exercise 8.1
CELLS, BATCH, STEPS = 900, 32, (1_400, 1_600)  # of exercise 8.2
DONORS = "import numpy as np\n\n\ndef whole_donors(donors, number, seed):\n"  # how answers to exercise 8.4 begin


def patients() -> dict[str, Any]:
    """Four simulated data sets of exercise 8.1, each an `AnnData` whose values are all whole numbers.

    One is healthy. Three have something that no check can be sure of, so a person has to look.
    """
    import anndata as ad
    import numpy as np

    from scfm_lib.simulate import simulate

    def counts(seed: int) -> ad.AnnData:
        adata = simulate(300, 150, depth=600, seed=seed)
        adata.var_names = [f"gene{number}" for number in range(adata.n_vars)]
        return adata

    twice = ad.concat([counts(1), counts(1)[:80]], index_unique="-")
    rounded = counts(3)
    rounded.X = rounded.X.multiply(1e4 / np.asarray(rounded.X.sum(1))).tocsr()
    rounded.X.data = np.rint(rounded.X.data)
    return {"A": twice, "B": counts(2), "C": rounded, "D": counts(4).T.copy()}


def _diagnoses(answer: dict[str, str]) -> str | None:
    right = {"A": FINDINGS[3], "B": FINDINGS[0], "C": FINDINGS[2], "D": FINDINGS[1]}
    if not isinstance(answer, dict) or set(answer) != set(right):
        return 'answer should be a dictionary with a finding for each of "A", "B", "C" and "D".'
    unknown = [finding for finding in answer.values() if finding not in FINDINGS]
    if unknown:
        return f"{unknown[0]!r} is not one of the findings: {'; '.join(FINDINGS)}."
    look = {
        "A": "has more cells than different rows: compare its rows, whatever the cells are called",
        "B": "has cells in rows, no row twice, library sizes that differ, and ones as its smallest values",
        "C": "has cells with nearly the same number of molecules; does a sequencer ever do that?",
        "D": "has var_names that do not look like genes",
    }
    wrong = [patient for patient in right if answer[patient] != right[patient]]
    if not wrong:
        return None
    return f"{4 - len(wrong)} of 4 are right. Patient {wrong[0]} {look[wrong[0]]}."


def _small_config(answer: Any) -> str | None:
    from scfm_lib.config import Config
    from scfm_lib.formulas import parameters

    if not isinstance(answer, Config):
        return "answer should be a config: answer = scfm.load_config(preset, {...})."
    count = sum(parameters(answer.model).values())
    if count > 1_000_000:
        return f"{count:,} parameters for 810 cells to learn from; the smallest preset has 554,856 and trains fastest."
    if abs(answer.data.validation_fraction - 0.1) > 1e-9:
        held = answer.data.validation_fraction
        return f"data.validation_fraction is {held}: a tenth was asked for, since a whole donor is kept apart already."
    effective = answer.training.batch_size * answer.training.gradient_accumulation_steps
    if effective != BATCH:
        return f"a step takes {effective} cells; leave it at {BATCH}, so that steps can be compared."
    per_epoch = -(-int(CELLS * 0.9) // BATCH)
    steps = per_epoch * answer.training.num_epochs
    if steps < STEPS[0]:
        return f"{answer.training.num_epochs} epochs are {steps:,} steps here, {per_epoch} an epoch: too few."
    if steps > STEPS[1]:
        return f"{steps:,} steps are more than the 1,500 asked for; an epoch has {per_epoch} here. Divide."
    return None


def _mixing(answer: float) -> str | None:
    value = float(answer)
    if abs(value - 0.18) < 0.005:
        return None
    slips = {
        0.5: "half would be right for batches of equal size; these have 900 and 100 cells.",
        0.1: "that is what a cell of the large batch sees; a cell of the small one sees 0.9. Average over all cells.",
        0.9: "that is what a cell of the small batch sees; nine cells in ten are of the large one and see 0.1.",
        0.82: "that is the share from a cell's own batch; the other one was asked for.",
        0.09: "0.9 x 0.1 counts only one of the two kinds of cells: large reading small, and small reading large.",
    }
    for slip, message in slips.items():
        if abs(value - slip) < 0.005:
            return message
    if not 0 <= value <= 1:
        return "a share lies between 0 and 1."
    return "add over the two batches: the share of cells in it, times the share of neighbours from the other."


def _whole_donors(answer: Callable[..., Any]) -> str | None:
    import numpy as np

    if not callable(answer):
        return "answer should be the function itself: answer = whole_donors, without brackets."
    donors = np.repeat([f"donor {d}" for d in "ABCDEF"], [40, 10, 25, 60, 5, 30])
    donors = donors[np.random.default_rng(0).permutation(len(donors))]
    got = answer(donors.copy(), 2, 0)
    if got is None:
        return "the function returns nothing: return the mask."
    got = np.asarray(got)
    if got.shape != donors.shape or got.dtype != bool:
        return f"a mask of (cells,) = {donors.shape} True and False was asked for; got {got.dtype} of {got.shape}."
    torn = sorted(set(donors[got]) & set(donors[~got]))
    if torn:
        return f"{len(torn)} donors have cells on both sides ({torn[0]} for one): choose donors, then all their cells."
    if len(set(donors[got])) != 2:
        return f"{len(set(donors[got]))} donors are held out; 2 were asked for."
    if not np.array_equal(got, answer(donors.copy(), 2, 0)):
        return "the same seed gave other donors the second time: draw with np.random.default_rng(seed)."
    if all(np.array_equal(got, answer(donors.copy(), 2, seed)) for seed in range(1, 9)):
        return "nine seeds held out the same donors: draw them at random, by the seed."
    return None


EXERCISES = {
    "8.1": Exercise(
        task="Give each of the four patients a finding: answer = {'A': ..., 'B': ..., 'C': ..., 'D': ...}.",
        judge=_diagnoses,
        right="No check can be sure of these three; looking at names, sums and repeated rows takes a minute.",
        hint="For each: adata.shape, adata.var_names[:3], the sums of the rows, and len(np.unique(dense, axis=0)).",
        solution=(
            "answer = {\n"
            '    "A": "cells there twice",  # 380 cells, 300 different rows\n'
            '    "B": "healthy",\n'
            '    "C": "normalised, then rounded",  # every cell has about 10,000\n'
            '    "D": "cells in columns",  # its var_names are cells\n'
            "}"
        ),
        minutes=8,
        difficulty="medium",
        wrong=(
            'answer = dict.fromkeys("ABCD", "healthy")',
            'answer = {"A": "cells there twice", "B": "normalised, then rounded", "C": "healthy", '
            '"D": "cells in columns"}',
            'answer = {"A": "cells there twice", "B": "healthy", "C": "healthy", "D": "cells in columns"}',
            'answer = {"A": "duplicates"}',
        ),
    ),
    "8.2": Exercise(
        task="A config for 900 cells: the smallest preset, a tenth held out, about 1,500 steps of 32 cells.",
        judge=_small_config,
        right="Fewer cells make shorter epochs, so the number of epochs goes up to reach the same number of steps.",
        hint="How many cells does it learn from? How many steps is an epoch (round up)? 1,500 divided by that.",
        solution=(
            "per_epoch = math.ceil(900 * 0.9 / 32)  # 26 steps\n"
            'changes = {"data.validation_fraction": 0.1, "training.num_epochs": round(1_500 / per_epoch)}\n'
            'answer = scfm.load_config("minimal", changes)'
        ),
        minutes=6,
        difficulty="medium",
        wrong=(
            'answer = scfm.load_config("default", {"data.validation_fraction": 0.1, "training.num_epochs": 58})',
            'answer = scfm.load_config("minimal")',
            'answer = scfm.load_config("minimal", {"data.validation_fraction": 0.1})',
            'answer = scfm.load_config("minimal", {"data.validation_fraction": 0.1, "training.num_epochs": 200})',
        ),
    ),
    "8.3": Exercise(
        task="Batches of 900 and 100 cells, perfectly mixed: what share of a cell's neighbours is of the other batch?",
        judge=_mixing,
        right="0.18, or 1 - (0.9^2 + 0.1^2). The library divides by it, so that perfectly mixed is 1 at any sizes.",
        hint="A cell of the large batch sees 0.1 of the other, and 0.9 of all cells are such. And the small batch?",
        solution="answer = 0.9 * 0.1 + 0.1 * 0.9",
        minutes=4,
        difficulty="easy",
        wrong=("answer = 0.5", "answer = 0.1", "answer = 0.82"),
    ),
    "8.4": Exercise(
        task="Write whole_donors(donors, number, seed): a mask (cells,) that is True for all cells of so many donors.",
        judge=_whole_donors,
        right="No donor is on both sides, and the same seed holds out the same donors.",
        hint="np.unique(donors) gives the donors; rng.choice(them, number, replace=False); then np.isin(donors, ...).",
        solution=(
            f"{DONORS}"
            "    rng = np.random.default_rng(seed)\n"
            "    chosen = rng.choice(np.unique(donors), number, replace=False)\n"
            "    return np.isin(donors, chosen)\n"
            "\n\n"
            "answer = whole_donors"
        ),
        minutes=8,
        difficulty="medium",
        wrong=(
            f"{DONORS}    return np.random.default_rng(seed).random(len(donors)) < 0.3\n\n\nanswer = whole_donors",
            f"{DONORS}    return np.isin(donors, np.unique(donors)[:number])\n\n\nanswer = whole_donors",
            f"{DONORS}    return np.random.default_rng(seed).choice(np.unique(donors), number)\n\n\n"
            "answer = whole_donors",
            f"{DONORS}    return np.isin(donors, np.random.default_rng(seed).choice(np.unique(donors)))\n\n\n"
            "answer = whole_donors",
        ),
    ),
}

QUESTIONS = {
    "8.a": Question(
        question="On your 400 cells PCA is above the model in every score. What do you do?",
        choices={
            "a": "train again with other seeds until the model wins, and report that run",
            "b": "use PCA for these cells, and report both",
            "c": "take LARGE, since a larger model learns more",
        },
        answer="b",
        why={
            "a": "the best of many tries is luck that was chosen; report every seed, with mean and spread.",
            "b": "with few cells that is the usual outcome, and a table in which a model loses is a result.",
            "c": "a larger model needs more cells, not fewer; 400 cells are what it lacks.",
        },
    ),
    "8.b": Question(
        question="Someone upper-cases mouse symbols so that a model of human cells accepts them. What happens?",
        choices={
            "a": "it is refused, since the genes are still those of a mouse",
            "b": "many genes match by spelling, and it runs; whether the vectors mean anything is not known",
            "c": "the vectors are right, since human and mouse genes are the same but for their case",
        },
        answer="b",
        why={
            "a": "the library compares names; upper-case names look human, so nothing can be noticed.",
            "b": "the same spelling proves no orthology, nor the same gene the same expression: train on mouse cells.",
            "c": "most orthologs share a spelling, not all, and expression differs even where the gene is the same.",
        },
    ),
    "8.c": Question(
        question="Your cells have no labels. Which sentence may you write?",
        choices={
            "a": "the model finds the cell types, as the UMAP shows",
            "b": "its clusters are cell types, since Leiden found them",
            "c": "held-out cells are predicted better than by the model before training",
        },
        answer="c",
        why={
            "a": "a UMAP shows groups of anything: depth, batch, noise; without labels nobody knows of what.",
            "b": "Leiden finds clusters in every graph; marker genes have to say what a cluster is.",
            "c": "the loss on cells that touched nothing needs no labels; it says what it says, and no more.",
        },
    ),
    "8.d": Question(
        question="Two hundred of your cells are in the file twice, under two names. Why does it matter?",
        choices={
            "a": "one copy may be learned from and the other held out, so the held-out cells are not unseen",
            "b": "the store becomes too large",
            "c": "it does not: more cells are always better",
        },
        answer="a",
        why={
            "a": "which cells are held out follows from their names; the two names fall apart by chance.",
            "b": "a cell takes about a kilobyte, so 200 are nothing; what is lost is the honesty of the scores.",
            "c": "copies add no knowledge, and scores on cells that were learned from say nothing of new ones.",
        },
    ),
}
