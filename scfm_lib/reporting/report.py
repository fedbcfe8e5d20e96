"""The report of an evaluation: one HTML file with its figures inside, to read, send or print."""

import base64
import html
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..baselines import BASELINES
from ..checkpoint import checkpoint_config, find_checkpoint, load_checkpoint
from ..config import config_text
from ..errors import InputError
from ..files import RECORDED, new_file, work_dir, write_text
from ..runtime.logger import read_metrics
from .colours import METHOD_NAMES
from .plots import SCORE_NAMES, Table, loss_figure, scores_figure, umap_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: right; }
tbody th { text-align: left; font-weight: 400; } thead th { border-bottom: 2px solid #222; }
tbody tr:last-child { background: #e8f1f8; font-weight: 600; } img { max-width: 100%; } pre { background: #f4f4f4; padding: 1rem; }
"""


NOT_DECIDING = {"silhouette", "ilisi"}  # round islands and mixed batches say nothing of what lies in them


def scores_table(table: Table) -> pd.DataFrame:
    """A row a method, a column a score, NaN where a method was not run or has no such score; what is judged comes last."""
    found = pd.DataFrame.from_dict({method: row for method, row in table.items() if row}, orient="index", dtype=float)
    names = {method: METHOD_NAMES.get(method, method) for method in table}
    return found.reindex(list(table)).rename(index=names, columns=SCORE_NAMES)


def table_text(table: Table) -> str:
    """The table as aligned text; a dash where a method was not run."""
    return scores_table(table).to_string(float_format="{:.3f}".format, na_rep="-")


def verdict(table: Table) -> str:
    """What the table says of each method that is judged, beside the strongest baseline of each score.

    Silhouette and iLISI are shown but decide nothing.
    """
    rivals = {method: row for method, row in table.items() if row and method in BASELINES}
    judged = [method for method, row in table.items() if row and method not in {*BASELINES, "untrained", "start"}]
    return " ".join(_beside(method, table, rivals) for method in judged)


def _beside(method: str, table: Table, rivals: Table) -> str:
    ours, name = table[method], METHOD_NAMES.get(method, method)
    above, below = [], []
    for score in (score for score in ours if score not in NOT_DECIDING):
        theirs = {rival: row[score] for rival, row in rivals.items() if row.get(score) is not None}
        if not theirs or ours[score] is None:
            continue
        best = max(theirs, key=lambda rival: theirs[rival])
        part = f"{SCORE_NAMES[score]} ({METHOD_NAMES[best]}: {theirs[best]:.3f}, this: {ours[score]:.3f})"
        (above if ours[score] > theirs[best] else below).append(part)
    subject = f"The {name}" if method in METHOD_NAMES else name
    said = f"{subject} is above the strongest baseline in {len(above)} of {len(above) + len(below)} scores"
    lists = ((": ", above), ("; not in ", below))
    said += "".join(word + ", ".join(parts) for word, parts in lists if parts) + "."
    if method == "trained" and table.get("start"):
        scores = [score for score in ours if score not in NOT_DECIDING]
        better = sum(ours[score] > table["start"][score] for score in scores)
        said += f" It is above its own start in {better} of {len(scores)}."
    return said


def result_text(result: dict[str, Any]) -> str:
    """What `evaluate` or `judge` found, as tables and a sentence."""
    lines = [f"All {result['cells']['judged']:,} labelled cells, 5-fold\n{table_text(result['embeddings'])}\n"]
    if _has_held_out(result):
        held_out = f"{result['cells']['held_out']:,} cells held out of everything"
        lines.append(f"{held_out}\n{table_text(result['held_out'])}\n")
    return "\n".join([*lines, verdict(result["embeddings"])])


def ranges_text(result: dict[str, Any], scores: tuple[str, ...] = ("knn_f1", "logistic_f1")) -> str:
    """Some scores of every method on all labelled cells with their bootstrap's 5 and 95 %, as aligned text."""

    def cell(method: str, score: str) -> str:
        value, found = result["embeddings"][method][score], result["ranges"][method][score]
        return "-" if value is None else f"{value:.2f} ({found[0]:.2f} to {found[1]:.2f})"

    methods = [method for method, row in result["embeddings"].items() if row]
    rows = {METHOD_NAMES.get(method, method): [cell(method, score) for score in scores] for method in methods}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[SCORE_NAMES[score] for score in scores]).to_string()


def recorded_text(name: str, file: Path = RECORDED) -> str:
    """What benchmarks/quality.py found of a data set, marked as recorded; empty if its file or the data set is not there.

    Args:
        name: of the data set.
        file: JSON with `scores` (data set -> method -> score -> [mean, standard deviation]), `seeds`, `command`, `date`.
    """
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if name not in found.get("scores", {}):
        return ""
    shown, rows = ("knn_f1", "knn_cosine_f1", "logistic_f1", "nmi", "ari"), {}
    for method, row in found["scores"][name].items():
        pairs = [row.get(score) for score in shown]
        rows[METHOD_NAMES[method]] = ["-" if pair is None else "{:.3f} ({:.3f})".format(*pair) for pair in pairs]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[SCORE_NAMES[score] for score in shown]).to_string()
    head = f"Recorded on {found['date']}, not run now: {name}, mean (standard deviation) of {len(found['seeds'])} seeds"
    return f"{head}\n{table}\nMade anew by: {found['command']}"


