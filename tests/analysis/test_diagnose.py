"""The doctor names what was planted: two causes in real runs on this CPU, two in made-up records of cards."""

import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import psutil
import pytest

import scfm_lib as scfm
from scfm_lib.analysis.diagnose import diagnose, doctor, doctor_text
from scfm_lib.cli import main
from scfm_lib.config import parse_overrides, with_changes
from scfm_lib.data.store import Store
from scfm_lib.runtime import logger
from scfm_lib.runtime.logger import read_metrics
from scfm_lib.widgets.dashboard import dashboard, follow

MADE_UP = Path(__file__).resolve().parents[2] / "notebooks" / "exercises" / "data"


def causes(found: dict[str, Any]) -> list[str]:
    return [finding["cause"] for finding in found["findings"]]


def slow_disk(monkeypatch: pytest.MonkeyPatch, cells_per_second: float) -> None:
    """A store on a drive that gives so many cells a second."""
    at_once = Store.rows

    def rows(self: Store, cells: Any) -> Any:
        time.sleep(len(cells) / cells_per_second)
        return at_once(self, cells)

    monkeypatch.setattr(Store, "rows", rows)


def test_a_healthy_run_is_called_healthy(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    found = doctor(run.dir)
    assert found["healthy"], doctor_text(found)
    assert found["findings"] == found["notes"] == []
    assert "Healthy" in doctor_text(found)


def test_a_starving_loader_is_named_with_a_setting_that_can_be_set(cells, tiny, tmp_path, monkeypatch) -> None:
    slow_disk(monkeypatch, 200)
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    found = doctor(run.dir)
    assert causes(found) == ["loader"]
    figures, (finding,) = found["figures"], found["findings"]
    assert figures["data_share"] > 0.2
    assert f"{figures['data_share']:.0%}" in finding["evidence"]
    cured = with_changes(tiny, parse_overrides(finding["set"]))
    assert cured.training.num_workers >= 1


def test_a_tiny_batch_is_named(cells, tiny, tmp_path) -> None:
    tiny.training.batch_size, tiny.training.num_epochs = 2, 1
    found = doctor(scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, max_steps=20).dir)
    assert causes(found) == ["tiny batch"]
    assert found["findings"][0]["set"] == ["training.batch_size=32"]
    assert "2 cells" in found["findings"][0]["evidence"]


def test_both_are_named_together(cells, tiny, tmp_path, monkeypatch) -> None:
    slow_disk(monkeypatch, 200)
    tiny.training.batch_size = 2
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, max_steps=10)
    assert causes(doctor(run.dir)) == ["loader", "tiny batch"]


@pytest.mark.parametrize(
    ("name", "cause", "change"),
    [
        ("run_d", "no mixed precision", "training.fp16=true"),
        ("run_b", "host", "training.log_every_steps=50"),
    ],
)
def test_the_made_up_records_of_cards(name: str, cause: str, change: str) -> None:
    found = doctor(MADE_UP / name)
    assert causes(found) == [cause]
    assert found["findings"][0]["set"] == [change]
    assert any("made up" in note for note in found["notes"])  # never to be taken for a measurement
    assert f"--set {change}" in doctor_text(found)


def on_a_card(changes: dict[str, Any], **figures: Any) -> dict[str, Any]:
    """The doctor's word on a card's record (that of run_b), with these settings and figures instead."""
    config = scfm.load_config(MADE_UP / "run_b" / "config.yaml", {"training.log_every_steps": 50} | changes)
    rows = [{**row, **figures} for row in read_metrics(MADE_UP / "run_b" / "metrics.jsonl")]
    return diagnose([{k: v for k, v in row.items() if v is not None} for row in rows], config)


def test_a_busy_card_in_half_precision_is_healthy() -> None:
    assert on_a_card({}, gpu_percent=93)["healthy"]
    assert on_a_card({"training.batch_size": 16}, gpu_percent=93)["healthy"]  # small, but the card is kept busy


@pytest.mark.parametrize(
    ("changes", "figures", "expected"),
    [
        ({"training.batch_size": 16}, {"gpu_percent": 30}, ["tiny batch"]),
        (
            {"training.batch_size": 16, "training.log_every_steps": 1},
            {"gpu_percent": 30},
            ["tiny batch", "host"],
        ),
        ({"training.gradient_accumulation_steps": 8}, {"gpu_percent": 30}, ["host"]),
        ({}, {"gpu_percent": 30}, ["host"]),
        ({"training.log_every_steps": 1}, {"gpu_percent": 30, "data_seconds": 0.03}, ["loader"]),
        ({}, {"gpu_percent": 98, "precision": "fp32"}, ["no mixed precision"]),
        ({}, {"gpu_percent": 98, "precision": "fp32", "compute_capability": 6.1}, []),  # a card without fast halves
    ],
)
def test_causes_on_cards(changes: dict[str, Any], figures: dict[str, Any], expected: list[str]) -> None:
    found = on_a_card(changes, **figures)
    assert causes(found) == expected
    config = scfm.load_config("default")
    for finding in found["findings"]:
        with_changes(config, parse_overrides(finding["set"]))  # a line that can be pasted


