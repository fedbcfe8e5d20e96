"""What a learner opens is whole: run in order, clean, equal to its twin, and every link leads somewhere."""

import importlib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import jupytext
import nbformat
import numpy as np
import pytest

import build

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = (
    "01_hardware_check 02_preprocessing 03_model_build 04_training 05_monitoring 06_evaluation 07_scaling_up "
    "08_your_own_data"
).split()
LESSONS = [FOLDER / f"{name}.ipynb" for name in NAMES]
ALL = [*LESSONS, *(FOLDER / "solutions" / f"{name}.ipynb" for name in NAMES)]
IGNORED = "nbval-ignore-output"

lessons = pytest.mark.parametrize("path", LESSONS, ids=NAMES)
every = pytest.mark.parametrize("path", ALL, ids=[str(path.relative_to(FOLDER)) for path in ALL])


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def texts(cell: Any) -> list[str]:
    shown = []
    for output in cell.outputs:
        shown += [output.get("text", "")] + [
            part for kind, part in output.get("data", {}).items() if kind.startswith("text/") and isinstance(part, str)
        ]
    return shown


@every
def test_ran_in_order_from_a_fresh_kernel(path: Path) -> None:
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))


@every
def test_outputs_are_clean(path: Path) -> None:
    notebook = read(path)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert "widgets" not in notebook.metadata
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert path.stat().st_size < 1_500_000
    for cell in code(path):
        assert all(output.output_type != "error" for output in cell.outputs)
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.source
        shown = "\n".join(texts(cell))
        assert not re.search(r"(?i)\bwarning\b.*\.py|/(work|home|root|tmp|Users|usr)/|[A-Z]:\\\\", shown), shown
        assert len(shown.splitlines()) <= 60, f"a wall of output under {cell.source[:60]!r}"


@pytest.mark.parametrize("name", build.NAMES)
def test_is_what_its_twin_makes(name: str) -> None:
    here, made = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
        for notebook in (read(FOLDER / f"{name}.ipynb"), build.not_run(name))
    )
    assert here == made, f"run python notebooks/build.py {name}"


@every
def test_one_set_up_cell_for_all(path: Path) -> None:
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    first = code(path)[0].source
    assert first == code(ALL[0])[0].source
    assert f'address = "{repository}"' in first
    assert f'chdir("{repository.split("/")[-1]}/notebooks")' in first


@pytest.mark.parametrize("name", build.NAMES)
def test_opens_with_its_own_badges(name: str) -> None:
    opening = read(FOLDER / f"{name}.ipynb").cells[0].source.splitlines()[:4]
    there = re.findall(r"\[!\[Open in (Colab|Kaggle)\]\(https://\S+\)\]\((https://\S+?)\)", "\n".join(opening))
    assert [where for where, _ in there] == ["Colab", "Kaggle"]
    assert all(address.endswith(f"/blob/main/notebooks/{name}.ipynb") for _, address in there)


@lessons
def test_has_what_a_lesson_has(path: Path) -> None:
    text, number = prose(path), str(int(path.name[:2]))
    header = read(path).cells[0].source
    assert "You will be able to" in header
    for word in ("2-core CPU", "T4", "needs"):
        assert word in header
    for heading in ("Key takeaways", "Quiz", "What next"):
        assert re.search(rf"(?m)^## .*{heading}", text), heading
    lesson = importlib.import_module(f"exercises.lesson_0{number}")
    written = "\n".join(cell.source for cell in code(path))
    asked = re.findall(r'exercises\.check\("(\d\.\d+)"', written)
    assert sorted(set(asked)) == sorted(lesson.EXERCISES)
    assert len(set(asked)) >= 3
    for name in lesson.EXERCISES:
        told = re.search(rf"\*\*Exercise {name}\*\* \((easy|medium|hard), (\d+) minutes\)", text)
        assert told, name
        assert 1 <= int(told[2]) <= 60
    assert sorted(set(re.findall(r'exercises\.quiz\("(\d\.\w)"\)', written))) == sorted(lesson.QUESTIONS)
    assert len(lesson.QUESTIONS) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_the_minutes_promised_are_those_counted(name: str) -> None:
    twin = jupytext.read(build.TWINS[name])
    told = build.header(twin)[1]["minutes on a 2-core CPU"]
    assert told.endswith(f"and about {build.minutes_for_a_person(twin)} for you"), build.minutes_for_a_person(twin)


@lessons
def test_cells_are_short(path: Path) -> None:
    lines = sorted(len(cell.source.splitlines()) for cell in code(path))
    assert lines[len(lines) // 2] <= 10
    assert lines[-1] <= 40  # the training loop of 04 is the longest


@lessons
def test_every_figure_is_described(path: Path) -> None:
    cells = read(path).cells
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert following is not None
            assert following.source.startswith("*Figure: "), cell.source


@every
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose(path)):
        assert (path.parent / target).exists(), target


def test_at_least_three_fifths_of_the_outputs_are_compared() -> None:
    with_output = [cell for path in ALL for cell in code(path) if cell.outputs]
    compared = [cell for cell in with_output if IGNORED not in cell.metadata.get("tags", [])]
    texted = [cell for cell in compared if any(texts(cell))]  # nbval does not compare pictures
    assert len(texted) >= 0.6 * len(with_output), (len(texted), len(with_output))


@every
def test_a_solution_says_right(path: Path) -> None:
    replies = [line for cell in code(path) for text in texts(cell) for line in text.splitlines()]
    states = {line.split(":")[1].split()[0] for line in replies if re.match(r"Exercise \d\.\d+: ", line)}
    assert states == ({"right."} if path.parent.name == "solutions" else {"not"})


def test_the_readme_has_the_table_with_addresses_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    assert build.with_table(readme) == readme, "run python notebooks/build.py"
    targets = re.findall(r"(?m)/blob/main/(\S+)$", build.table())
    assert len(targets) == 2 * len(NAMES)  # Colab and Kaggle
    assert all((ROOT / target).exists() for target in targets)
    assert all((ROOT / target).exists() for target in re.findall(r"\]\((?!http)([^)#\s]+)", readme))


def test_what_is_written_down_of_pbmc3k_was_counted(pbmc3k: Path) -> None:
    counts = ad.read_h5ad(pbmc3k)
    mitochondrial = counts[:, counts.var_names.str.startswith("MT-")].X.sum(axis=1)
    share = 100 * np.asarray(mitochondrial).ravel() / np.asarray(counts.X.sum(axis=1)).ravel()
    twin = (FOLDER / "src" / "02_preprocessing.py").read_text()
    assert f"cells_per_bin = {np.histogram(share, np.arange(0, 5.01, 0.25))[0].tolist()}\n" in twin
    seen = np.asarray((counts.X > 0).sum(axis=1)).mean()
    assert f"{counts.n_vars:,} genes" in twin
    assert f"{seen:.0f} genes are seen" in twin
