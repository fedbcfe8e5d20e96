"""Exercises that answer back: `check("3.2", answer)`, `hint("3.2")`, `solution("3.2")`, and `quiz("3.a", "b")`.

The exercises of notebook N stand in `lesson_0N.py`. An answer left as `...` is not attempted, which is not the same as
wrong; a wrong one is told what is off, not what is right.
"""

import importlib
import inspect
import re
from typing import Any

from scfm_lib import InputError


def check(number: str, *answers: Any) -> None:
    """Judges answers to an exercise and prints what it finds.

    Raises:
        InputError: there is no such exercise.
    """
    print(judge(number, *answers)[1])


def judge(number: str, *answers: Any) -> tuple[str, str]:
    """("not attempted", "wrong" or "right") and the message."""
    exercise = _find(number, "EXERCISES")
    if not answers or any(answer is ... for answer in answers):
        return (
            "not attempted",
            f"Exercise {number}: not attempted yet. {exercise.task} (hint: exercises.hint({number!r}))",
        )
    try:
        problem = exercise.judge.problem(*answers)
    except Exception as error:  # an answer of any kind may come in
        problem = f"the check could not use it ({type(error).__name__}: {error})"
    if problem is None:
        return "right", f"Exercise {number}: right. {exercise.right}"
    return "wrong", f"Exercise {number}: not yet: {problem}"


def hint(number: str) -> None:
    """Prints a nudge."""
    print(_find(number, "EXERCISES").hint)


def solution(number: str) -> None:
    """Prints code that solves it."""
    print(solution_code(number))


def solution_code(number: str) -> str:
    """Code that solves an exercise: it assigns `answer`, and imports what it needs."""
    return inspect.cleandoc(_find(number, "EXERCISES").solution)


def quiz(number: str, letter: Any = "") -> None:
    """Prints a question, or with a letter the reply to it; the words of a choice do as well."""
    question = _find(number, "QUESTIONS")
    choices = dict(zip("abcdefgh", question.replies, strict=False))
    said = str(letter).strip().lower()
    chosen = next(
        (key for key, text in choices.items() if said in (key, text.lower()) or said.startswith(f"{key})")), ""
    )
    if not chosen:
        if said:
            print(f"{said!r} is none of {', '.join(choices)}.")
        lines = [f"{key}) {text}" for key, text in choices.items()]
        print("\n".join([question.question, *lines, f'Answer with exercises.quiz("{number}", "a")']))
        return
    print(f"{'Right' if chosen == question.answer else 'Not quite'}: {question.replies[choices[chosen]]}")


def _find(number: str, kind: str) -> Any:
    match = re.fullmatch(r"([1-8])\.\w+", str(number))
    known = getattr(importlib.import_module(f".lesson_0{match[1]}", __package__), kind) if match else {}
    if number not in known:
        raise InputError(f"there is no {kind.lower()[:-1]} {number!r}; there are {', '.join(known) or '1.1 to 8.9'}")
    return known[number]
