"""Exercises answer back: an untouched stub, the solution, and plausible wrong answers each get their own reply."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import exercises
import scfm_lib as scfm
from exercises.judges import Exercise, Question

ROOT = Path(__file__).resolve().parents[2]


def collected(kind: str) -> list[tuple[str, Any]]:
    modules = [importlib.import_module(f"exercises.lesson_0{number}") for number in range(1, 9)]
    return [item for module in modules for item in getattr(module, kind).items()]


EXERCISES, QUESTIONS = collected("EXERCISES"), collected("QUESTIONS")
each_exercise = pytest.mark.parametrize(("number", "exercise"), EXERCISES, ids=[number for number, _ in EXERCISES])


@each_exercise
def test_a_stub_is_not_attempted_and_the_solution_is_right(number: str, exercise: Exercise, capsys: Any) -> None:
    state, message = exercises.judge(number, ...)
    assert state == "not attempted"
    assert "hint" in message
    exercises.solution(number)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(capsys.readouterr().out, names)
    state, message = exercises.judge(number, names["answer"])
    assert state == "right", message


@each_exercise
def test_wrong_answers_are_told_apart(number: str, exercise: Exercise) -> None:
    replies = set()
    for answer, why in exercise.judge.wrong:
        state, message = exercises.judge(number, answer)
        assert state == "wrong", why
        assert why in message
        assert "could not use it" not in message
        replies.add(message)
    assert len(exercise.judge.wrong) >= 3
    assert len(replies) >= 2
    assert len(replies) >= len({why for _, why in exercise.judge.wrong})


@each_exercise
def test_right_answers_written_differently_are_right(number: str, exercise: Exercise) -> None:
    right = list(exercise.judge.right)
    assert len(right) >= 3
    for answer in right:
        state, message = exercises.judge(number, answer)
        assert state == "right", (answer, message)


def test_a_number_with_its_unit_is_told_what_is_wrong() -> None:
    for number, given in (("1.1", "139 MB"), ("1.4", "0.93 h"), ("5.2", [19.2, "us"])):
        assert "a number alone is asked for, without a unit or quotes" in exercises.judge(number, given)[1]


@pytest.mark.parametrize(("number", "question"), QUESTIONS, ids=[number for number, _ in QUESTIONS])
def test_a_question_replies_to_every_choice(number: str, question: Question, capsys: Any) -> None:
    letters = "abcdefgh"[: len(question.replies)]
    assert question.answer in letters
    assert len(set(question.replies.values())) == len(letters) >= 3
    exercises.quiz(number)
    shown = capsys.readouterr().out
    assert question.question in shown
    for letter, (choice, reply) in zip(letters, question.replies.items(), strict=True):
        assert f"{letter}) {choice}\n" in shown
        exercises.quiz(number, letter.upper())
        assert capsys.readouterr().out == f"{'Right' if letter == question.answer else 'Not quite'}: {reply}\n"


def test_a_quiz_takes_the_words_of_a_choice_and_says_what_it_did_not_understand(capsys: Any) -> None:
    for said in ("b", "B)", 2, "b) 2"):
        exercises.quiz("1.c", said)
        assert capsys.readouterr().out.startswith("Right")
    exercises.quiz("1.c", "two or so")
    assert capsys.readouterr().out.startswith("'two or so' is none of a, b, c")


def test_an_unusable_answer_is_wrong_and_not_an_error() -> None:
    for number, _ in EXERCISES:
        for odd in (None, "?", object(), [], -1e9):
            state, message = exercises.judge(number, odd)
            assert state == "wrong", (number, odd)
            assert message.startswith(f"Exercise {number}: not yet")


@pytest.mark.parametrize("number", ["3.1", "4.3", "8.4"])
def test_a_function_is_wanted_that_returns_something(number: str) -> None:
    assert "without brackets" in exercises.judge(number, 1)[1]
    assert "the function returns nothing: return the " in exercises.judge(number, lambda *inputs: None)[1]


def test_labels_that_are_missing_or_unknown_are_named() -> None:
    assert "no finding is given for C, D" in exercises.judge("8.1", {"A": "healthy", "B": "healthy"})[1]
    assert "'tired' is not one of the findings: " in exercises.judge("8.1", dict.fromkeys("ABCD", "tired"))[1]


def test_a_number_that_does_not_exist_says_which_do() -> None:
    for number in ("9.1", "3.99", "", "x"):
        with pytest.raises(scfm.InputError, match="there is no exercise"):
            exercises.check(number, 1)
    with pytest.raises(scfm.InputError, match=r"there are 3\.a"):
        exercises.quiz("3.z", "a")


def test_the_wheel_has_none_of_it() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert told["packages"]["find"]["include"] == ["scfm_lib*"]
    assert told["package-data"].keys() == {"scfm_lib"}
    assert not list((ROOT / "scfm_lib").rglob("lesson_*"))


def test_exercise_1_2_counts_with_the_activations_that_its_lesson_prints() -> None:
    lesson = importlib.import_module("exercises.lesson_01")
    printed = scfm.estimate(scfm.load_config("default"), gpu="T4", cells=10_000)["memory_bytes"]["activations"]
    assert printed / 32 == lesson.ACTIVATIONS
