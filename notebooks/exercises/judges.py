"""What lessons are made of: exercises, quiz questions, and judges that say which slip a wrong answer is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Reason = str | Callable[[Any], str]  # why an answer is wrong, or what makes that from the answer


class Judge(NamedTuple):
    """How answers are judged; `wrong` and `right` are for the tests, which try them all."""

    problem: Callable[..., str | None]  # takes the answers; what is off, or None if they are right
    wrong: Sequence[tuple[Any, str]]  # plausible wrong answers, each with its reply or a part of it
    right: Sequence[Any]  # right answers, written differently


@dataclass(frozen=True)
class Exercise:
    """A task, and how an answer to it is judged."""

    task: str  # one line; the whole of it stands in the notebook
    judge: Judge
    right: str  # what to say to a right answer
    hint: str
    solution: str  # code that assigns `answer` and imports what it needs; it may be indented


@dataclass(frozen=True)
class Question:
    """A multiple choice question."""

    question: str
    replies: dict[str, str]  # each choice, in the order of the letters a, b, c and so on, and what to reply to it
    answer: str  # the letter


def same(got: Any, expected: Any, rel: float = 1e-5, atol: float = 1e-5) -> bool:
    """Whether numbers, arrays of one shape, or lists of such are equal within atol + rel * |expected|."""
    if isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(same(a, b, rel, atol) for a, b in zip(got, expected, strict=True))
    got, expected = np.asarray(got, dtype=float), np.asarray(expected, dtype=float)
    return got.shape == expected.shape and np.allclose(got, expected, rel, atol)


def slip(
    got: Any,
    right: Any,
    wrong: Iterable[tuple[Any, str]],
    otherwise: Reason,
    rel: float = 1e-5,
    atol: float = 1e-5,
) -> str | None:
    """None if `got` is `right`, else why it is wrong: the reason of the first of `wrong` that it is, or `otherwise`.

    A wrong value may be a range, for all numbers from its first to its last, or a condition that `got` meets.
    """

    def is_(value: Any) -> bool:
        if isinstance(value, range):
            return value[0] <= got <= value[-1]
        return value(got) if callable(value) else same(got, value, rel, atol)

    if same(got, right, rel, atol):
        return None
    reason = next((why for value, why in wrong if is_(value)), otherwise)
    return reason(got) if callable(reason) else reason


def number(
    right: float, wrong: Mapping[Any, str], otherwise: Reason, rel: float = 0.005, rounded: Iterable[Any] = ()
) -> Judge:
    """A judge of numbers: `wrong` values (see `slip`) and their reasons; `rel` is 0 where every digit counts.

    `rounded` are right answers as people may write them.
    """

    def problem(answer: Any) -> str | None:
        try:
            given = float(answer)
        except (TypeError, ValueError):
            shown = " ".join(f"{answer}".split())[:40]
            return f"a number alone is asked for, without a unit or quotes, as in answer = 12.5; this is: {shown}"
        return slip(given, right, wrong.items(), otherwise, rel, atol=0.0)

    tried = [
        (one, why)
        for value, why in wrong.items()
        if not callable(value)
        for one in ((value[0], value[-1]) if isinstance(value, range) else (value,))
    ]
    return Judge(problem, tried, [right, str(right), np.float64(right), *rounded])


def labels(word: str, right: Mapping[str, str], nudges: Mapping[str, str]) -> Judge:
    """A judge of dictionaries that give each key of `right` one of its values, a `word`; nudges towards one at a time."""

    def problem(answer: Mapping[str, str]) -> str | None:
        if not isinstance(answer, Mapping):
            return f"answer should be a dictionary with a {word} for each of {', '.join(right)}."
        if missing := [key for key in right if key not in answer]:
            return f"no {word} is given for {', '.join(missing)}."
        said = {key: str(answer[key]).strip().lower() for key in right}
        if unknown := [value for value in said.values() if value not in right.values()]:
            return f"{unknown[0]!r} is not one of the {word}s: {'; '.join(sorted(right.values()))}."
        off = [key for key in right if said[key] != right[key]]
        return f"{len(right) - len(off)} of {len(right)} are right. {nudges[off[0]]}" if off else None

    others = [*right.values()][1:] + [*right.values()][:1]
    wrong = [({**right, key: other}, nudges[key]) for key, other in zip(right, others, strict=True)]
    shouted = {key: f" {value.upper()} " for key, value in right.items()}
    return Judge(problem, wrong, [right, shouted, dict(reversed(right.items()))])


class _NothingReturnedError(Exception):
    pass


def function(
    name: str,
    problem: Callable[[Callable], str | None],
    wrong: Mapping[Callable, str],
    right: Iterable[Callable],
    returns: str = "",
) -> Judge:
    """A judge of functions, which says so if the answer is none, or if it gives None and should return `returns`.

    `problem` calls a function and says what is off with what it gives.
    """

    def judged(answer: Callable) -> str | None:
        if not callable(answer):
            return f"answer should be the function itself: answer = {name}, without brackets."

        def called(*inputs: Any) -> Any:
            got = answer(*inputs)
            if got is None and returns:
                raise _NothingReturnedError
            return got

        try:
            return problem(called)
        except _NothingReturnedError:
            return f"the function returns nothing: return {returns}."

    return Judge(judged, list(wrong.items()), list(right))


def outputs(wrong: Mapping[Callable, str], *inputs: Any) -> list[tuple[Any, str]]:
    """What wrong functions give for the same inputs, with the reasons, for `slip`."""
    return [(one(*inputs), why) for one, why in wrong.items()]
