"""Writes the README's table of notebooks: minutes from each header cell, addresses from pyproject.toml.

python notebooks/index.py
"""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import nbformat

ROOT = Path(__file__).resolve().parent.parent
COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # the addresses that both services give out
KAGGLE_BADGE = "https://kaggle.com/static/images/open-in-kaggle.svg"
START, END = "<!-- notebooks: written by notebooks/index.py -->", "<!-- /notebooks -->"


def repository() -> str:
    """`[project.urls] Repository`: the one place to change once the public address is known."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def header(path: Path) -> tuple[str, dict[str, str]]:
    """A notebook's title and the rows of the table in its first cell."""
    text = nbformat.read(path, as_version=4).cells[0].source
    title = re.search(r"^# (.+)$", text, re.M)[1]
    return title, dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.M))


def table() -> str:
    """The Markdown table, a row for each notebook."""
    name = urlparse(repository()).path.strip("/")
    rows = [
        "| notebook | 2-core CPU | T4 | open |",
        "|---|---|---|---|",
    ]
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        title, about = header(path)
        file = f"{name}/blob/main/notebooks/{path.name}"
        colab = f"[![Open in Colab]({COLAB_BADGE})](https://colab.research.google.com/github/{file})"
        kaggle = (
            f"[![Open in Kaggle]({KAGGLE_BADGE})](https://kaggle.com/kernels/welcome?src=https://github.com/{file})"
        )
        minutes = " | ".join(about[f"minutes on a {where}"] for where in ("2-core CPU", "T4"))
        solution = f"[solutions](notebooks/solutions/{path.name})"
        rows.append(f"| [{title}](notebooks/{path.name}) | {minutes} | {colab} {kaggle} {solution} |")
    return "\n".join(rows)


def written(readme: str) -> str:
    """The README with its table made anew."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")