def new_report_folder(folder: Path | None) -> Path:
    """The folder that a report of `judge` goes to: `judge-DATE-TIME` in `work_dir()` when unset.

    Raises:
        InputError: it exists.
    """
    folder = folder or work_dir() / time.strftime("judge-%Y%m%d-%H%M%S")
    if folder.exists():
        raise InputError(f"{folder} exists and is left as it is; choose another folder with --out, or remove it")
    return folder


def write_report(result: dict[str, Any], checkpoint: str | Path | None = None, folder: Path | None = None) -> Path:
    """Writes `report.html`, `scores.json` and the figures as PNG into `folder`, and returns the HTML's path.

    The folder is `report` in the run's folder when unset; without a checkpoint, as `judge`'s result is, a new one.
    """
    if checkpoint is None:
        folder = new_report_folder(folder)
        training, title, about = "", "How good are these vectors?", ""
    else:
        file = find_checkpoint(checkpoint)
        folder = folder or file.resolve().parent.parent / "report"
        config = config_text(checkpoint_config(load_checkpoint(file)))
        history = read_metrics(file.parent.parent / "metrics.jsonl")
        training, title = f"<pre>{html.escape(config)}</pre>", "How good is this model?"
        about = f" Checkpoint {html.escape(file.name)}."
    folder.mkdir(parents=True, exist_ok=True)
    judged = [name for name, made in result["vectors"].items() if made is not None and name not in BASELINES]
    shown = ["trained"] if checkpoint is not None else judged

    def draw(name: str, figure: Figure, alt: str) -> str:
        with new_file(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=130)
            encoded = base64.b64encode(temporary.read_bytes()).decode()
        return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}">'

    cells = ""
    for number, method in enumerate(shown, start=1):
        called = f"The {METHOD_NAMES[method]}'s cells" if method in METHOD_NAMES else f"The cells by {method}"
        picture = umap_figure(result["vectors"][method], result["labels"], called)
        cells += draw("umap" if number == 1 else f"umap_{number}", picture, "UMAP of the cells, coloured by label")
    scores = draw("scores", scores_figure(result["embeddings"], "All cells, 5-fold"), "scores of each method")
    held_out = "" if checkpoint is None else "<p>No cells were held out, so there is no table on unseen cells.</p>"
    if _has_held_out(result):
        figure = scores_figure(result["held_out"], "Cells held out of everything")
        held_out = (
            "<h2>Cells held out of everything</h2><p>The probes are taught on the cells that the methods were fitted "
            f"on; judged are the {result['cells']['held_out']:,} held out.</p>{_table_html(result['held_out'])}"
            + draw("held_out", figure, "scores on held-out cells")
        )
    if training:
        loss = (
            draw("loss", loss_figure(history), "loss over the optimizer steps")
            if history
            else "<p>No metrics.jsonl beside the checkpoint.</p>"
        )
        training = f"<h2>Training</h2>{loss}{training}"
    numbers = {key: value for key, value in result.items() if key not in {"vectors", "labels"}}
    write_text(folder / "scores.json", json.dumps(numbers, indent=1))
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>scfm report</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{html.escape(verdict(result["embeddings"]))} {result["cells"]["judged"]:,} labelled cells.{about} No method saw a label.</p>
{_table_html(result["embeddings"])}{scores}
{held_out}
<h2>The cells</h2>{cells}<p>A picture, not a measurement: UMAP keeps neighbours, not distances.</p>
{training}
<h2>How it was judged</h2><p>{html.escape(result["protocol"])}</p>
<h2>Versions</h2><pre>{html.escape(json.dumps(result["versions"], indent=1))}</pre>
</html>"""
    path = folder / "report.html"
    write_text(path, page)
    return path


def _has_held_out(result: dict[str, Any]) -> bool:
    return any((result.get("held_out") or {}).values())


def _table_html(table: Table) -> str:
    return scores_table(table).to_html(float_format="{:.3f}".format, na_rep="\u2013", border=0)
