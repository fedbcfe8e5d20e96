"""Notebook 04, training: a step of Adam, steps and epochs, clipping, gradient accumulation."""

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


def _running(numbers: list[float], beta: float, corrected: bool = True) -> float:
    """A running average that begins at 0, as it stands after the last of the numbers."""
    average = 0.0
    for latest in numbers:
        average = beta * average + (1 - beta) * latest
    return average / (1 - beta ** len(numbers)) if corrected else average


def _adam(
    betas: tuple[float, float] = (0.9, 0.99),
    corrected: tuple[bool, bool] = (True, True),
    power: float = 0.5,
    outside: float = 1e-8,
    inside: float = 0.0,
) -> Callable[[list[float], float], float]:
    """A last step as exercise 4.1 wants it, or one with a mistake."""

    def step(gradients: list[float], rate: float) -> float:
        m = _running(gradients, betas[0], corrected[0])
        v = _running([g**2 for g in gradients], betas[1], corrected[1])
        return -rate * m / ((v + inside) ** power + outside)

    return step


def _corrected_within(gradients: list[float], rate: float) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = (0.9 * m + 0.1 * g) / (1 - 0.9**t)
        v = (0.99 * v + 0.01 * g**2) / (1 - 0.99**t)
    return -rate * m / (v**0.5 + 1e-8)


def _all_steps(gradients: list[float], rate: float) -> float:
    return sum(_adam()(gradients[:t], rate) for t in range(1, len(gradients) + 1))


COURSE, TINY, RATE = [3.0, -1.0, -0.5], [1e-8, 1e-8], 0.5  # of exercise 4.1
ADAM = {  # wrong answers to exercise 4.1
    (lambda gradients, rate: -_adam()(gradients, rate)): "it goes the wrong way: a step goes against the gradient.",
    (
        lambda gradients, rate: _adam()(gradients, 1.0)
    ): "that is the average over the root; the learning rate is missing.",
    _adam(
        corrected=(False, False)
    ): "the averages began at 0 and are still too small: divide them by 1 - 0.9**t and 1 - 0.99**t.",
    _adam(
        corrected=(True, False)
    ): "only the average of the gradients is corrected; that of the squares is too small as well.",
    _adam(
        corrected=(False, True)
    ): "only the average of the squares is corrected; that of the gradients is too small as well.",
    _adam(power=1.0): "the average is divided by the average of the squares; the root of that is missing.",
    _adam(
        betas=(0.99, 0.9)
    ): "0.9 and 0.99 are exchanged: the gradients' average forgets faster than that of the squares.",
    _adam(
        betas=(0.9, 0.999)
    ): "the squares' average remembers too long: the lesson's formula has 0.99, torch's default is 0.999.",
    _corrected_within: "corrected averages went into the next ones: keep them as they are, and correct only for the step.",
    (lambda gradients, rate: -rate * gradients[-1]): "that is gradient descent: the last gradient times the rate.",
    (
        lambda gradients, rate: _adam()(gradients[-1:], rate)
    ): "that knows the last gradient alone: the averages go over all of them, from the oldest on.",
    (
        lambda gradients, rate: -rate * np.mean(gradients) / np.mean(np.square(gradients)) ** 0.5
    ): "these are plain means; in a running average older gradients count less and less.",
    (
        lambda gradients, rate: -rate * float(np.sign(_running(gradients, 0.9)))
    ): "the square of the average was taken; it is the average of the squares that is wanted.",
    _all_steps: "that is all steps together; only the last one was asked for.",
}
EPSILON = {  # wrong with gradients of 1e-8 alone
    _adam(outside=0.0): "right, but a weight whose gradients are all 0 would divide by 0: add 1e-8 to the root.",
    _adam(outside=0.0, inside=1e-8): "nearly: 1e-8 is added to the root, not under it, where it weighs more.",
}


def _adam_step(answer: Callable[..., float]) -> str | None:
    def given(gradients: list[float]) -> float:
        return float(answer(list(gradients), RATE))

    return slip(
        given(COURSE),
        _adam()(COURSE, RATE),
        outputs(ADAM, COURSE, RATE),
        lambda got: f"after gradients of 3, -1 and -0.5 the step at a rate of 0.5 is not {got:.4f}.",
        atol=1e-4,
    ) or slip(
        given(TINY),
        _adam()(TINY, RATE),
        outputs(EPSILON, TINY, RATE),
        "right, but for tiny gradients: what is added to the root is 1e-8.",
        atol=1e-4,
    )


