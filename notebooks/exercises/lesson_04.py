"""Notebook 04, training: steps and epochs, clipping, gradient accumulation."""

import math
from collections.abc import Callable
from typing import Any

from . import Exercise, Question

CELLS, BATCH_SIZE, ACCUMULATION, EPOCHS = 5_000, 16, 2, 10  # of exercise 4.1
MAX_NORM = 0.05  # of exercise 4.3: so low that clipping always acts


def _steps(answer: float) -> str | None:
    per_step = BATCH_SIZE * ACCUMULATION
    in_epoch = math.ceil(CELLS / per_step)
    value = float(answer)
    if value == in_epoch * EPOCHS:
        return None
    if value == in_epoch:
        return f"{in_epoch} is one epoch; the run goes through the cells {EPOCHS} times."
    if value == math.ceil(CELLS / BATCH_SIZE) * EPOCHS:
        return (
            f"{value:.0f} counts forward passes. With accumulation {ACCUMULATION} of them make one optimizer step: "
            "how many cells does a step see?"
        )
    if value == math.ceil(CELLS / (BATCH_SIZE / ACCUMULATION)) * EPOCHS:
        return "accumulation makes a step larger, not smaller: a step sees batch_size times accumulation cells."
    if abs(value - CELLS / per_step * EPOCHS) < EPOCHS:
        return "close: an epoch has whole steps only, and the cells left over at its end still make one, a smaller one."
    return "divide the cells by the cells of one step, round up, and multiply by the epochs."


def _clip(answer: Callable[..., Any]) -> str | None:
    import torch

    if not callable(answer):
        return "answer should be the function itself: answer = clip, without brackets."
    large, small = [torch.tensor([3.0, 0.5]), torch.tensor([[4.0]])], [torch.tensor([0.3]), torch.tensor([[0.4]])]
    norm = math.sqrt(3**2 + 0.5**2 + 4**2)

    def same(ours: Any, theirs: list[torch.Tensor]) -> bool:
        return len(ours) == len(theirs) and all(
            torch.allclose(torch.as_tensor(a).float(), b, atol=1e-3) for a, b in zip(ours, theirs, strict=True)
        )

    got = answer([g.clone() for g in large], 1.0)
    if got is None:
        return "the function returns nothing: return the list of the scaled gradients."
    if same(got, large):
        return f"gradients of norm {norm:.2f} came back as they were, though max_norm is 1."
    if same(got, [g / g.norm() for g in large]):
        return (
            "each tensor is scaled by a norm of its own, which turns the direction of the step: "
            "one norm over all gradients, one factor for all."
        )
    if same(got, [g.clamp(-1, 1) for g in large]):
        return (
            "each number is cut to the range -1 to 1, which turns the direction of the step: "
            "scale all numbers by one factor instead."
        )
    if not same(got, [g / norm for g in large]):
        length = math.sqrt(sum(float((torch.as_tensor(g).float() ** 2).sum()) for g in got))
        return f"the norm over all gradients should be 1 after clipping; it is {length:.2f}, or the direction is off."
    if not same(answer([g.clone() for g in small], 1.0), small):
        return "large gradients are right, but small ones (norm 0.5, max_norm 1) must stay as they are, not grow."
    return None


def _parts() -> list[Any]:
    """Two micro-batches of 3 half cells, one with few molecules, one with many."""
    import torch

    from scfm_lib.batches import Batch

    coins = torch.Generator().manual_seed(0)

    def part(most: int) -> Batch:
        genes, targets = (torch.randint(0, 20, (3, 5), generator=coins) for _ in range(2))
        values = 1 + torch.rand(3, 5, generator=coins)
        counts = torch.randint(1, most + 1, (3, 5), generator=coins).float()
        return Batch(genes, values, targets, counts, torch.arange(3))

    return [part(1), part(40)]


def _after_two_steps(step: Callable[..., Any]) -> tuple[list[Any], list[Any], Any]:
    """The weights after one and after two calls of `step` on a small model, what it returned, how often it stepped."""
    import torch

    from scfm_lib.config import ModelConfig
    from scfm_lib.start import new_model

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


