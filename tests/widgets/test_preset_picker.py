"""The preset picker from Python: it answers to every control, and writes what it shows."""

import re
from pathlib import Path
from typing import Any

import pytest

import scfm_lib as scfm
from scfm_lib.estimator.advice import check
from scfm_lib.widgets.preset_picker import PresetPicker, preset_picker


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return check()


def row(picker: PresetPicker, name: str) -> str:
    return re.search(rf">{name}</td><td>(.*?)</td>", picker.shown.value)[1]


def test_a_larger_preset_shows_more_memory_and_another_verdict(found) -> None:
    picker = PresetPicker(found)
    shown = []
    for preset in ("minimal", "default", "large"):
        picker.preset.value = preset
        shown.append((row(picker, "memory"), row(picker, "time"), row(picker, "verdict")))
        assert picker.config.model == scfm.load_config(preset).model
    assert len({memory for memory, _, _ in shown}) == 3
    assert len({time for _, time, _ in shown}) == 3
    assert shown[0][2] != shown[2][2]


def test_every_control_is_answered(found) -> None:
    picker = PresetPicker(found)
    picker.where.value = "Tesla T4"
    assert "17.18 GB" in row(picker, "memory")
    assert "free" in row(picker, "cost")
    for control, value, changes in (
        (picker.batch_size, 128, "memory"),
        (picker.n_genes, 5000, "memory"),
        (picker.precision, "fp32", "memory"),
        (picker.checkpointing, True, "memory"),
        (picker.cells, 100_000, "time"),
        (picker.epochs, 7, "time"),
    ):
        before = row(picker, changes)
        control.value = value
        assert row(picker, changes) != before, control.description


def test_a_preset_brings_its_own_settings(found) -> None:
    picker = PresetPicker(found)
    picker.batch_size.value, picker.checkpointing.value = 99, True
    picker.preset.value = "large"
    assert picker.config == scfm.load_config("large", {"training.gradient_checkpointing": True})


def test_what_does_not_fit_or_cannot_be_says_why(found) -> None:
    picker = PresetPicker(found)
    picker.where.value = next(name for name in picker.where.options if "MX450" in name)
    picker.preset.value, picker.batch_size.value, picker.precision.value = "large", 256, "fp32"
    assert "DOES NOT FIT" in row(picker, "memory")
    assert "not practical" in row(picker, "verdict")
    picker.where.value, picker.precision.value = picker.where.options[0], "fp16"
    if found["target"]["kind"] == "cpu":
        assert "needs a GPU" in picker.shown.value
    picker.where.value, picker.precision.value = "Tesla T4", "bf16"
    assert "8.0 or later; here, set training.fp16" in picker.shown.value


def test_use_this_writes_what_notebook_04_reads(found, tmp_path) -> None:
    picker = preset_picker(found)
    picker.preset.value, picker.batch_size.value = "default", 48
    picker.button.click()
    assert picker.path == tmp_path / "work" / "config.yaml"  # SCFM_WORK_DIR
    written = scfm.load_config(picker.path)
    assert written == picker.config == scfm.load_config("default", {"training.batch_size": 48})
    assert "config.yaml" in picker.saved.value
    assert str(Path.home()) not in picker.saved.value
    assert [file.name for file in picker.path.parent.iterdir()] == ["config.yaml"]  # no temporary file stays