@pytest.mark.parametrize(
    ("changes", "figures", "expected", "change"),
    [
        ({"training.bf16": True}, {"precision": "bf16"}, "bf16 on a CPU", "training.bf16=false"),
        ({"training.gradient_checkpointing": True}, {}, "checkpointing", "training.gradient_checkpointing=false"),
        ({"training.learning_rate": 0.4}, {"loss": 40.0}, "loss", "training.learning_rate=0.1"),
    ],
)
def test_a_cpu_that_does_more_than_it_must_and_a_run_that_learns_nothing_are_not_healthy(
    changes: dict[str, Any], figures: dict[str, Any], expected: str, change: str
) -> None:
    row = {"step": 50, "loss": 6.7, "step_seconds": 0.1, "data_seconds": 0.001, "device": "cpu", "precision": "fp32"}
    row |= {"cells_per_second": 320.0, "cores": 2, "cpu_percent": 190.0, "ram_bytes": 10**9}
    assert diagnose([row], scfm.load_config("minimal"))["healthy"]
    found = diagnose([row | figures], scfm.load_config("minimal", changes))
    assert causes(found) == [expected]
    assert found["findings"][0]["set"] == [change]


def test_a_silent_driver_is_said() -> None:
    found = on_a_card({"training.batch_size": 16}, gpu_percent=None)
    assert found["healthy"]
    assert "did not say how busy" in doctor_text(found)


def test_means_are_weighted_by_steps_and_of_the_last_machine() -> None:
    rows = [
        {"step": 10, "step_seconds": 9.0, "data_seconds": 9.0, "device": "cuda", "card": "Tesla T4"},
        {"step": 20, "step_seconds": 1.0, "data_seconds": 0.0, "device": "cpu"},
        {"step": 20, "validation_loss": 5.0},
        {"step": 50, "step_seconds": 2.0, "data_seconds": 0.4, "device": "cpu"},
    ]
    common = {"cells_per_second": 1, "precision": "fp32", "cores": 2, "cpu_percent": 90.0, "ram_bytes": 10**9}
    figures = diagnose([row | common for row in rows], scfm.load_config("minimal"))["figures"]
    assert figures["steps"] == 40
    assert figures["step_seconds"] == pytest.approx((10 * 1 + 30 * 2) / 40)
    assert figures["data_share"] == pytest.approx(12 / 70)


def test_a_run_records_what_it_took(trained) -> None:
    row = next(row for row in trained.history if "loss" in row)
    assert row["device"] == "cpu"
    assert row["precision"] == "fp32"
    assert 0 < row["cpu_percent"] < 100 * psutil.cpu_count() + 50
    assert row["ram_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.9)
    assert "gpu_percent" not in row


def test_a_card_that_answers_and_one_that_does_not(monkeypatch) -> None:
    torch = pytest.importorskip("torch")

    def silent(_: Any) -> int:
        raise RuntimeError("Not Supported")

    for name, answer in {
        "mem_get_info": lambda _: (4 * 10**9, 16 * 10**9),
        "get_device_capability": lambda _: (7, 5),
        "get_device_name": lambda _: "Tesla T4",
        "utilization": lambda _: 83,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    expected = {"card": "Tesla T4", "compute_capability": 7.5, "gpu_memory_bytes": 12 * 10**9}
    assert logger.card_load(torch.device("cuda")) == expected | {"gpu_percent": 83}
    monkeypatch.setattr(torch.cuda, "utilization", silent)
    assert logger.card_load(torch.device("cuda")) == expected


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["scfm", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_command(monkeypatch, capsys, trained, tmp_path) -> None:
    code, out, _ = command(monkeypatch, capsys, MADE_UP / "run_d")
    assert (code, "NO MIXED PRECISION" in out) == (0, True)
    code, out, _ = command(monkeypatch, capsys, trained.dir, "--json")
    assert code == 0
    assert json.loads(out)["figures"]["device"] == "cpu"
    for odd in (tmp_path, tmp_path / "nowhere", trained.dir / "config.yaml"):
        code, out, err = command(monkeypatch, capsys, odd)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "is no run" in err


def test_a_run_without_times_is_told_what_to_do(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 5.0, "cells_per_second": 300.0}\n')
    code, _, err = command(monkeypatch, capsys, tmp_path)
    assert (code, "no step was timed" in err) == (2, True)


def test_the_dashboard_draws_what_there_is(trained, tmp_path) -> None:
    here = dashboard(trained.dir)
    titles = [axes.get_title() for axes in here.axes if axes.get_visible()]
    assert len(titles) == 6
    assert not any("GPU" in title for title in titles)
    loss = here.axes[0].lines[0].get_ydata()
    assert list(loss) == [row["loss"] for row in trained.history if "loss" in row]
    on_card = [axes.get_title() for axes in dashboard(MADE_UP / "run_b").axes if axes.get_visible()]
    assert {"GPU busy (%)", "GPU memory (GB)"} <= set(on_card)
    assert dashboard(tmp_path / "not yet").get_suptitle() == "no step logged yet"


def test_it_follows_a_run_until_its_last_row(tmp_path, monkeypatch) -> None:
    pictures: list[bytes] = []
    handle = types.SimpleNamespace(update=lambda image: pictures.append(image.data))
    monkeypatch.setattr("IPython.display.display", lambda image, display_id: handle)
    lines = (MADE_UP / "run_b" / "metrics.jsonl").read_text().splitlines(keepends=True)[:4]

    def write_a_line_and_say_whether_it_was_the_last() -> bool:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(lines.pop(0))
        return not lines

    follow(tmp_path, write_a_line_and_say_whether_it_was_the_last, every=0.01)
    assert len(set(pictures)) == 4  # a picture for each line, the last one too
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    with pytest.raises(scfm.InputError, match="every = 0"):
        follow(tmp_path, lambda: True, every=0)
