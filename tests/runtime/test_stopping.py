"""Sessions that end: a run stops before, and the same call goes on with it."""

import datetime
import os
import random
import subprocess
import sys
import time

import pytest

import scfm_lib as scfm
from scfm_lib.runtime import run_dir, stopping
from scfm_lib.runtime.logger import read_metrics

CELL = """
import time, scfm_lib as scfm
from scfm_lib.runtime import run_dir, stopping
from scfm_lib.files import work_dir
stopping.started = time.time  # this machine may be up for longer than a session lasts
config = scfm.load_config("minimal", {overrides})
run = scfm.train(config, "{data}", run_dir=work_dir() / "my_run", resume="auto", verbose=False)
print(run.step, run.finished)
"""


def test_time_is_unlimited_on_a_machine_of_your_own(monkeypatch) -> None:
    for name in stopping.HOURS:
        monkeypatch.delenv(name, raising=False)
    assert stopping.seconds_left() is None


@pytest.mark.parametrize(
    ("variables", "hours"),
    [
        ({"COLAB_RELEASE_TAG": "release-colab-20260801"}, 12),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, 12),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "TPU_WORKER_ID": "0"}, 9),
    ],
)
def test_a_session_has_what_is_left_of_its_hours(monkeypatch, variables, hours) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stopping, "started", lambda: time.time() - 3600)
    assert stopping.seconds_left() == pytest.approx(3600 * (hours - 1) - stopping.RESERVE, abs=5)
    monkeypatch.setattr(stopping, "started", lambda: time.time() - 3600 * hours)
    assert stopping.seconds_left() == 0


def test_a_run_stops_before_its_session_ends_and_the_same_call_goes_on(
    cells, tiny, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(stopping, "started", lambda: time.time() - 3600 * 12)
    call = {"run_dir": tmp_path / "run", "resume": "auto", "tensorboard": False}
    run = scfm.train(tiny, cells, **call)
    assert (run.step, run.finished) == (1, False)
    assert "will stop in time with a checkpoint" in capsys.readouterr().err
    monkeypatch.setattr(stopping, "started", time.time)
    run = scfm.train(tiny, cells, **call)
    assert run.finished
    told = capsys.readouterr().err
    assert "11.8 h left" in told
    assert scfm.train(tiny, cells, **call).step == run.step  # once more: nothing left to do
    whole = scfm.train(tiny, cells, run_dir=tmp_path / "whole", verbose=False)
    assert all(bool((a == b).all()) for a, b in zip(run.model.parameters(), whole.model.parameters(), strict=True))


def test_max_hours_stops_a_run(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_hours=0, verbose=False)
    assert (run.step, run.finished) == (1, False)


@pytest.mark.parametrize("last", [0, 3, 5])
def test_a_run_that_has_come_so_far_takes_no_step(cells, tiny, tmp_path, last) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=5, verbose=False)
    again = scfm.train(resume=run.dir, max_steps=last, verbose=False)
    assert (again.step, again.finished, again.checkpoint) == (5, False, run.checkpoint)
    assert all(bool((a == b).all()) for a, b in zip(again.model.parameters(), run.model.parameters(), strict=True))


def test_no_steps_are_a_model_before_training(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=0, verbose=False)
    assert (run.step, run.checkpoint.name, run.history) == (0, "checkpoint_step_0.pt", [])


@pytest.mark.parametrize("limit", [{"max_steps": -1}, {"max_hours": -0.5}, {"max_hours": float("nan")}])
def test_a_negative_limit_is_refused(cells, tiny, tmp_path, limit) -> None:
    with pytest.raises(scfm.InputError, match="not a number from 0 up"):
        scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, **limit)
    assert not (tmp_path / "run").exists()


def test_auto_goes_on_only_with_the_settings_that_are_asked_for(cells, tiny, tmp_path) -> None:
    call = {"run_dir": tmp_path / "run", "resume": "auto", "verbose": False}
    run = scfm.train(tiny, cells, max_steps=3, **call)
    for section, key, other in (("training", "batch_size", 8), ("model", "num_layers", 3)):
        config = tiny.model_copy(deep=True)
        ours = getattr(getattr(config, section), key)
        setattr(getattr(config, section), key, other)
        with pytest.raises(scfm.InputError, match=rf"{section}\.{key} = {ours}, not {other}"):
            scfm.train(config, cells, **call)
    assert scfm.train(None, cells, max_steps=4, **call).step == 4  # nothing asked for: whatever run is there
    assert scfm.train(tiny, cells, max_steps=5, **call).config == run.config


