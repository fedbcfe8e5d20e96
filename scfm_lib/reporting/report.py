"""The report of an evaluation: one HTML file with its figures inside, to read, send or print."""

import base64
import html
import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from ..baselines import BASELINES
from ..checkpoint import checkpoint_config, find_checkpoint, load_checkpoint
from ..config import config_text
from ..errors import InputError
from ..files import RECORDED, new_file, work_dir, write_text
from ..runtime.logger import read_metrics
from ..scores.probes import NEIGHBOURS, out_of_fold, taught
from .colours import METHOD_NAMES
from .markers import MARKERS, MOST_CELLS, RESOLUTION, cluster_markers, markers_without_token
from .plots import SCORE_NAMES, Table, confusion_figure, loss_figure, maps_figure, scores_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: right; }
tbody th { text-align: left; font-weight: 400; white-space: nowrap; } thead th { border-bottom: 2px solid #222; }
.scores tbody tr:last-child { background: #e8f1f8; font-weight: 600; } .words td { text-align: left; } img { max-width: 100%; } pre { background: #f4f4f4; padding: 1rem; } .lines { white-space: pre-line; }
"""


Draw = Callable[[str, Figure, str], str]  # (name of the PNG, figure, words) -> the image in HTML
CITE = {  # by what a method's name begins with; "": always
    "": "The scfm-workbook authors: scfm-workbook, learn single-cell foundation models by training one. Figures, "
    "clusters and markers: scanpy (Wolf et al., Genome Biology 2018).",
    "scvi": "scVI: Lopez et al., Nature Methods 2018; Gayoso et al., Nature Biotechnology 2022.",
}
BEFORE = {  # what a model is compared with beside the baselines
    "trained": ("start", "its own start"), "adapted": ("trained", "the one trained from scratch"),
}  # fmt: skip
NOT_DECIDING = {"silhouette", "ilisi"}  # round islands and mixed batches say nothing of what lies in them


def scores_table(table: Table) -> pd.DataFrame:
    """A row a method, a column a score, NaN where a method was not run or has no such score; what is judged comes last."""
    found = pd.DataFrame.from_dict({method: row for method, row in table.items() if row}, orient="index", dtype=float)
    names = {method: METHOD_NAMES.get(method, method) for method in table}
    return found.reindex(list(table)).rename(index=names, columns=SCORE_NAMES)


def table_text(table: Table) -> str:
    """The table as aligned text; a dash where a method has no such score. Methods that were not run stand below."""
    missing = ", ".join(METHOD_NAMES.get(method, method) for method, row in table.items() if not row)
    run = {method: row for method, row in table.items() if row}
    text = scores_table(run).to_string(float_format="{:.3f}".format, na_rep="-")
    return f"{text}\nnot run: {missing}" if missing else text


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
    earlier, words = BEFORE.get(method, ("", ""))
    if table.get(earlier):
        scores = [
            score for score in ours if score not in NOT_DECIDING and None not in (ours[score], table[earlier][score])
        ]
        better = sum(ours[score] > table[earlier][score] for score in scores)
        said += f" It is above {words} in {better} of {len(scores)}."
    return said


def result_text(result: dict[str, Any]) -> str:
    """What `evaluate` or `judge` found, as tables and a sentence."""
    lines = [result["learned_from"] + "\n"] if "learned_from" in result else []
    lines += [f"All {result['cells']['judged']:,} labelled cells, 5-fold\n{table_text(result['embeddings'])}\n"]
    if _has_held_out(result):
        held_out = f"{result['cells']['held_out']:,} cells held out of everything"
        lines.append(f"{held_out}\n{table_text(result['held_out'])}\n")
    return "\n".join([*lines, textwrap.fill(verdict(result["embeddings"]), 110)])


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


def told(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that goes into JSON: its numbers and words, without vectors and cells."""
    return {key: value for key, value in result.items() if key not in {"vectors", "labels", "adata", "unseen"}}


def write_report(result: dict[str, Any], checkpoint: str | Path | None = None, folder: Path | None = None) -> Path:
    """Writes `report.html`, `scores.json` and the figures as PNG into `folder`, and returns the HTML's path.

    The folder is `report` in the run's folder when unset; without a checkpoint, as `judge`'s result is, a new one.
    """
    if checkpoint is None:
        folder, title, about = new_report_folder(folder), "How good are these vectors?", ""
    else:
        file = find_checkpoint(checkpoint)
        folder = folder or file.resolve().parent.parent / "report"
        title, about = "How good is this model?", f" Checkpoint {html.escape(file.name)}."
    folder.mkdir(parents=True, exist_ok=True)
    judged = ["trained"] if checkpoint is not None else [name for name in _run(result) if name not in BASELINES]
    vectors = {name: result["vectors"][name] for name in ["pca", *judged] if name in _run(result)}

    def draw(name: str, figure: Figure, alt: str) -> str:
        with new_file(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=130)
            encoded = base64.b64encode(temporary.read_bytes()).decode()
        return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}">'

    scores = scores_figure(result["embeddings"], "All cells, 5-fold", result["ranges"])
    sections = [
        f"<h1>{title}</h1><p>{html.escape(verdict(result['embeddings']))} {result['cells']['judged']:,} labelled cells."
        f"{about} No method saw a label.</p>{_table_html(result['embeddings'])}",
        draw("scores", scores, "scores of each method, with ranges"),
        _held_out(result, draw) if checkpoint is not None else "",
        _confusion(result, dict(list(vectors.items())[:2]), draw),
        "<h2>The cells</h2>"
        + draw("umap", maps_figure(vectors, result["labels"], result.get("unseen")), "UMAPs, coloured by label")
        + "<p>A picture, not a measurement: a UMAP keeps neighbours, not distances.</p>",
        _clusters(result, judged[0]),
    ]
    if checkpoint is not None:
        state = load_checkpoint(file)
        sections += [_tokens(state), _training(file, state, draw)]
    write_text(folder / "scores.json", json.dumps(told(result), indent=1))
    used = "".join(
        f" {line}" for name, line in CITE.items() if name and any(method.startswith(name) for method in _run(result))
    )
    sections += [
        f"<h2>How it was judged</h2><p class='lines'>{html.escape(result['protocol'])}</p>",
        f"<h2>To cite</h2><p>{html.escape(CITE[''] + used)}</p>",
        f"<h2>Versions</h2><pre>{html.escape(json.dumps(result['versions'], indent=1))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>scfm report</title><style>{STYLE}</style>'
    path = folder / "report.html"
    write_text(path, "\n".join([f'<!doctype html><html lang="en">{head}', *sections, "</html>"]))
    return path


def _run(result: dict[str, Any]) -> list[str]:
    """The methods that were run and have vectors of their own, in order."""
    return [name for name, made in result["vectors"].items() if made is not None]


def _held_out(result: dict[str, Any], draw: Draw) -> str:
    """The table and figure of the cells held out of everything."""
    if not _has_held_out(result):
        return f"<p>There is no table on unseen cells. {html.escape(result['learned_from'])}</p>"
    figure = scores_figure(result["held_out"], "Cells held out of everything", result["held_out_ranges"])
    return (
        "<h2>Cells held out of everything</h2><p>The probes are taught on the cells that the methods were fitted on; "
        f"judged are the {result['cells']['held_out']:,} held out. {html.escape(result['learned_from'])}</p>"
        + _table_html(result["held_out"])
        + draw("held_out", figure, "scores on held-out cells, with ranges")
    )


def _confusion(result: dict[str, Any], vectors: dict[str, np.ndarray], draw: Draw) -> str:
    """Which types are taken for which by the 15 nearest neighbours: on held-out cells, else in five folds."""
    known = result["labels"].notna().to_numpy()
    labels, probe = result["labels"][known].astype(str).to_numpy(), KNeighborsClassifier(NEIGHBOURS)
    kinds, truth = np.unique(labels, return_inverse=True)
    here, which = np.ones(len(truth), dtype=bool), "All labelled cells, in five folds"
    if _has_held_out(result):
        here, which = result["unseen"][known], "The cells held out of everything"
    guesses = {}
    for method, of_cells in vectors.items():
        chosen = of_cells[known]
        guess = taught(probe, chosen, truth, ~here, here) if not here.all() else out_of_fold(probe, chosen, truth)
        guesses[method] = kinds[guess[here]]
    figure = draw("confusion", confusion_figure(labels[here], guesses), "confusion matrices")
    return f"<h2>Which types are taken for which</h2><p>{which}; the 15 nearest neighbours vote.</p>{figure}"


def _clusters(result: dict[str, Any], method: str) -> str:
    """The clusters of a method's vectors with their markers."""
    found = cluster_markers(result["adata"], result["vectors"][method], result["labels"])
    rows = [(r["cells"], f"{r['label']} ({r['share']:.0%})", ", ".join(r["markers"])) for r in found]
    table = pd.DataFrame(rows, columns=["cells", "commonest label", "markers"], index=range(1, len(rows) + 1))
    part = f" of {MOST_CELLS:,} random cells" if result["adata"].n_obs > MOST_CELLS else ""
    shown = table.to_html(border=0, classes="words")
    whose = f"the {METHOD_NAMES[method]}" if method in METHOD_NAMES else method
    return (
        f"<h2>What the clusters are made of</h2><p>Leiden clusters{part} by the vectors of {whose} "
        f"at resolution {RESOLUTION}, the largest first, without a look at the labels. Markers are the {MARKERS} genes "
        "that tell a cluster's cells from all others most clearly (Wilcoxon's test). The same cells were clustered and "
        f"tested, so p-values would mean nothing and are not shown.</p>{shown}"
    )


def _tokens(state: dict[str, Any]) -> str:
    """Which lineages' markers are no tokens of the model."""
    heard, missing = markers_without_token(state["symbols"], checkpoint_config(state).model.n_genes)
    head = "<h2>Markers that are no tokens</h2>"
    if not heard:
        return f"{head}<p>None of the human marker genes that this report knows is among the model's genes.</p>"
    if not missing:
        return f"{head}<p>All {heard} marker genes that the data have of this report's list are tokens.</p>"
    listed = "; ".join(f"{lineage}: {', '.join(genes)}" for lineage, genes in missing.items())
    genes = list(dict.fromkeys(gene for of_lineage in missing.values() for gene in of_lineage))
    return (
        f"{head}<p>Of {heard} well-known marker genes that the data have, these {len(genes)} are not among the most "
        "variable genes: the model hears them in its bag and predicts them, but they attend to no other gene. "
        f"{html.escape(listed)}.</p><p>To make those that matter to you tokens, train with</p>"
        f"<pre>--set 'data.preprocessing.must_include=[{', '.join(genes)}]'</pre>"
    )


def _training(file: Path, state: dict[str, Any], draw: Draw) -> str:
    """The curves of the loss, and the config."""
    history = read_metrics(file.parent.parent / "metrics.jsonl")
    loss = "<p>No metrics.jsonl beside the checkpoint.</p>"
    if history:
        loss = draw("loss", loss_figure(history), "loss over the optimizer steps")
    return f"<h2>Training</h2>{loss}<pre>{html.escape(config_text(checkpoint_config(state)))}</pre>"


def _has_held_out(result: dict[str, Any]) -> bool:
    return any((result.get("held_out") or {}).values())


def _table_html(table: Table) -> str:
    return scores_table(table).to_html(float_format="{:.3f}".format, na_rep="\u2013", border=0, classes="scores")
