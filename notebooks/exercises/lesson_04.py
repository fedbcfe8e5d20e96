"""Notebook 04, training: even directions, steps and epochs, clipping, gradient accumulation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfm_lib.config import ModelConfig
from scfm_lib.dataset import Batch
from scfm_lib.model import prediction_loss
from scfm_lib.start import new_model

from .judges import Exercise, Question, function, number, outputs, same, slip

LARGE = [torch.tensor([3.0, 0.5]), torch.tensor([[4.0]])]  # gradients of exercise 4.3, norm 5.02
SMALL = [torch.tensor([0.3]), torch.tensor([[0.4]])]  # norm 0.5
MAX_NORM = 0.05  # of exercise 4.4: so low that clipping always acts


def _svd(weight: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that puts `weight` of the singular values in their place."""

    def changed(matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u @ torch.diag(weight(s)) @ vh

    return changed


EVEN = {  # wrong answers to exercise 4.1
    _svd(lambda s: s): "that is the matrix as it was: leave its singular values out.",
    _svd(lambda s: s / s.max()): "only the largest singular value is 1; the others have kept their distance to it.",
    _svd(lambda s: s / s.norm()): "that only scales the matrix to a norm of 1; its directions are as uneven as before.",
    _svd(lambda s: 1 / s): "the weak directions are now the strong ones; all of them should count the same.",
    _svd(lambda s: s.sqrt()): "the root makes them less uneven, not even.",
}


def _even(answer: Callable[..., Tensor]) -> str | None:
    for shape in ((4, 4), (6, 3), (3, 6)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        got = torch.as_tensor(answer(matrix.clone())).float()
        if got.shape != matrix.shape:
            return f"a matrix {shape} should stay one; got {tuple(got.shape)}. Is it full_matrices=False?"
        values = torch.linalg.svdvals(got)
        problem = slip(
            got,
            u @ vh,
            [
                *outputs(EVEN, matrix),
                (
                    lambda got: same(torch.linalg.svdvals(got), torch.ones(min(got.shape)), atol=1e-3),
                    "all singular values are 1, but the directions are not the matrix's own: u on the left, vh on the right.",
                ),
            ],
            f"its singular values should all be 1; they go from {float(values.min()):.2f} to {float(values.max()):.2f}.",
            atol=1e-4,
        )
        if problem:
            return problem
    return None


CLIPPED = {  # wrong answers to exercise 4.3
    (lambda gradients, max_norm: gradients): "gradients of norm 5.02 came back as they were, though max_norm is 1.",
    (
        lambda gradients, max_norm: [g * min(1.0, max_norm / float(g.norm())) for g in gradients]
    ): "each tensor is scaled by a norm of its own, which turns the direction of the step: one norm over all gradients, one factor for all.",
    (
        lambda gradients, max_norm: [g.clamp(-max_norm, max_norm) for g in gradients]
    ): "each number is cut to the range -1 to 1, which turns the direction of the step: scale all numbers by one factor instead.",
}


def _norm(gradients: list[Tensor]) -> float:
    return float(torch.cat([torch.as_tensor(g).flatten() for g in gradients]).norm())


def _clip(answer: Callable[..., list[Tensor]]) -> str | None:
    def given(gradients: list[Tensor]) -> list[Tensor]:
        return answer([g.clone() for g in gradients], 1.0)

    return slip(
        given(LARGE),
        [g / _norm(LARGE) for g in LARGE],
        outputs(CLIPPED, LARGE, 1.0),
        lambda got: (
            f"the norm over all gradients should be 1 after clipping; it is {_norm(got):.2f}, or the direction is off."
        ),
        atol=1e-3,
    ) or slip(
        given(SMALL),
        SMALL,
        [],
        "large gradients are right, but small ones (norm 0.5, max_norm 1) must stay as they are, not grow.",
        atol=1e-3,
    )


def _parts() -> list[Batch]:
    """Two micro-batches of 3 half cells, one with few molecules, one with many."""
    coins = torch.Generator().manual_seed(0)

    def part(most: int) -> Batch:
        genes, targets = (torch.randint(0, 20, (3, 5), generator=coins) for _ in range(2))
        values = 1 + torch.rand(3, 5, generator=coins)
        counts = torch.randint(1, most + 1, (3, 5), generator=coins).float()
        return Batch(genes, values, targets, counts, torch.arange(3), torch.zeros(3, dtype=torch.int64), np.full(3, 5))

    return [part(1), part(40)]


def _after_two_steps(step: Callable[..., Any]) -> tuple[list[Tensor], list[Any], list[int]]:
    """The weights after one and two calls of `step` on a small model, what they returned, how often it had stepped."""

    class Counting(torch.optim.SGD):
        taken = 0

        def step(self, closure: Any = None) -> Any:
            self.taken += 1
            return super().step(closure)

    small = ModelConfig(n_genes=20, gene_embedding_dim=8, hidden_dim=16, num_layers=1, num_heads=2, ff_dim=16)
    model = new_model(small, seed=0)
    optimizer = Counting(model.parameters(), lr=1.0)
    weights, losses, taken = [], [], []
    for _ in range(2):
        losses.append(step(model, optimizer, _parts(), MAX_NORM))
        weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        taken.append(optimizer.taken)
    return weights, losses, taken


def _step(own: bool = False, clipped: bool = True, emptied: bool = True) -> Callable[..., float]:
    """A step in parts as exercise 4.4 wants it, or one with a mistake; `own`: each part over its own molecules."""

    def step(model: Any, optimizer: Any, parts: list[Batch], max_norm: float) -> float:
        molecules, loss = sum(part.molecules for part in parts), 0.0
        for part in parts:
            logits = model(part.genes, part.values)
            scale = part.molecules * len(parts) if own else molecules
            part_loss = prediction_loss(logits, part.target_genes, part.target_counts) / scale
            part_loss.backward()
            loss += float(part_loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm if clipped else math.inf)
        optimizer.step()
        if emptied:
            optimizer.zero_grad()
        return loss

    return step


UNEVEN, UNCLIPPED = _step(own=True), _step(clipped=False)
STEPS = {  # wrong answers to exercise 4.4
    UNEVEN: "each part is divided by its own molecules, so a part with few of them weighs as much as one with many: divide by the molecules of all parts.",
    UNCLIPPED: "the step is right but for clipping: clip_grad_norm_ goes between the last backward() and step().",
}


def _accumulate(answer: Callable[..., Any]) -> str | None:
    weights, losses, taken = _after_two_steps(answer)
    right, right_losses, _ = _after_two_steps(_step())
    if taken[0] == 0:
        return "the optimizer took no step: call optimizer.step() after the last part."
    if taken[0] > 1:
        return f"{taken[0]} steps for one list of parts: the gradients of all parts add up first, then one step."
    problem = slip(
        weights[0],
        right[0],
        [(_after_two_steps(wrong)[0][0], why) for wrong, why in STEPS.items()],
        "after one step the weights differ from those of the whole batch; is backward() called for every part?",
        atol=2e-5,
    )
    if problem:
        return problem
    if not same(weights[1], right[1], atol=2e-5):
        return "the first step is right, the second is not: gradients are left over. Which call empties them?"
    if losses[0] is None:
        return "the weights are right; now return the loss too, the sum over the parts."
    first = float(losses[0].detach() if isinstance(losses[0], Tensor) else losses[0])
    if not math.isclose(first, right_losses[0], rel_tol=1e-3):
        return (
            f"the weights are right, the loss returned is not: {first:.2f} for {right_losses[0]:.2f} nats per molecule "
            "over all parts."
        )
    return None


EXERCISES = {
    "4.1": Exercise(
        task="Write even(matrix): the same directions, all singular values exactly 1.",
        judge=function(
            "even",
            _even,
            {
                **EVEN,
                (lambda m: torch.linalg.svd(m, full_matrices=False)[0]): "the directions are not the matrix's own",
                (lambda m: torch.eye(*m.shape)): "the directions are not the matrix's own",
                (lambda m: m.sign()): "its singular values should all be 1; they go from",
            },
            returns="the matrix",
        ),
        right="Of all matrices with singular values of 1 this is the nearest one. Muon gets close to it by products alone.",
        hint="Which matrix stands where diag(s) was, if every singular value is 1? It may be left out.",
        solution="""
            import torch


            def even(matrix):
                u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
                return u @ vh


            answer = even
        """,
    ),
    "4.2": Exercise(
        task="How many optimizer steps does the run take?",
        judge=number(
            1_570,
            {
                157: "157 is one epoch; the run goes through the cells 10 times.",
                3_130: "3130 counts forward passes. With accumulation 2 of them make one optimizer step: how many cells does a step see?",
                6_250: "accumulation makes a step larger, not smaller: a step sees batch_size times accumulation cells.",
                range(
                    1_560, 1_564
                ): "close: an epoch has whole steps only, and the cells left over at its end still make one, a smaller one.",
            },
            otherwise="divide the cells by the cells of one step, round up, and multiply by the epochs.",
            rel=0,
        ),
        right="157 steps in an epoch (the last of them with 8 cells), 10 epochs.",
        hint="How many cells does one optimizer step see? batch_size times gradient_accumulation_steps.",
        solution="""
            import math

            answer = math.ceil(5_000 / (16 * 2)) * 10
        """,
    ),
    "4.3": Exercise(
        task="Write clip(gradients, max_norm): the gradients, scaled down together if their norm is above max_norm.",
        judge=function(
            "clip",
            _clip,
            {
                **CLIPPED,
                (lambda grads, max_norm: [g / 2 for g in grads]): "should be 1 after clipping; it is 2.51",
                (lambda grads, max_norm: [g / _norm(grads) for g in grads]): "must stay as they are, not grow",
            },
            returns="the list of the scaled gradients",
        ),
        right="One norm, one factor: the direction of the step stays, only its length is limited.",
        hint="norm = square root of the sum of all squares, over all tensors; factor = min(1, max_norm / norm).",
        solution="""
            def clip(gradients, max_norm):
                norm = sum((g**2).sum() for g in gradients) ** 0.5
                factor = min(1.0, max_norm / float(norm))
                return [g * factor for g in gradients]


            answer = clip
        """,
    ),
    "4.4": Exercise(
        task="Write step_in_parts(model, optimizer, parts, max_norm): one step, its gradients from several parts.",
        judge=function(
            "step_in_parts",
            _accumulate,
            {
                **STEPS,
                _step(emptied=False): "gradients are left over",
                (lambda *inputs: 0.0): "the optimizer took no step",
                (lambda *inputs: 2 * _step()(*inputs)): "the loss returned is not",
            },
        ),
        right="Gradients add up, so parts give the step of the whole batch with the memory of one part.",
        hint="backward() adds to the gradients that are there. Divide by the molecules of all parts, then step once.",
        solution="""
            import torch

            from scfm_lib.model import prediction_loss


            def step_in_parts(model, optimizer, parts, max_norm):
                molecules, total = sum(part.molecules for part in parts), 0.0
                for part in parts:
                    logits = model(part.genes, part.values)
                    loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules
                    loss.backward()
                    total += loss.item()
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
                optimizer.step()
                optimizer.zero_grad()
                return total


            answer = step_in_parts
        """,
    ),
}

QUESTIONS = {
    "4.a": Question(
        "A model cannot overfit one batch: its loss stays far above the floor. What is likely?",
        {
            "it has too few cells to learn from": "one batch is all it is asked to learn here; fewer cells make that easier, not harder.",
            "something in the model, the loss or the loop is wrong": "one batch can be learned by heart, so a correct loop does so; look for the bug first.",
            "it needs more dropout": "dropout works against learning by heart, so more of it keeps the loss higher still.",
        },
        answer="b",
    ),
    "4.b": Question(
        "The training loss keeps falling while the loss on held-out cells begins to rise. What is going on?",
        {
            "the model learns its training cells by heart (overfitting)": "what it still learns holds for these cells only; stop earlier, or give it more cells.",
            "the learning rate is too low": "a rate that is too low makes both losses fall slowly; it does not part them.",
            "the held-out cells were used for training": "then they would fall together.",
        },
        answer="a",
    ),
    "4.c": Question(
        "A checkpoint holds the weights alone. You resume from it. What happens?",
        {
            "the same losses as without the stop": "the next step depends on more than the weights: think of the optimizers' averages and of the step's number.",
            "the model starts again from its random start": "the weights are what was learned, and they are there.",
            "it goes on, but otherwise: the optimizers forgot their averages, schedule and batches their place": "so the library keeps optimizers, step and random state too; order and coins come from the seed.",
        },
        answer="c",
    ),
    "4.d": Question(
        "Why are the gene vectors left to AdamW, and the matrices of the blocks given to Muon?",
        {
            "Muon would need too much memory for them": "it needs less: one average for each weight, where AdamW keeps two.",
            "a block's matrix works as a whole, on all directions of what comes in; a table of gene vectors is a row for each gene, looked up or added one by one": "so evening out its directions means something for the one, and would mix genes that have nothing to do with each other in the other.",
            "gene vectors are not trained": "they are, by AdamW; those of the bag at a tenth of the rate.",
        },
        answer="b",
    ),
}