def test_a_run_goes_on_in_another_folder_with_its_own_store(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "a", max_steps=3, verbose=False)
    other = scfm.train(resume=run.dir, run_dir=tmp_path / "b", max_steps=4, verbose=False)
    assert (other.dir, other.step) == (tmp_path / "b", 4)
    assert scfm.train(resume=tmp_path / "b", max_steps=5, verbose=False).step == 5  # still knows where the store is
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(scfm.InputError, match="is not empty and not this run's"):
        scfm.train(resume=run.dir, run_dir=tmp_path / "c", verbose=False)


def test_runs_that_begin_in_one_second_have_folders_of_their_own(cells, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SCFM_WORK_DIR", str(tmp_path))
    noon = datetime.datetime(2026, 11, 30, 12)
    frozen = type("Clock", (), {"now": staticmethod(lambda: noon)})
    monkeypatch.setattr(run_dir.datetime, "datetime", frozen)
    runs = [scfm.train(tiny, cells, max_steps=1, verbose=False, tensorboard=False) for _ in range(3)]
    assert [run.dir.name for run in runs] == ["20261130-120000", "20261130-120000-2", "20261130-120000-3"]


def test_auto_needs_a_folder_and_leaves_strangers_alone(cells, tiny, tmp_path) -> None:
    with pytest.raises(scfm.InputError, match="needs a run_dir"):
        scfm.train(tiny, cells, resume="auto", verbose=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    scfm.prepare([cells], tiny, tmp_path / "run" / "store")
    with pytest.raises(scfm.InputError, match="is not empty"):
        scfm.train(tiny, cells, resume="auto", run_dir=tmp_path / "run", verbose=False)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"
    assert len(scfm.open_store(tmp_path / "run" / "store")) == 300


def test_what_a_killed_start_left_is_cleared(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=2, verbose=False)
    run.checkpoint.unlink()  # as if killed before it
    for other in (run.dir / "checkpoints").iterdir():
        other.unlink()
    (run.dir / "wandb").mkdir()
    (run.dir / "wandb_id.txt").write_text("1234")
    (run.dir / ".store-abc").mkdir()
    assert scfm.train(tiny, cells, run_dir=run.dir, resume="auto", max_steps=2, verbose=False).step == 2
    assert not {"wandb", "wandb_id.txt", ".store-abc"} & {path.name for path in run.dir.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_on_kaggle_the_same_cell_goes_on(cells, tmp_path, seed) -> None:
    from conftest import TINY

    cells.write_h5ad(tmp_path / "cells.h5ad")
    overrides = TINY | {"training.num_epochs": 150, "training.checkpoint_every_steps": 3}
    code = CELL.format(overrides=overrides, data=tmp_path / "cells.h5ad")
    kaggle = os.environ | {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "SCFM_WORK_DIR": str(tmp_path / "kaggle")}
    whole = {**kaggle, "SCFM_WORK_DIR": str(tmp_path / "whole")}
    subprocess.run([sys.executable, "-c", code], check=True, env=whole, capture_output=True)
    moments, kills = random.Random(seed), 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", code], env=kaggle, stdout=subprocess.PIPE, text=True)
        try:
            told, _ = process.communicate(timeout=None if kills == 3 else moments.uniform(3, 12))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills
    assert told.split() == ["1200", "True"]
    rows = [read_metrics(tmp_path / name / "my_run" / "metrics.jsonl") for name in ("kaggle", "whole")]
    assert [row["loss"] for row in rows[0] if "loss" in row][-1] == [row["loss"] for row in rows[1] if "loss" in row][
        -1
    ]
    same = [scfm.load_model(tmp_path / name / "my_run").state_dict() for name in ("kaggle", "whole")]
    assert all(bool((same[0][key] == same[1][key]).all()) for key in same[0])
