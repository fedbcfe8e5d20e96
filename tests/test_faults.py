"""The machine refuses: a full disk, a folder that cannot be written, a device that lies."""

import errno
import importlib
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.checkpoint import load_checkpoint, save_checkpoint
from scfm_lib.hardware import device as hardware
from scfm_lib.runtime.logger import read_metrics
from scfm_lib.runtime.run_dir import claim, new_run

FLAGS = ["--set", "model.n_genes=60", "--set", "data.preprocessing.min_genes=5", "--set", "training.num_epochs=2"]


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 2 MB, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def scfm_process(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scfm_lib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def last_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_full_disk_during_training_leaves_the_last_whole_checkpoint_or_none(cells, tmp_path, small_disk) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run = small_disk / "run"  # the first checkpoint, without AdamW's states, fits; the second does not
    done = scfm_process("train", "--data_path", tmp_path / "cells.h5ad", "--run-dir", run, *FLAGS)
    assert "No space left on device" in last_line(done)
    for file in (run / "checkpoints").iterdir():
        assert load_checkpoint(file)["step"] == int(file.stem.rsplit("_", 1)[1])


def test_a_full_disk_during_preparation_leaves_nothing(tmp_path, small_disk) -> None:
    scfm.simulate(3000, 400, depth=3000).write_h5ad(tmp_path / "cells.h5ad")
    done = scfm_process("prepare", tmp_path / "cells.h5ad", "--out", small_disk / "store", "--set", "model.n_genes=400")
    assert "No space left on device" in last_line(done)
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_embedding_leaves_nothing(trained, tmp_path, small_disk) -> None:
    data = scfm.simulate(3000, 120, n_types=3, depth=3000)
    data.write_h5ad(tmp_path / "cells.h5ad")
    done = scfm_process("embed", trained.dir, tmp_path / "cells.h5ad", "--out", small_disk / "out.h5ad")
    assert "error: " in last_line(done)
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX users")
def test_a_run_folder_that_cannot_be_written(cells, tmp_path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    folder = tmp_path
    while os.geteuid() == 0 and folder != folder.parent:  # pytest keeps its folders to root: let the child look
        os.chmod(folder, folder.stat().st_mode | 0o055)
        folder = folder.parent
    # root may write anywhere, so the child becomes nobody once Python's own files, which may be root's, are imported
    code = """
import os, sys, scfm_lib.train, scfm_lib.cli
scfm_lib.load_config("minimal")  # its file, too
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
scfm_lib.cli.main()
"""
    arguments = ["train", "--data_path", str(tmp_path / "cells.h5ad"), "--run-dir", str(locked / "run"), *FLAGS]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    line = last_line(done)
    assert "Permission denied" in line
    assert "locked" in line
    assert list(locked.iterdir()) == []


def test_a_gpu_that_answers_but_runs_no_kernel(monkeypatch) -> None:
    """Kaggle's P100 under a recent build."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(
        hardware, "kernel_problem", lambda _: "no kernel image is available for execution on the device"
    )
    assert hardware.choose_device("auto").type == "cpu"
    with pytest.raises(scfm.InputError, match=r"P100.*no code for it; choose another GPU \(on Kaggle T4 x2\)"):
        hardware.choose_device("cuda")


def test_precision_is_what_the_hardware_does_well(monkeypatch) -> None:
    training = scfm.load_config("minimal").training
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)  # a T4
    assert hardware.choose_precision(training, cuda) == "fp16"
    with pytest.raises(scfm.InputError, match=r"capability 8\.0 or later; here, set training\.fp16"):
        hardware.choose_precision(training.model_copy(update={"bf16": True}), cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)  # an A100
    assert hardware.choose_precision(training, cuda) == "bf16"
    assert hardware.choose_precision(training, torch.device("cpu")) == "fp32"
    training.fp16 = True
    assert hardware.choose_precision(training, cuda) == "fp16"


@pytest.mark.parametrize("times", [2, 99])
def test_a_drive_that_drops_is_waited_for(trained, tmp_path, monkeypatch, times) -> None:
    waited, real = [], os.replace
    monkeypatch.setattr("scfm_lib.files.time.sleep", waited.append)

    def dropping(source: object, target: object) -> None:
        if len(waited) < times:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(target))
        real(source, target)

    monkeypatch.setattr("scfm_lib.files.os.replace", dropping)
    state = load_checkpoint(trained.checkpoint)
    if times == 2:
        save_checkpoint(tmp_path / "checkpoints" / "checkpoint_step_7.pt", state)
        assert waited == [2.0, 10.0]
        assert load_checkpoint(tmp_path)["config"] == state["config"]
    else:
        with pytest.raises(OSError, match="not connected"):
            save_checkpoint(tmp_path / "checkpoints" / "checkpoint_step_7.pt", state)
        assert list((tmp_path / "checkpoints").iterdir()) == []
        assert sum(waited) < 120


def test_a_folder_in_which_a_run_goes_on_is_refused_to_a_second(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=2, verbose=False)
    kept = {file: file.read_bytes() for file in run.dir.rglob("*") if file.is_file()}
    with claim(run.dir):  # as the first process holds it while it trains
        for again in ({"resume": "auto", "run_dir": run.dir}, {"resume": run.dir}):
            with pytest.raises(scfm.InputError, match=r"another process is training in .* choose another --run-dir"):
                scfm.train(tiny if "run_dir" in again else None, cells if "run_dir" in again else None, **again)
    assert {file: file.read_bytes() for file in run.dir.rglob("*") if file.is_file()} == kept
    assert scfm.train(resume=run.dir, max_steps=4, verbose=False).step == 4


def test_what_another_process_prepares_is_not_cleared(cells, tiny, tmp_path) -> None:
    begun = new_run(tiny, cells, tmp_path / "run", [])  # before its first checkpoint
    with begun.claim, pytest.raises(scfm.InputError, match="another process is training"):
        scfm.train(tiny, cells, resume="auto", run_dir=tmp_path / "run", verbose=False)
    assert (tmp_path / "run" / "store" / "store.json").exists()
    assert scfm.train(tiny, cells, resume="auto", run_dir=tmp_path / "run", max_steps=1, verbose=False).step == 1


def test_a_training_that_fails_gives_its_folder_back(cells, tiny, tmp_path, monkeypatch) -> None:
    module = importlib.import_module("scfm_lib.train")
    monkeypatch.setattr(module, "pca_start", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:  # a notebook keeps the traceback, and with it what the frames hold
        scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    monkeypatch.undo()
    assert kept.traceback
    assert scfm.train(tiny, cells, resume="auto", run_dir=tmp_path / "run", max_steps=1, verbose=False).step == 1


def test_what_was_being_written_when_a_run_was_killed_is_removed(cells, tiny, tmp_path) -> None:
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", max_steps=1, verbose=False)
    (run.dir / "checkpoints" / ".0badcafe-checkpoint_step_2.pt").write_bytes(b"half")
    scfm.train(resume=run.dir, max_steps=3, verbose=False)
    assert not list((run.dir / "checkpoints").glob(".*"))


class Failing:
    """TensorBoard or wandb with a full disk or without a network."""

    def __getattr__(self, name: str) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
@pytest.mark.parametrize("when", ["at the start", "while it runs"])
def test_what_stands_beside_a_run_never_stops_it(cells, tiny, tmp_path, monkeypatch, capsys, name, when) -> None:
    def start(*_: object) -> Failing:
        if when == "at the start":
            raise ConnectionError("no route to host")
        return Failing()

    monkeypatch.setattr(importlib.import_module("scfm_lib.runtime.logger"), f"_{name}", start)
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", **{"tensorboard": False, name: True})
    assert run.finished
    said = capsys.readouterr().err
    assert said.count(f"{name} failed (") == 1
    assert "training goes on without it" in said
    assert len(run.history) > 3


def test_a_clock_that_jumps_back_changes_nothing(cells, tiny, tmp_path, monkeypatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6 * np.random.default_rng().random())
    run = scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False)
    assert run.finished
    assert all(row["step_seconds"] > 0 for row in run.history if "step_seconds" in row)


def test_a_full_disk_while_metrics_are_written(cells, tmp_path, small_disk) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    flags = [*FLAGS, "--set", "training.log_every_steps=1", "--set", "model.gene_embedding_dim=4"]
    flags += ["--set", "model.hidden_dim=4", "--set", "model.num_heads=1", "--set", "model.ff_dim=4"]
    data = ["--data_path", tmp_path / "cells.h5ad", "--run-dir", small_disk / "run"]
    first = scfm_process("train", *data, *flags, "--max-steps", 5)
    assert first.returncode == 0, first.stderr
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    done = scfm_process("train", "--resume", small_disk / "run")
    assert "No space left on device" in last_line(done)
    (small_disk / "filler").unlink()
    again = scfm_process("train", "--resume", small_disk / "run", "--json")
    assert again.returncode == 0, again.stderr
    rows = read_metrics(small_disk / "run" / "metrics.jsonl")
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps))


def test_a_full_disk_while_a_report_is_written(trained, tmp_path, small_disk) -> None:
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 20_000))
    data = trained.dir.parent / "cells.h5ad"
    done = scfm_process("evaluate", trained.dir, data, "--no-scvi", "--out", small_disk / "report")
    assert "No space left on device" in last_line(done)
    left = [path.name for path in small_disk.rglob("*") if path.is_file() and path.name != "filler"]
    assert not [name for name in left if name.startswith(".")]  # a figure that fitted is whole; none is half-written
    assert "report.html" not in left