def _reference(share_of_own: bool = False, clipped: bool = True) -> Callable[..., float]:
    """The right step in parts, or one with a known mistake."""
    import torch

    from scfm_lib.model import prediction_loss

    def step(model: Any, optimizer: Any, parts: list[Any], max_norm: float) -> float:
        molecules, loss = sum(part.molecules for part in parts), 0.0
        for part in parts:
            scale = part.molecules * len(parts) if share_of_own else molecules
            logits = model(part.genes, part.values)
            part_loss = prediction_loss(logits, part.target_genes, part.target_counts) / scale
            part_loss.backward()
            loss += float(part_loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm if clipped else math.inf)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def _accumulate(answer: Callable[..., Any]) -> str | None:
    import torch

    if not callable(answer):
        return "answer should be the function itself: answer = step_in_parts, without brackets."
    weights, losses, taken = _after_two_steps(answer)
    right, right_losses, _ = _after_two_steps(_reference())

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.allclose(a, b, atol=2e-5)

    if taken[0] == 0:
        return "the optimizer took no step: call optimizer.step() after the last part."
    if taken[0] > 1:
        return f"{taken[0]} steps for one list of parts: the gradients of all parts add up first, then one step."
    if same(weights[0], _after_two_steps(_reference(share_of_own=True))[0][0]):
        return (
            "each part is divided by its own molecules, so a part with few of them weighs as much as one with many: "
            "divide by the molecules of all parts."
        )
    if same(weights[0], _after_two_steps(_reference(clipped=False))[0][0]):
        return "the step is right but for clipping: clip_grad_norm_ goes between the last backward() and step()."
    if not same(weights[0], right[0]):
        return "after one step the weights differ from those of the whole batch; is backward() called for every part?"
    if not same(weights[1], right[1]):
        return "the first step is right, the second is not: gradients are left over. Which call empties them?"
    if losses[0] is None:
        return "the weights are right; now return the loss too, the sum over the parts."
    first = float(losses[0].detach() if isinstance(losses[0], torch.Tensor) else losses[0])
    if not math.isclose(first, right_losses[0], rel_tol=1e-3):
        return (
            f"the weights are right, the loss returned is not: {first:.2f} for {right_losses[0]:.2f} nats per molecule "
            "over all parts."
        )
    return None


