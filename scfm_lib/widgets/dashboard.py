"""The live dashboard: what a run is doing now, drawn from the `metrics.jsonl` that it writes while it trains.

It only reads that file, so it may follow a run in another process or another notebook, and works wherever pictures do.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import InputError
from ..reporting.colours import BLUE, ORANGE
from ..runtime.logger import read_metrics

PANELS = (  # key in a row, title, what to divide by
    ("loss", "loss (nats per molecule)", 1),
    ("learning_rate", "learning rate", 1),
    ("grad_norm", "gradient norm, before clipping", 1),
    ("cells_per_second", "cells per second", 1),
    ("cpu_percent", "CPU (cores in use)", 100),
    ("ram_bytes", "RAM (GB)", 1e9),
    ("gpu_percent", "GPU busy (%)", 1),
    ("gpu_memory_bytes", "GPU memory (GB)", 1e9),
)


def dashboard(run: str | Path) -> Figure:
    """A run so far: a panel for each figure that it recorded, GPU panels only where there is one.

    Args:
        run: its folder; one without rows yet gives empty panels.
    """
    rows = read_metrics(Path(run) / "metrics.jsonl")
    shown = [panel for panel in PANELS if not panel[0].startswith("gpu") or any(panel[0] in row for row in rows)]
    figure = Figure(figsize=(9.5, 2.2 * -(-len(shown) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(shown) // 3), 3, sharex=True).ravel()
    for axes, (key, title, unit) in zip(panels, shown, strict=False):
        points = _points(rows, key)
        axes.plot([step for step, _ in points], [value / unit for _, value in points], ".-", color=BLUE, markersize=5)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if key == "grad_norm" and points:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif key != "loss":
            axes.set_ylim(bottom=0)
    held_out = _points(rows, "validation_loss")
    if held_out:
        panels[0].plot(*zip(*held_out, strict=True), "o", color=ORANGE, markersize=4, label="held out")
        panels[0].legend(frameon=False, fontsize=8)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(shown) - 3) : len(shown)]:
        axes.set_xlabel("optimizer step")
        axes.tick_params(labelbottom=True)
    last = next((row for row in reversed(rows) if "epoch" in row), None)
    figure.suptitle(f"step {last['step']:,}, epoch {last['epoch']:.1f}" if last else "no step logged yet", fontsize=11)
    return figure


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in rows if key in row]


def follow(run: str | Path, done: Callable[[], bool], every: float = 1.0, most: float = 24 * 3600) -> int:
    """Draws the dashboard in a notebook, again whenever the run has written something, until `done()`.

    The stop button ends the looking, not the run.

    Args:
        run: its folder, which may not be there yet.
        done: says that the run is over, such as the `done` of a future.
        every: seconds between looks.
        most: seconds after which to stop looking anyway.

    Returns:
        How often it was drawn.

    Raises:
        InputError: `every` is not above 0.
    """
    from IPython.display import Image, display

    if every <= 0:
        raise InputError(f"every = {every} is not a time between looks; 1.0, for example")

    def picture() -> Image:
        png = io.BytesIO()
        dashboard(run).savefig(png, format="png", dpi=80)
        return Image(png.getvalue(), format="png")

    handle = display(picture(), display_id=True)
    drawn, seen, ends = 1, -1, time.monotonic() + most
    file = Path(run) / "metrics.jsonl"
    try:
        while True:
            over = done() or time.monotonic() > ends  # asked before looking, so that the last row is drawn
            size = file.stat().st_size if file.exists() else -1
            if size != seen:
                handle.update(picture())
                drawn, seen = drawn + 1, size
            if over:
                return drawn
            time.sleep(every)
    except KeyboardInterrupt:
        return drawn
