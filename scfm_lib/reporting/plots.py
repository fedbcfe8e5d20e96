"""Figures: colour-blind safe, labelled, each returned as a matplotlib `Figure` that the caller may save or show."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..hardware.threads import torch_threads_kept
from ..scores.clusters import neighbour_graph
from ..scores.probes import NEIGHBOURS
from .colours import BLUE, COLOURS, MARKERS, RED, method_style

SCORE_NAMES = {
    "knn_f1": "kNN F1", "knn_cosine_f1": "kNN F1, cosine", "knn_accuracy": "kNN accuracy",
    "logistic_f1": "logistic F1", "logistic_accuracy": "logistic accuracy", "nmi": "NMI", "ari": "ARI",
    "kmeans_nmi": "k-means NMI", "kmeans_ari": "k-means ARI", "silhouette": "silhouette", "ilisi": "iLISI",
    "leave_out_accuracy": "left-out accuracy",
}  # fmt: skip
Table = dict[str, dict[str, float | None] | None]  # method -> score -> value, as `evaluate` and `judge` give it


def umap_figure(vectors: np.ndarray, labels: pd.Series, title: str = "Cells by their vectors") -> Figure:
    """A UMAP of vectors (cells, dimensions), coloured by labels (cells,); cells without a label are grey.

    A picture, not a measurement: distances between groups mean little (see the table for what was measured).
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    draw_umap(figure.subplots(), vectors, labels, title)
    return figure


def maps_figure(vectors: dict[str, np.ndarray], labels: pd.Series, unseen: np.ndarray | None = None) -> Figure:
    """UMAPs side by side, each framed in its method's colour; cells held out are ringed.

    Args:
        vectors: of each method that is shown (cells, dimensions).
        labels: (cells,).
        unseen: (cells,) bool, which were held out.
    """
    figure = Figure(figsize=(4.6 * len(vectors) + 2.8, 4.6), layout="constrained")
    panels = figure.subplots(1, len(vectors), squeeze=False)[0]
    for axes, (method, of_cells) in zip(panels, vectors.items(), strict=True):
        style = method_style(method, list(vectors))
        draw_umap(axes, of_cells, labels, style["label"], unseen)
        axes.title.set_color(style["color"])
        axes.spines[:].set(visible=True, color=style["color"], linewidth=2)
        if axes is not panels[-1]:
            axes.get_legend().remove()
    return figure


def scores_figure(table: Table, title: str, ranges: dict[str, Any] | None = None) -> Figure:
    """Dots for every method and score on one axis from 0 to 1, with their ranges (as `evaluate` gives them) as bars."""
    rows = max((len(row) for row in table.values() if row), default=0)
    methods = sum(row is not None for row in table.values())
    high = 0.5 + 0.06 * methods if ranges else 0.5  # room for bars that do not hide each other
    figure = Figure(figsize=(9, high * rows + 1.4), layout="constrained")
    draw_scores(figure.subplots(), table, title, ranges)
    return figure


def confusion_figure(truth: np.ndarray, guesses: dict[str, np.ndarray]) -> Figure:
    """For each method a table of true labels (rows) and guesses, coloured by share of the row, with counts of cells.

    Args:
        truth: (cells,) labels.
        guesses: by method (cells,).
    """
    names = sorted({*truth, *(label for guess in guesses.values() for label in guess)})
    side = 2 + 0.32 * len(names)
    figure = Figure(figsize=(side * len(guesses) + 1.5, side), layout="constrained")
    panels = figure.subplots(1, len(guesses), squeeze=False, sharey=True)[0]
    for axes, (method, guess) in zip(panels, guesses.items(), strict=True):
        style = method_style(method, list(guesses))
        counts = pd.crosstab(truth, guess).reindex(index=names, columns=names, fill_value=0).to_numpy()
        share = counts / counts.sum(1, keepdims=True).clip(min=1)
        axes.imshow(share, cmap=LinearSegmentedColormap.from_list(method, ["white", style["color"]]), vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.6 else "#222222"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_xlabel("guessed")
        axes.set_title(style["label"], color=style["color"])
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("true")
    return figure


def loss_figure(history: list[dict[str, Any]]) -> Figure:
    """Training and held-out loss over steps, from the rows of `metrics.jsonl`."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for key, name, colour, style in (
        ("loss", "cells it learns from", BLUE, "-"),
        ("validation_loss", "held-out cells", RED, "o-"),
    ):
        rows = [(row["step"], row[key]) for row in history if key in row]
        if rows:
            axes.plot(*zip(*rows, strict=True), style, color=colour, label=name, markersize=3)
    axes.set(
        xlabel="optimizer step",
        ylabel="loss (nats per molecule)",
        title="How well one half of a cell predicts the other",
    )
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    return figure


@torch_threads_kept()
def draw_umap(axes: Axes, vectors: np.ndarray, labels: pd.Series, title: str, unseen: np.ndarray | None = None) -> None:
    """The map of `umap_figure`, into axes; cells in `unseen` (cells,) bool are ringed, as held out."""
    import scanpy as sc

    graph = neighbour_graph(vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.umap(graph, random_state=0)
    points = graph.obsm["X_umap"]
    size = float(np.clip(40_000 / len(points), 2, 18))
    unknown = labels.isna().to_numpy()
    axes.scatter(*points[unknown].T, s=size, color="#BBBBBB", linewidths=0)
    for number, label in enumerate(labels.cat.categories):
        here = (labels == label).to_numpy()
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number // len(COLOURS) % len(MARKERS)],
            "label": f"{label} ({here.sum():,})",
        }
        axes.scatter(*points[here].T, s=size, linewidths=0, **style)
    if unseen is not None and unseen.any():
        ring = {
            "facecolors": "none",
            "edgecolors": "#222222",
            "linewidths": 0.4,
            "label": f"held out ({unseen.sum():,})",
        }
        axes.scatter(*points[unseen].T, s=1.6 * size, **ring)
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[], title=f"{title} (UMAP, {NEIGHBOURS} neighbours)")
    axes.spines[["top", "right"]].set_visible(False)
    scale = max(1.0, 6 / size**0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=scale, fontsize=9)


def draw_scores(axes: Axes, table: Table, title: str, ranges: dict[str, Any] | None = None) -> None:
    """The dots of `scores_figure`, into axes."""
    shown = {method: row for method, row in table.items() if row}
    keys = list(next(iter(shown.values()))) if shown else []
    apart = np.linspace(-0.36, 0.36, len(shown)) if ranges and len(shown) > 1 else np.zeros(len(shown))
    for shift, (method, row) in zip(apart, shown.items(), strict=True):
        style, heights = method_style(method, list(shown)), np.arange(len(keys)) + shift
        values = [np.nan if row[key] is None else row[key] for key in keys]  # a score that it cannot have: no dot
        axes.plot(values, heights, ls="", ms=6 if ranges else 8, alpha=0.85, **style)
        for key, height in zip(keys, heights, strict=True):
            if ranges and row[key] is not None:
                axes.plot(ranges[method][key], [height, height], color=style["color"], linewidth=1.2, alpha=0.7)
    axes.set_yticks(np.arange(len(keys)), [SCORE_NAMES.get(key, key) for key in keys])
    if ranges:  # lines between the scores
        axes.set_yticks(np.arange(1, len(keys)) - 0.5, minor=True)
        axes.tick_params(axis="y", which="minor", length=0)
        axes.grid(axis="y", which="minor", alpha=0.3)
    axes.set(xlim=(0, 1), title=title)
    axes.set_xlabel("score (1 is best)" + ("; bars: 5 to 95 % of draws of the cells" if ranges else ""))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