EXERCISES = {
    "4.1": Exercise(
        task="How many optimizer steps does the run take?",
        judge=_steps,
        right="157 steps in an epoch (the last of them with 8 cells), 10 epochs.",
        hint="How many cells does one optimizer step see? batch_size times gradient_accumulation_steps.",
        solution="import math\n\nanswer = math.ceil(5_000 / (16 * 2)) * 10",
        minutes=3,
        difficulty="easy",
        wrong=(
            "answer = math.ceil(5_000 / 32)",
            "answer = math.ceil(5_000 / 16) * 10",
        ),
    ),
    "4.2": Exercise(
        task="Write clip(gradients, max_norm): the gradients, scaled down together if their norm is above max_norm.",
        judge=_clip,
        right="One norm, one factor: the direction of the step stays, only its length is limited.",
        hint="norm = square root of the sum of all squares, over all tensors; factor = min(1, max_norm / norm).",
        solution=(
            "def clip(gradients, max_norm):\n"
            "    norm = sum((g**2).sum() for g in gradients) ** 0.5\n"
            "    factor = min(1.0, max_norm / float(norm))\n"
            "    return [g * factor for g in gradients]\n"
            "\n\n"
            "answer = clip"
        ),
        minutes=8,
        difficulty="medium",
        wrong=(
            "def answer(gradients, max_norm):\n    return [g * min(1.0, max_norm / float(g.norm())) for g in gradients]",
            "def answer(gradients, max_norm):\n    return [g.clamp(-max_norm, max_norm) for g in gradients]",
        ),
    ),
    "4.3": Exercise(
        task="Write step_in_parts(model, optimizer, parts, max_norm): one step, its gradients from several parts.",
        judge=_accumulate,
        right="Gradients add up, so parts give the step of the whole batch with the memory of one part.",
        hint="backward() adds to the gradients that are there. Divide by the molecules of all parts, then step once.",
        solution=(
            "import torch\n"
            "\n"
            "from scfm_lib.model import prediction_loss\n"
            "\n\n"
            "def step_in_parts(model, optimizer, parts, max_norm):\n"
            "    molecules, total = sum(part.molecules for part in parts), 0.0\n"
            "    for part in parts:\n"
            "        logits = model(part.genes, part.values)\n"
            "        loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules\n"
            "        loss.backward()\n"
            "        total += loss.item()\n"
            "    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"
            "    optimizer.step()\n"
            "    optimizer.zero_grad()\n"
            "    return total\n"
            "\n\n"
            "answer = step_in_parts"
        ),
        minutes=12,
        difficulty="hard",
        wrong=(
            "from scfm_lib.model import prediction_loss\ndef answer(model, optimizer, parts, max_norm):\n    molecules, total = sum(part.molecules for part in parts), 0.0\n    for part in parts:\n        logits = model(part.genes, part.values)\n        loss = prediction_loss(logits, part.target_genes, part.target_counts) / part.molecules / len(parts)\n        loss.backward()\n        total += loss.item()\n    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n    optimizer.step()\n    optimizer.zero_grad()\n    return total",
            "from scfm_lib.model import prediction_loss\ndef answer(model, optimizer, parts, max_norm):\n    molecules, total = sum(part.molecules for part in parts), 0.0\n    for part in parts:\n        logits = model(part.genes, part.values)\n        loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules\n        loss.backward()\n        total += loss.item()\n    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n    optimizer.step()\n    return total",
            "from scfm_lib.model import prediction_loss\ndef answer(model, optimizer, parts, max_norm):\n    molecules, total = sum(part.molecules for part in parts), 0.0\n    for part in parts:\n        logits = model(part.genes, part.values)\n        loss = prediction_loss(logits, part.target_genes, part.target_counts) / molecules\n        loss.backward()\n        total += loss.item()\n    optimizer.step()\n    optimizer.zero_grad()\n    return total",
        ),
    ),
}

QUESTIONS = {
    "4.a": Question(
        question="A model cannot overfit one batch: its loss stays far above the floor. What is likely?",
        choices={
            "a": "it has too few cells to learn from",
            "b": "something in the model, the loss or the loop is wrong",
            "c": "it needs more dropout",
        },
        answer="b",
        why={
            "a": "one batch is all it is asked to learn here; fewer cells make that easier, not harder.",
            "b": "one batch can be learned by heart, so a correct loop does so; look for the bug first.",
            "c": "dropout works against learning by heart, so more of it keeps the loss higher still.",
        },
    ),
    "4.b": Question(
        question="The training loss keeps falling while the loss on held-out cells begins to rise. What is going on?",
        choices={
            "a": "the model learns its training cells by heart (overfitting)",
            "b": "the learning rate is too low",
            "c": "the held-out cells were used for training",
        },
        answer="a",
        why={
            "a": "what it still learns holds for these cells only; stop earlier, or give it more cells.",
            "b": "a rate that is too low makes both losses fall slowly; it does not part them.",
            "c": "then they would fall together.",
        },
    ),
    "4.c": Question(
        question="A checkpoint holds the weights alone. You resume from it. What happens?",
        choices={
            "a": "the same losses as without the stop",
            "b": "the model starts again from its random start",
            "c": "it goes on, but otherwise: AdamW forgot its averages, schedule and batches their place",
        },
        answer="c",
        why={
            "a": "the next step depends on more than the weights: think of AdamW's averages and of the step's number.",
            "b": "the weights are what was learned, and they are there.",
            "c": "so the library keeps optimizer, step and random state too; order and coins come from the seed.",
        },
    ),
}
