"""Notebook 08, your own cells: four patients to diagnose, a config for few cells, mixing by chance, whole donors."""

from collections.abc import Callable
from random import Random
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import scfm_lib as scfm

from .judges import Exercise, Judge, Question, function, labels, number

FINDINGS = {"A": "cells there twice", "B": "healthy", "C": "normalised, then rounded", "D": "cells in columns"}
TENTH = {"data.validation_fraction": 0.1}  # of exercise 8.2
HALVES = {"training.batch_size": 16, "training.gradient_accumulation_steps": 2}  # 32 cells a step as well


def patients() -> dict[str, ad.AnnData]:
    """Four simulated data sets of exercise 8.1, each an `AnnData` whose values are all whole numbers.

    One is healthy. Three have something that no check can be sure of, so a person has to look.
    """

    def counts(seed: int) -> ad.AnnData:
        adata = scfm.simulate(300, 150, depth=600, seed=seed)
        adata.var_names = [f"gene{gene}" for gene in range(adata.n_vars)]
        return adata

    twice = ad.concat([counts(1), counts(1)[:80]], index_unique="-")
    rounded = counts(3)
    rounded.X = rounded.X.multiply(1e4 / np.asarray(rounded.X.sum(1))).tocsr()
    rounded.X.data = np.rint(rounded.X.data)
    return {"A": twice, "B": counts(2), "C": rounded, "D": counts(4).T.copy()}


def _small_config(answer: Any) -> str | None:
    if not isinstance(answer, scfm.Config):
        return "answer should be a config: answer = scfm.load_config(preset, {...})."
    model = answer.model
    if model.num_layers * model.hidden_dim**2 > 2 * 128**2:
        return (
            f"{model.num_layers} blocks, {model.hidden_dim} wide, for 810 cells to learn from; the smallest preset has 2, "
            "128 wide, and trains fastest."
        )
    held = answer.data.validation_fraction
    if abs(held - 0.1) > 1e-9:
        return f"data.validation_fraction is {held}: a tenth was asked for, since a whole donor is kept apart already."
    effective = answer.training.batch_size * answer.training.gradient_accumulation_steps
    if effective != 32:
        return f"a step takes {effective} cells; leave it at 32, so that steps can be compared."
    steps = 26 * answer.training.num_epochs  # 810 cells to learn from, 32 a step
    if steps < 1_400:
        return f"{answer.training.num_epochs} epochs are {steps:,} steps here, 26 an epoch: too few."
    if steps > 1_600:
        return f"{steps:,} steps are more than the 1,500 asked for; an epoch has 26 here. Divide."
    return None


def _whole_donors(answer: Callable[..., Any]) -> str | None:
    donors = np.repeat([f"donor {d}" for d in "ABCDEF"], [40, 10, 25, 60, 5, 30])
    donors = donors[np.random.default_rng(0).permutation(len(donors))]
    got = np.asarray(answer(donors.copy(), 2, 0))
    if got.shape != donors.shape or got.dtype != bool:
        return f"a mask of (cells,) = {donors.shape} True and False was asked for; got {got.dtype} of {got.shape}."
    torn = sorted(set(donors[got]) & set(donors[~got]))
    if torn:
        return f"{len(torn)} donors have cells on both sides ({torn[0]} for one): choose donors, then all their cells."
    if len(set(donors[got])) != 2:
        return f"{len(set(donors[got]))} donors are held out; 2 were asked for."
    if not np.array_equal(got, answer(donors.copy(), 2, 0)):
        return "the same seed gave other donors the second time: draw with np.random.default_rng(seed)."
    others = [np.asarray(answer(donors.copy(), 2, seed)) for seed in range(1, 40)]
    if all(np.array_equal(got, other) for other in others):
        return "forty seeds held out the same donors: draw them at random, by the seed."
    if fewer := sum(len(set(donors[other])) != 2 for other in others):
        return f"{fewer} of 40 seeds held out another number of donors: draw without replacement (replace=False)."
    return None


