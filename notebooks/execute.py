"""Runs notebooks anew from their py:percent twins, stores what they print: python notebooks/execute.py [NAME ...]."""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(twin: Path) -> Path:
    """Writes the notebook of a twin, run from a fresh kernel in its own folder; ids of unchanged cells are kept."""
    path = FOLDER / twin.relative_to(FOLDER / "src").with_suffix(".ipynb")
    notebook = jupytext.read(twin)
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


if __name__ == "__main__":
    twins = sorted((FOLDER / "src").glob("0*.py")) + sorted((FOLDER / "src" / "solutions").glob("0*.py"))
    for twin in twins:
        name = str(twin.relative_to(FOLDER / "src").with_suffix(""))
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            print(execute(twin).relative_to(FOLDER.parent), flush=True)
