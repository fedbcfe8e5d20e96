"""The preset picker: sliders in, memory, time and cost out at once, and a button that writes the run's config.

Only what ipywidgets 7.7.1 (Colab) and 8 both have. No logic of its own: the figures are `check.outlook` and
`estimate.rented_for`, as the two lines of code beside the widget show.
"""

from functools import cache
from pathlib import Path
from typing import Any

import ipywidgets as w
import yaml

from ..config import PRESETS, Config, config_text, load_config
from ..errors import InputError
from ..estimator.advice import best_target, outlook, with_cpu_speed
from ..estimator.estimate import rented_for
from ..estimator.target import Target, card_target
from ..estimator.text import dollars
from ..estimator.workload import Workload, typical_store, workload
from ..files import work_dir, write_text
from ..hardware.gpus import cards
from ..reporting.colours import BLUE, RED
from ..units import duration, gb

HERE = "this machine"


class PresetPicker:
    """A widget that shows what a choice takes; `config` is the choice, `widget` what to display.

    Args:
        found: what `check()` returned.
        path: where "use this" writes the config; `config.yaml` in `work_dir()` when unset.
    """

    def __init__(self, found: dict[str, Any], path: str | Path | None = None):
        self.path = Path(path or work_dir() / "config.yaml")
        self._here, _ = best_target(found)
        self._cpu_flops = found["cpu"]["fp32_flops"]
        wide = {"style": {"description_width": "110px"}, "layout": w.Layout(width="420px")}
        names = [HERE, *(card.name for card in cards())]
        presets = [(name.upper(), name) for name in PRESETS]
        narrow = {"style": {"description_width": "110px", "button_width": "95px"}, "layout": w.Layout(width="430px")}
        self.preset = w.ToggleButtons(options=presets, description="preset", **narrow)
        self.batch_size = w.IntSlider(32, 1, 256, description="cells in a batch", continuous_update=False, **wide)
        self.n_genes = w.IntSlider(1000, 100, 10_000, 100, description="tokens: genes", continuous_update=False, **wide)
        self.cells = w.IntSlider(10_000, 500, 500_000, 500, description="cells", continuous_update=False, **wide)
        self.epochs = w.IntSlider(50, 1, 200, description="epochs", continuous_update=False, **wide)
        precisions = [("the hardware decides", "auto"), *((name, name) for name in ("fp32", "bf16", "fp16"))]
        self.precision = w.Dropdown(options=precisions, value="auto", description="precision", **wide)
        self.checkpointing = w.Checkbox(False, description="gradient checkpointing", **wide)
        self.where = w.Dropdown(options=names, value=HERE, description="where", **wide)
        self.button = w.Button(description="use this", button_style="primary")
        self.shown, self.saved = w.HTML(), w.HTML()
        self._controls = [self.batch_size, self.n_genes, self.cells, self.epochs, self.precision, self.checkpointing]
        self.preset.observe(self._follow_preset, names="value")
        for control in (*self._controls, self.where):
            control.observe(self._show, names="value")
        self.button.on_click(lambda _: self.save())
        left = w.VBox([self.preset, *self._controls, self.where, self.button, self.saved])
        self.widget = w.HBox([left, self.shown])
        self._follow_preset()

    @property
    def config(self) -> Config:
        """The choice, as `scfm.train` takes it."""
        choice = {
            "model.n_genes": self.n_genes.value,
            "training.batch_size": self.batch_size.value,
            "training.num_epochs": self.epochs.value,
            "training.gradient_checkpointing": self.checkpointing.value,
            "training.bf16": {"auto": None, "bf16": True}.get(self.precision.value, False),
            "training.fp16": {"auto": None, "fp16": True}.get(self.precision.value, False),
        }
        return load_config(self.preset.value, choice)

    @property
    def target(self) -> Target:
        """Where it would run."""
        return self._here if self.where.value == HERE else card_target(self.where.value)

    def save(self) -> Path:
        """Writes the config for notebook 04 to read; whole, or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, config_text(self.config))
        self.saved.value = f"written: <code>{self.path.name}</code>; notebook 04 trains it"
        return self.path

    def _follow_preset(self, _: Any = None) -> None:
        preset = load_config(self.preset.value)
        for control in self._controls:
            control.unobserve(self._show, names="value")
        self.batch_size.value, self.n_genes.value = preset.training.batch_size, preset.model.n_genes
        self.epochs.value = preset.training.num_epochs
        for control in self._controls:
            control.observe(self._show, names="value")
        self._show()

    def _show(self, _: Any = None) -> None:
        try:
            config, target = self.config, self.target
            work = _work(config_text(config), self.cells.value)
            answer = outlook(config, self.cells.value, with_cpu_speed(target, config, self._cpu_flops), work)
            self.shown.value = panel(answer, target)
        except InputError as error:
            self.shown.value = f"<p style='color:{RED}'>{error}</p>"


@cache
def _work(config: str, cells: int) -> Workload:
    chosen = Config.model_validate(yaml.safe_load(config))
    return workload(chosen, typical_store(chosen.model.n_genes), cells)[0]


def panel(answer: dict[str, Any], target: Target) -> str:
    """The right-hand side: a memory bar, the verdict, time and cost, as HTML."""
    room, size = target.memory_bytes, answer["memory_bytes"]
    share = 0 if not room else min(100, 100 * size / room)
    colour = RED if answer["fits"] is False else BLUE
    bar = (
        "<div style='width:320px;height:22px;border:1px solid #555;background:#eee'>"
        f"<div style='width:{share:.0f}%;height:100%;background:{colour}'></div></div>"
    )
    hours = answer["hours"]
    time = "not known" if hours is None else " to ".join(duration(3600 * hours[key]) for key in ("low", "high"))
    price = "nothing but electricity"
    if target.card and hours:
        rented = rented_for(target.card, [3600 * hours[key] for key in ("low", "typical", "high")])
        price = (
            "; ".join(f"{row['machine']}: {dollars(*row['usd'])}" for row in rented[:3])
            or "nobody in gpus.yaml rents it"
        )
    rows = [
        ("memory", f"{gb(size)} of {gb(room)}{'' if answer['fits'] is not False else ', DOES NOT FIT'}"),
        ("time", time),
        ("cost", price),
        ("verdict", f"<b style='color:{colour}'>{answer['verdict'] or 'not known'}</b>"),
    ]
    lines = "".join(f"<tr><td style='padding-right:12px'>{name}</td><td>{value}</td></tr>" for name, value in rows)
    why = answer["reason"] + (f"<br>{answer['change']}" if answer["change"] else "")
    return f"<h4>{target.name}</h4>{bar}<table>{lines}</table><p style='width:420px;line-height:1.3'>{why}</p>"


def preset_picker(found: dict[str, Any] | None = None, path: str | Path | None = None) -> PresetPicker:
    """The picker, displayed; returns it, so that `picker.config` can be used.

    Args:
        found: what `check()` returned; asked now when unset.
        path: as in `PresetPicker`.
    """
    from IPython.display import display

    from ..estimator.advice import check

    picker = PresetPicker(found or check(), path)
    display(picker.widget)
    return picker