def _by_torch(gradients: list[float], rate: float) -> float:
    """Exercise 4.1 by torch's own optimizer."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, places = torch.optim.Adam([weight], rate, (0.9, 0.99), eps=1e-8), [0.0]
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        places.append(weight.item())
    return places[-1] - places[-2]


def _by_powers(gradients: list[float], rate: float) -> np.ndarray:
    """Exercise 4.1 with both averages as weighted means."""
    ages = np.arange(len(gradients))[::-1]
    m, v = (np.average(np.power(gradients, p), weights=beta**ages) for p, beta in ((1, 0.9), (2, 0.99)))
    return -rate * m / (np.sqrt(v) + 1e-8)


CLIPPED = {  # wrong answers to exercise 4.3
    (lambda gradients, max_norm: gradients): "gradients of norm 5.02 came back as they were, though max_norm is 1.",
    (
        lambda gradients, max_norm: [g * min(1.0, max_norm / float(g.norm())) for g in gradients]
    ): "each tensor is scaled by a norm of its own, which turns the direction of the step: one norm over all gradients, one factor for all.",
    (
        lambda gradients, max_norm: [g.clamp(-max_norm, max_norm) for g in gradients]
    ): "each number is cut to the range -1 to 1, which turns the direction of the step: scale all numbers by one factor instead.",
    (
        lambda gradients, max_norm: [g * min(1.0, 1.0 / _norm(gradients)) for g in gradients]
    ): "right for a max_norm of 1, not for one of 2: the norm may be as long as max_norm.",
}


def _norm(gradients: list[Tensor]) -> float:
    return float(torch.cat([torch.as_tensor(g).flatten() for g in gradients]).norm())


def _clipped(gradients: list[Tensor], max_norm: float, tiny: float = 1e-6) -> list[Tensor]:
    """As torch does it; without a tiny number exercise 4.3 has nothing to say to gradients of 0."""
    return [g * min(1.0, max_norm / (_norm(gradients) + tiny)) for g in gradients]


def _clip(answer: Callable[..., list[Tensor]]) -> str | None:
    def given(gradients: list[Tensor], max_norm: float = 1.0) -> list[Tensor]:
        return list(answer([g.clone() for g in gradients], max_norm))

    problem = slip(
        given(LARGE),
        [g / _norm(LARGE) for g in LARGE],
        [(got, why) for got, why in outputs(CLIPPED, LARGE, 1.0) if not same(got, _clipped(LARGE, 1.0))],
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
    if problem or not same(given(LARGE, 2.0), _clipped(LARGE, 2.0), atol=1e-3):
        return problem or "right for a max_norm of 1, not for one of 2: the norm may be as long as max_norm."
    try:
        still = given([torch.zeros(2), torch.zeros(1, 1)])
    except ZeroDivisionError:
        still = [torch.tensor(math.nan)]
    return None if _norm(still) == 0 else "gradients that are all 0 have norm 0, and the factor divides by it."


def _parts() -> list[Batch]:
    """Two micro-batches of 3 half cells, one with few molecules, one with many."""
    coins = torch.Generator().manual_seed(0)

    def part(most: int) -> Batch:
        genes, targets = (torch.randint(0, 20, (3, 5), generator=coins) for _ in range(2))
        values = 1 + torch.rand(3, 5, generator=coins)
        counts = torch.randint(1, most + 1, (3, 5), generator=coins).float()
        return Batch(genes, values, targets, counts, torch.arange(3), torch.zeros(3, dtype=torch.int64), np.full(3, 5))

    few, many = part(1), part(40)
    return [many, few]  # the first one's gradient is clipped by itself, if somebody does that


def _after_two_steps(step: Callable[..., Any]) -> tuple[list[Tensor], list[Any], list[int], list[bool]]:
    """The weights after one and two calls of `step` on a small model, what they returned, how often it had stepped.

    And for each forward pass, whether there were gradients before it.
    """

    class Counting(torch.optim.SGD):
        taken = 0

        def step(self, closure: Any = None) -> Any:
            self.taken += 1
            return super().step(closure)

    small = ModelConfig(n_genes=20, gene_embedding_dim=8, hidden_dim=16, num_layers=1, num_heads=2, ff_dim=16)
    model = new_model(small, seed=0)
    optimizer = Counting(model.parameters(), lr=1.0)
    weights, losses, taken, had_gradients = [], [], [], []
    model.register_forward_pre_hook(
        lambda *_: had_gradients.append(any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()))
    )
    for _ in range(2):
        losses.append(step(model, optimizer, _parts(), MAX_NORM))
        weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        taken.append(optimizer.taken)
    return weights, losses, taken, had_gradients


def _step(
    own: bool = False, clipped: bool = True, emptied: bool = True, each_clipped: bool = False
) -> Callable[..., float]:
    """A step in parts as exercise 4.4 wants it, or one with a mistake; `own`: each part over its own molecules."""

    def step(model: Any, optimizer: Any, parts: list[Batch], max_norm: float) -> float:
        molecules, loss = sum(part.molecules for part in parts), 0.0
        for part in parts:
            logits = model(part.genes, part.values)
            scale = part.molecules * len(parts) if own else molecules
            part_loss = prediction_loss(logits, part.target_genes, part.target_counts) / scale
            part_loss.backward()
            if each_clipped:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            loss += float(part_loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm if clipped else math.inf)
        optimizer.step()
        if emptied:
            optimizer.zero_grad()
        return loss

    return step


def _one_backward(model: Any, optimizer: Any, parts: list[Batch], max_norm: float) -> float:
    """Exercise 4.4 with all parts in memory at once."""
    losses = [prediction_loss(model(part.genes, part.values), part.target_genes, part.target_counts) for part in parts]
    loss = sum(losses) / sum(part.molecules for part in parts)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _scaled_gradients(model: Any, optimizer: Any, parts: list[Batch], max_norm: float) -> Tensor:
    """Exercise 4.4 with gradients of sums, divided at the end, and emptied at the beginning."""
    optimizer.zero_grad()
    losses = []
    for part in parts:
        loss = prediction_loss(model(part.genes, part.values), part.target_genes, part.target_counts)
        loss.backward()
        losses.append(loss.detach())
    molecules = torch.stack([part.molecules for part in parts]).sum()
    for p in model.parameters():
        p.grad = p.grad / molecules
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return torch.stack(losses).sum() / molecules


UNEVEN, UNCLIPPED = _step(own=True), _step(clipped=False)
EACH_CLIPPED = _step(each_clipped=True)
STEPS = {  # wrong answers to exercise 4.4
    UNEVEN: "each part is divided by its own molecules, so a part with few of them weighs as much as one with many: divide by the molecules of all parts.",
    UNCLIPPED: "the step is right but for clipping: clip_grad_norm_ goes between the last backward() and step().",
    EACH_CLIPPED: "what has added up is clipped after every part; clip once, after the last backward().",
}


def _accumulate(answer: Callable[..., Any]) -> str | None:
    weights, losses, taken, had_gradients = _after_two_steps(answer)
    right, right_losses, *_ = _after_two_steps(_step())
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
    if not had_gradients[1]:
        return (
            "the step is right, but the second part went through the model before the first had its backward(), so the "
            "activations of both were kept: what was to be saved is memory."
        )
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
        task="Write adam_step(gradients, rate): what the last step adds to a weight that has had these gradients.",
        judge=function(
            "adam_step",
            _adam_step,
            {
                **ADAM,
                **EPSILON,
                (lambda gradients, rate: 2 * rate): "the step at a rate of 0.5 is not 1.0000",
                _adam(outside=1e-6): "but for tiny gradients",
            },
            [_adam(), _by_torch, _by_powers],
            returns="the step, a number",
        ),
        right="A large gradient and then small ones of the other sign: the average is small beside the usual size, so is the step.",
        hint="m = v = 0.0; for each gradient, m = 0.9 * m + 0.1 * g, and v likewise with g**2; correct both once, at the end.",
        solution="""
            def adam_step(gradients, rate):
                m = v = 0.0
                for g in gradients:
                    m = 0.9 * m + 0.1 * g
                    v = 0.99 * v + 0.01 * g**2
                m = m / (1 - 0.9 ** len(gradients))
                v = v / (1 - 0.99 ** len(gradients))
                return -rate * m / (v**0.5 + 1e-8)


            answer = adam_step
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
                range(1_560, 1_564): "close: an epoch has whole steps only: round the number of its steps up.",
            },
            otherwise="divide the cells by the cells of one step, round up, and multiply by the epochs.",
            rounded=(1_570.0,),
            rel=0,
        ),
        right="157 steps of 31 or 32 cells in an epoch, 10 epochs.",
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
                (lambda grads, max_norm: _clipped(grads, max_norm, tiny=0.0)): "the factor divides by it",
            },
            [
                _clipped,
                (
                    lambda grads, max_norm: grads
                    if (n := _norm(grads)) <= max_norm
                    else [g * max_norm / n for g in grads]
                ),
                (lambda grads, max_norm: [max_norm * g / max(max_norm, _norm(grads)) for g in grads]),
                (lambda grads, max_norm: tuple(g / torch.tensor(_norm(grads) / max_norm).clamp(min=1) for g in grads)),
            ],
            returns="the list of the scaled gradients",
        ),
        right="One norm, one factor: the direction of the step stays, only its length is limited.",
        hint="norm = square root of the sum of all squares, over all tensors; divide by it where it is above max_norm.",
        solution="""
            def clip(gradients, max_norm):
                norm = sum((g**2).sum() for g in gradients) ** 0.5
                if norm <= max_norm:
                    return gradients
                return [g * max_norm / norm for g in gradients]


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
                _one_backward: "the activations of both were kept",
            },
            [_step(), _scaled_gradients, (lambda *inputs: torch.tensor(_step()(*inputs), requires_grad=True))],
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
            "the same losses as without the stop": "the next step depends on more than the weights: think of the optimizer's averages and of the step's number.",
            "the model starts again from its random start": "the weights are what was learned, and they are there.",
            "it goes on, but not as before: the optimizer has lost its averages, and the run its place in schedule and batches": "so the library keeps optimizer, step and random state too; order and coins come from the seed.",
        },
        answer="c",
    ),
    "4.d": Question(
        "Somebody multiplies the loss by 1,000, without clipping. What becomes of AdamW's steps?",
        {
            "they go a thousand times as far": "so they would with gradient descent, where a step is the gradient times the rate.",
            "they stay as they are": "the average gradient and the root of the average square both grow a thousandfold, and one is divided by the other (only the 1e-8 beside it does not grow); how far a step goes, the learning rate says.",
            "they become a thousand times smaller": "the root of the average square grows a thousandfold, but so does the average gradient above it.",
        },
        answer="b",
    ),
}