EXERCISES = {
    "8.1": Exercise(
        task="Give each of the four patients a finding: answer = {'A': ..., 'B': ..., 'C': ..., 'D': ...}.",
        judge=labels(
            "finding",
            FINDINGS,
            nudges={
                "A": "Patient A has more cells than different rows: compare its rows, whatever the cells are called.",
                "B": "Patient B has cells in rows, no row twice, library sizes that differ, and ones as its smallest values.",
                "C": "Patient C has cells with nearly the same number of molecules; does a sequencer ever do that?",
                "D": "Look at the shape of patient D, and at the names of its rows and columns.",
            },
        ),
        right="No check can be sure of these three; looking at names, sums and repeated rows takes a minute.",
        hint="For each: adata.shape, adata.var_names[:3], the sums of the rows, and len(np.unique(dense, axis=0)).",
        solution="""
            import numpy as np
            import pandas as pd

            from exercises.lesson_08 import patients

            looks = {}
            for name, patient in patients().items():
                dense = patient.X.toarray()
                sums = dense.sum(axis=1)
                different = len(np.unique(dense, axis=0))
                looks[name] = [patient.n_obs, different, patient.var_names[0], int(sums.min()), int(sums.max())]
            columns = ["rows", "different rows", "first column", "smallest sum", "largest sum"]
            print(pd.DataFrame(looks, index=columns).T.to_string())

            answer = {
                "A": "cells there twice",  # 80 rows too many
                "B": "healthy",
                "C": "normalised, then rounded",  # every cell has about 10,000 molecules, which no sequencer does
                "D": "cells in columns",  # its columns have the names of cells
            }
        """,
    ),
    "8.2": Exercise(
        task="A config for 900 cells: the smallest preset, a tenth held out, about 1,500 steps of 32 cells.",
        judge=Judge(
            _small_config,
            [
                ("minimal", "answer should be a config"),
                (scfm.load_config("default", TENTH), "4 blocks, 256 wide"),
                (scfm.load_config("minimal"), "a tenth was asked for"),
                (scfm.load_config("minimal", TENTH), "130 steps here, 26 an epoch: too few"),
                (scfm.load_config("minimal", TENTH | {"training.num_epochs": 200}), "5,200 steps are more than"),
            ],
            [
                scfm.load_config("minimal", TENTH | {"training.num_epochs": 58}),
                scfm.load_config("minimal", TENTH | {"training.num_epochs": 60}),
                scfm.load_config("minimal", TENTH | {"training.num_epochs": 57} | HALVES),
            ],
        ),
        right="Fewer cells make shorter epochs, so the number of epochs goes up to reach the same number of steps.",
        hint="How many cells does it learn from? How many steps is an epoch (round up)? 1,500 divided by that.",
        solution="""
            import math

            import scfm_lib as scfm

            per_epoch = math.ceil(900 * 0.9 / 32)
            epochs = round(1_500 / per_epoch)
            print(per_epoch, "steps an epoch, so", epochs, "epochs")
            answer = scfm.load_config("minimal", {"data.validation_fraction": 0.1, "training.num_epochs": epochs})
        """,
    ),
    "8.3": Exercise(
        task="Batches of 900 and 100 cells, perfectly mixed: what share of a cell's neighbours is of the other batch?",
        judge=number(
            0.18,
            {
                0.5: "half would be right for batches of equal size; these have 900 and 100 cells.",
                0.1: "that is what a cell of the large batch sees; a cell of the small one sees 0.9. Average over all cells.",
                0.9: "that is what a cell of the small batch sees; nine cells in ten are of the large one and see 0.1.",
                0.82: "that is the share from a cell's own batch; the other one was asked for.",
                0.09: "0.9 x 0.1 counts only one of the two kinds of cells: large reading small, and small reading large.",
                (lambda share: not 0 <= share <= 1): "a share lies between 0 and 1.",
            },
            otherwise="add over the two batches: the share of cells in it, times the share of neighbours from the other.",
            rel=0.02,
            rounded=(1 - 0.9**2 - 0.1**2,),
        ),
        right="0.18, or 1 - (0.9^2 + 0.1^2). iLISI is 0.22 there at best, so batches of unequal size can never reach 1.",
        hint="A cell of the large batch sees 0.1 of the other, and 0.9 of all cells are such. And the small batch?",
        solution="answer = 0.9 * 0.1 + 0.1 * 0.9  # of the large batch, seeing the small one, or the other way round",
    ),
    "8.4": Exercise(
        task="Write whole_donors(donors, number, seed): a mask (cells,) that is True for all cells of so many donors.",
        judge=function(
            "whole_donors",
            _whole_donors,
            {
                (lambda d, n, seed: np.random.default_rng(seed).choice(np.unique(d), n)): "a mask of (cells,) = (170,)",
                (lambda d, n, seed: np.random.default_rng(seed).random(len(d)) < 0.3): "have cells on both sides",
                (
                    lambda d, n, seed: d == np.random.default_rng(seed).choice(d)
                ): "1 donors are held out; 2 were asked for",
                (lambda d, n, seed: np.isin(d, np.unique(d)[:n])): "forty seeds held out the same donors",
                (
                    lambda d, n, seed: np.isin(d, np.random.default_rng(seed).choice(np.unique(d), n))
                ): "held out another number of donors",
            },
            [
                (lambda d, n, seed: np.isin(d, np.random.default_rng(seed).permutation(np.unique(d))[:n])),
                (lambda d, n, seed: np.array([one in Random(seed).sample(sorted(set(d)), n) for one in d])),
                (lambda d, n, seed: pd.Series(d).isin(pd.Series(d).drop_duplicates().sample(n, random_state=seed))),
            ],
            returns="the mask",
        ),
        right="No donor is on both sides, and the same seed holds out the same donors.",
        hint="np.unique(donors) gives the donors; rng.choice(them, number, replace=False); then np.isin(donors, ...).",
        solution="""
            import numpy as np


            def whole_donors(donors, number, seed):
                rng = np.random.default_rng(seed)
                chosen = rng.choice(np.unique(donors), number, replace=False)
                return np.isin(donors, chosen)


            answer = whole_donors
        """,
    ),
}

