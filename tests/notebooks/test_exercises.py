"""Exercises answer back: an untouched stub, the solution, and plausible wrong answers each get their own reply."""

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import exercises
import scfm_lib as scfm

LESSONS = sorted(path.stem for path in Path(exercises.__file__).parent.glob("lesson_*.py"))


def collected(kind: str) -> list[tuple[str, Any]]:
    modules = [importlib.import_module(f"exercises.{name}") for name in LESSONS]
    return [item for module in modules for item in getattr(module, kind).items()]


EXERCISES, QUESTIONS = collected("EXERCISES"), collected("QUESTIONS")


def answer_of(code: str, setup: str) -> Any:
    names: dict[str, Any] = {"np": np, "pd": pd, "torch": torch, "scfm": scfm, "math": math}
    torch.manual_seed(0)
    exec(setup, names)
    exec(code, names)
    return names["answer"]


@pytest.mark.parametrize(("number", "exercise"), EXERCISES, ids=[number for number, _ in EXERCISES])
def test_an_exercise_tells_stub_solution_and_wrong_answers_apart(number: str, exercise: exercises.Exercise) -> None:
    state, message = exercises.judge(number, ...)
    assert state == "not attempted"
    assert "hint" in message
    state, message = exercises.judge(number, answer_of(exercise.solution, exercise.setup))
    assert state == "right", message
    assert len(exercise.wrong) >= 2
    replies = []
    for code in exercise.wrong:
        state, message = exercises.judge(number, answer_of(code, exercise.setup))
        assert state == "wrong", code
        assert "could not use it" not in message, message
        replies.append(message)
    assert len(set(replies)) == len(replies), replies
    assert exercise.difficulty in ("easy", "medium", "hard")
    assert 1 <= exercise.minutes <= 60


@pytest.mark.parametrize(("number", "question"), QUESTIONS, ids=[number for number, _ in QUESTIONS])
def test_a_question_replies_to_every_choice(number: str, question: exercises.Question, capsys: Any) -> None:
    assert question.why.keys() == question.choices.keys()
    assert question.answer in question.choices
    assert len(set(question.why.values())) == len(question.choices) >= 3
    exercises.quiz(number)
    assert question.question in capsys.readouterr().out
    for letter in question.choices:
        exercises.quiz(number, letter.upper())
        assert capsys.readouterr().out.startswith("Right" if letter == question.answer else "Not quite")


def test_an_unusable_answer_is_wrong_and_not_an_error() -> None:
    for number, _ in EXERCISES:
        for odd in (None, "?", object(), [], -1e9):
            state, message = exercises.judge(number, odd)
            assert state == "wrong", (number, odd)
            assert message.startswith(f"Exercise {number}: not yet")


def test_a_number_that_does_not_exist_says_which_do() -> None:
    for number in ("9.1", "3.99", "", "x"):
        with pytest.raises(scfm.InputError, match="there is no exercise"):
            exercises.check(number, 1)
    with pytest.raises(scfm.InputError, match=r"there are 3\.a"):
        exercises.quiz("3.z", "a")
