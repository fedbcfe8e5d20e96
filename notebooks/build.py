"""Builds the notebooks: python notebooks/build.py [NAME ...], with names such as 04_training or solutions/04_training.

A lesson is its py:percent twin in src/, run; its solutions are the twin's exercises with the code from exercises/, run
too. Each opens with the badges that lead to it in Colab and Kaggle. Then the README's table is written: minutes from
each twin's header cell. Addresses follow from pyproject.toml.
"""

import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import exercises

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
TWINS = {path.stem: path for path in sorted((FOLDER / "src").glob("0*.py"))}
NAMES = [*TWINS, *(f"solutions/{name}" for name in TWINS)]
IMPORT = """sys.path.insert(0, "..")  # exercises lie in the folder above; on Colab and Kaggle in this one
import exercises"""
COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # the addresses that both services give out
KAGGLE_BADGE = "https://kaggle.com/static/images/open-in-kaggle.svg"
START, END = "<!-- notebooks: written by notebooks/build.py -->", "<!-- /notebooks -->"


def not_run(name: str) -> NotebookNode:
    """A notebook of `NAMES` without outputs, its badges below the title."""
    notebook = (
        solutions(name.removeprefix("solutions/")) if name.startswith("solutions/") else jupytext.read(TWINS[name])
    )
    colab, kaggle = addresses(name)
    badges = f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open in Kaggle]({KAGGLE_BADGE})]({kaggle})"
    title, rest = notebook.cells[0].source.split("\n", 1)
    notebook.cells[0].source = f"{title}\n\n{badges}\n{rest}"
    return notebook


def solutions(lesson: str) -> NotebookNode:
    """Each exercise of a lesson as its twin words it, then the code that solves it, and the check."""
    twin = jupytext.read(TWINS[lesson])
    title, _ = header(twin)
    nudge = f'Try them yourself first: `exercises.hint("{int(lesson[:2])}.1")` gives a nudge.'
    set_up = next(cell.source for cell in twin.cells if cell.cell_type == "code")
    cells = [new_markdown_cell(f"# {title} (solutions)\n\n{nudge}"), new_code_cell(set_up), new_code_cell(IMPORT)]
    for cell in twin.cells:
        if cell.cell_type == "markdown":
            cells += [new_markdown_cell(task) for task in re.findall(r"(?s)\*\*Exercise \d\.\d+\*\*.*", cell.source)]
        for check, number in re.findall(r'(?m)^(exercises\.check\("(.+?)", answer\))$', cell.source):
            cells.append(new_code_cell(f"{exercises.solution_code(number)}\n{check}"))
    return new_notebook(cells=cells, metadata={"kernelspec": twin.metadata.kernelspec})


def build(name: str) -> Path:
    """Writes a notebook of `NAMES`, run from a fresh kernel in its own folder; ids of unchanged cells are kept."""
    path = FOLDER / f"{name}.ipynb"
    notebook = not_run(name)
    known = {}
    if path.exists():
        known = {cell.source: cell.id for cell in nbformat.read(path, as_version=4).cells}
    taken = set()
    for cell in notebook.cells:
        if known.get(cell.source) and known[cell.source] not in taken:
            cell.id = known[cell.source]
            taken.add(cell.id)
    path.parent.mkdir(exist_ok=True)
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, kernel_name="python3", timeout=1200, resources=resources).execute()
    notebook.metadata.pop("widgets", None)  # their state belongs to a session, and GitHub cannot draw it
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the clock
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return path


def repository() -> str:
    """`[project.urls] Repository`: the one place to change once the public address is known."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def addresses(name: str) -> tuple[str, str]:
    """Where a notebook of `NAMES` opens in Colab, and where in Kaggle."""
    file = f"{urlparse(repository()).path.strip('/')}/blob/main/notebooks/{name}.ipynb"
    return (
        f"https://colab.research.google.com/github/{file}",
        f"https://kaggle.com/kernels/welcome?src=https://github.com/{file}",
    )


def header(twin: NotebookNode) -> tuple[str, dict[str, str]]:
    """A lesson's title and the rows of the table in its first cell."""
    text = twin.cells[0].source
    title = re.search(r"^# (.+)$", text, re.M)[1]
    return title, dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.M))


def minutes_for_a_person(twin: NotebookNode) -> int:
    """Prose and code at 200 words a minute, and the minutes that the exercises say, to the next five."""
    words = sum(len(cell.source.split()) for cell in twin.cells)
    prose = "\n".join(cell.source for cell in twin.cells if cell.cell_type == "markdown")
    solving = sum(map(int, re.findall(r"\*\*Exercise [\d.]+\*\* \(\w+, (\d+) minutes\)", prose)))
    return 5 * round((words / 200 + solving) / 5)


def table() -> str:
    """The README's Markdown table, a row for each lesson, and below it the addresses that its badges lead to."""
    rows = ["| lesson | minutes on 2 CPU cores | on a T4 | open in | |", "|---|---|---|---|---|"]
    links = [f"[colab]: {COLAB_BADGE}", f"[kaggle]: {KAGGLE_BADGE}"]
    for name, path in TWINS.items():
        title, about = header(jupytext.read(path))
        minutes = " | ".join(about[f"minutes on a {where}"] for where in ("2-core CPU", "T4"))
        badges = f"[![Colab][colab]][c{name[:2]}] [![Kaggle][kaggle]][k{name[:2]}]"
        solved = f"[solutions](notebooks/solutions/{name}.ipynb)"
        rows.append(f"| [{title}](notebooks/{name}.ipynb) | {minutes} | {badges} | {solved} |")
        links += [f"[{where}{name[:2]}]: {there}" for where, there in zip("ck", addresses(name), strict=True)]
    return "\n".join([*rows, "", *links])


def with_table(readme: str) -> str:
    """The README with its table made anew."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(NAMES):
        sys.exit(f"there is no notebook {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        print(build(name).relative_to(ROOT), flush=True)
    file = ROOT / "README.md"
    file.write_text(with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