QUESTIONS = {
    "8.a": Question(
        "On your 400 cells PCA is above the model in every score. What do you do?",
        {
            "train again with other seeds until the model wins, and report that run": "the best of many tries is luck that was chosen; report every seed, with mean and spread.",
            "use PCA for these cells, and report both": "whichever is better is the one to use, and a table in which a model loses is a result.",
            "take LARGE, since a larger model learns more": "a larger model needs more cells, not fewer; 400 cells are what it lacks.",
        },
        answer="b",
    ),
    "8.b": Question(
        "Someone upper-cases mouse symbols so that a model of human cells accepts them. What happens?",
        {
            "it is refused, since the genes are still those of a mouse": "the library compares names; upper-case names look human, so nothing can be noticed.",
            "many genes match by spelling, and it runs; whether the vectors mean anything is not known": "the same spelling proves no orthology, nor the same gene the same expression: train on mouse cells.",
            "the vectors are right, since human and mouse genes are the same but for their case": "most orthologs share a spelling, not all, and expression differs even where the gene is the same.",
        },
        answer="b",
    ),
    "8.c": Question(
        "Your cells have no labels. Which sentence may you write?",
        {
            "the model finds the cell types, as the UMAP shows": "a UMAP shows groups of anything: depth, batch, noise; without labels nobody knows of what.",
            "its clusters are cell types, since Leiden found them": "Leiden finds clusters in every graph; marker genes have to say what a cluster is.",
            "held-out cells are predicted better than by the model before training": "the loss on cells that touched nothing needs no labels; it says what it says, and no more.",
        },
        answer="c",
    ),
    "8.d": Question(
        "Two hundred of your cells are in the file twice, under two names. Why does it matter?",
        {
            "one copy may be learned from and the other held out, so the held-out cells are not unseen": "which cells are held out follows from their names; the two names fall apart by chance.",
            "the store becomes too large": "a cell takes about a kilobyte, so 200 are nothing; what is lost is the honesty of the scores.",
            "it does not: more cells are always better": "copies add no knowledge, and scores on cells that were learned from say nothing of new ones.",
        },
        answer="a",
    ),
}
