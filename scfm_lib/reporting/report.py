"""The report of an evaluation: one HTML file with its figures inside, to read, send or print."""

import base64
import html
import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..baselines import BASELINES
from ..checkpoint import checkpoint_config, find_checkpoint, load_checkpoint
from ..config import config_text
from ..evaluate import METHODS
from ..files import new_file, write_text
from ..runtime.logger import read_metrics
from .colours import METHOD_NAMES
from .plots import SCORE_NAMES, loss_figure, scores_figure, umap_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; text-align: right; }
tbody th { text-align: left; font-weight: 400; } thead th { border-bottom: 2px solid #222; }
tbody tr:last-child { background: #e8f1f8; font-weight: 600; } img { max-width: 100%; } pre { background: #f4f4f4; padding: 1rem; }
"""


def scores_table(table: dict[str, dict[str, float] | None]) -> pd.DataFrame:
    """A row a method, a column a score, NaN where a method was not run; the trained model is the last row."""
    found = pd.DataFrame.from_dict({method: row for method, row in table.items() if row}, orient="index")
    return found.reindex(METHODS).rename(index=METHOD_NAMES, columns=SCORE_NAMES)


def table_text(table: dict[str, dict[str, float] | None]) -> str:
    """The table as aligned text; a dash where a method was not run."""
    return scores_table(table).to_string(float_format="{:.3f}".format, na_rep="-")


def verdict(table: dict[str, dict[str, float] | None]) -> str:
    """What the table says, in a sentence, whether it flatters the model or not."""
    trained = table["trained"]
    parts = []
    for method in (*BASELINES, "start"):
        other = table.get(method)
        if other and trained:
            better = [SCORE_NAMES[key] for key in trained if trained[key] > other[key]]
            parts.append(f"above {METHOD_NAMES[method]} in {len(better)} of {len(trained)} scores")
    return f"The trained model is {'; '.join(parts)}." if parts else ""


def result_text(result: dict[str, Any]) -> str:
    """What `evaluate` found, as tables and a sentence."""
    lines = [f"All {result['cells']['judged']:,} labelled cells, 5-fold\n{table_text(result['embeddings'])}\n"]
    if result["held_out"]["trained"]:
        held_out = f"{result['cells']['held_out']:,} cells held out of everything"
        lines.append(f"{held_out}\n{table_text(result['held_out'])}\n")
    return "\n".join([*lines, verdict(result["embeddings"])])


def write_report(result: dict[str, Any], checkpoint: str | Path, folder: Path | None = None) -> Path:
    """Writes `report.html`, `scores.json` and the figures as PNG into `folder`, and returns the HTML's path.

    The folder is `report` in the run's folder when unset.
    """
    file = find_checkpoint(checkpoint)
    folder = folder or file.resolve().parent.parent / "report"
    state = load_checkpoint(file)
    config = checkpoint_config(state)
    history = read_metrics(file.parent.parent / "metrics.jsonl")
    figures: dict[str, tuple[Figure, str]] = {
        "umap": (
            umap_figure(result["vectors"]["trained"], result["labels"], "The trained model's cells"),
            "UMAP of the cells, coloured by label",
        ),
        "scores": (scores_figure(result["embeddings"], "All cells, 5-fold"), "scores of each method"),
    }
    if result["held_out"]["trained"]:
        figures["held_out"] = (
            scores_figure(result["held_out"], "Cells held out of everything"),
            "scores on held-out cells",
        )
    if history:
        figures["loss"] = (loss_figure(history), "loss over the optimizer steps")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, (figure, alt) in figures.items():
        with new_file(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=130)
            encoded = base64.b64encode(temporary.read_bytes()).decode()
        pictures[name] = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}">'
    numbers = {key: value for key, value in result.items() if key not in {"vectors", "labels"}}
    write_text(folder / "scores.json", json.dumps(numbers, indent=1))
    held_out_part = (
        "<h2>Cells held out of everything</h2><p>PCA and scVI are fitted, and the probes taught, on the cells the model "
        f"learned from; judged are the {result['cells']['held_out']:,} others.</p>{_table_html(result['held_out'])}{pictures['held_out']}"
        if "held_out" in pictures
        else "<p>No cells were held out of this run, so there is no table on unseen cells.</p>"
    )
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>scfm report</title><style>{STYLE}</style>
<h1>How good is this model?</h1>
<p>{html.escape(verdict(result["embeddings"]))} {result["cells"]["judged"]:,} labelled cells, checkpoint {html.escape(file.name)}.
The model never saw a label.</p>
{_table_html(result["embeddings"])}{pictures["scores"]}
{held_out_part}
<h2>The cells</h2>{pictures["umap"]}<p>A picture, not a measurement: UMAP keeps neighbours, not distances.</p>
<h2>Training</h2>{pictures.get("loss", "<p>No metrics.jsonl beside the checkpoint.</p>")}
<h2>How it was judged</h2><p>{html.escape(result["protocol"])}</p>
<h2>Config and versions</h2><pre>{html.escape(config_text(config))}</pre><pre>{html.escape(json.dumps(result["versions"], indent=1))}</pre>
</html>"""
    path = folder / "report.html"
    write_text(path, page)
    return path


def _table_html(table: dict[str, dict[str, float] | None]) -> str:
    return scores_table(table).to_html(float_format="{:.3f}".format, na_rep="\u2013", border=0)
