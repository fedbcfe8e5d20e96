"""Several processes are one run: the same losses, every cell once, one writer; and it goes on with any number."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import scfm_lib as scfm
from scfm_lib.dataset import HalfCells
from scfm_lib.runtime.distributed import Distributed, _is_about_the_others
from scfm_lib.runtime.logger import read_metrics

SETTINGS = (
    "model.n_genes=60 model.gene_embedding_dim=8 model.hidden_dim=16 model.num_heads=2 model.ff_dim=32 "
    "data.preprocessing.min_genes=5 training.num_epochs=10 training.log_every_steps=1"
).split()


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def flags(*settings: str) -> list[str]:
    return [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


def torchrun(count: int, *arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    where = launcher or ("--standalone", f"--nproc_per_node={count}")
    return [sys.executable, "-m", "torch.distributed.run", *where, "-m", "scfm_lib", "train", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def started(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )


def done(command: list[str]) -> subprocess.CompletedProcess:
    finished = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


@pytest.fixture
def file(cells, tmp_path) -> Path:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def alone(file: Path, run: Path, *settings: str) -> None:
    done(
        [sys.executable, "-m", "scfm_lib", "train", "--data_path", str(file), "--run-dir", str(run), *flags(*settings)]
    )


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_all_processes_are_the_batch(cells, tiny, tmp_path, count) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    alone, seen = HalfCells(store, None, 32, 0), []
    shares = [HalfCells(store, None, 32, 0, distributed=Distributed(rank, count)) for rank in range(count)]
    for step in range(len(alone)):
        parts = [share[step] for share in shares]
        assert sum(len(part.cells) for part in parts) == len(alone[step].cells)
        assert float(sum(part.molecules for part in parts)) == float(alone[step].molecules) == shares[0].molecules(step)
        seen += [int(cell) for part in parts for cell in part.cells]
    assert sorted(seen) == sorted(2 * np.flatnonzero(~store.held_out).tolist())  # both halves of every cell, once


def test_a_process_without_cells_keeps_step(cells, tiny, tmp_path) -> None:
    store = scfm.prepare([cells], tiny, tmp_path / "store")
    shares = [HalfCells(store, None, 1, 0, distributed=Distributed(rank, 3))[0] for rank in range(3)]
    assert [len(share.cells) for share in shares] == [2, 2, 2]  # two half cells each, of which the first counts
    assert float(shares[0].molecules) > 0
    assert [float(share.molecules) for share in shares[1:]] == [0, 0]


def test_two_processes_are_one_with_twice_the_batch(file, tmp_path) -> None:
    alone(file, tmp_path / "one", "training.batch_size=32")
    told = done(
        torchrun(2, "--data_path", file, "--run-dir", tmp_path / "two", *flags("training.batch_size=16"), "--json")
    )
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 50
    np.testing.assert_allclose(two, one, atol=1e-5)
    report = json.loads(told.stdout)  # one process printed
    assert report["finished"]
    steps = [row["step"] for row in read_metrics(tmp_path / "two" / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, len(two) + 1))  # one process wrote
    assert "2 processes, 32 cells a step between them" in told.stderr
    assert told.stderr.count("device cpu") == 1
    vectors = [scfm.load_model(tmp_path / run).gene_embedding for run in ("one", "two")]
    torch.testing.assert_close(vectors[1], vectors[0], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_run_of_two_goes_on_alone_and_back(file, tmp_path) -> None:
    alone(file, tmp_path / "whole", "training.batch_size=32")
    run = tmp_path / "run"
    done(torchrun(2, "--data_path", file, "--run-dir", run, *flags("training.batch_size=16"), "--max-steps", 20))
    assert len(losses(run)) == 20
    done([sys.executable, "-m", "scfm_lib", "train", "--resume", str(run), "--max-steps", "40"])
    assert len(losses(run)) == 40
    done(torchrun(2, "--resume", run))
    np.testing.assert_allclose(losses(run), losses(tmp_path / "whole"), atol=1e-5)


@pytest.mark.slow
def test_accelerate_launch_starts_the_same_run(file, tmp_path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # what it would ask for
    arguments = ["--data_path", str(file), "--run-dir", str(tmp_path / "two"), *flags("training.batch_size=16")]
    done([*launch, "-m", "scfm_lib", "train", *arguments, "--device", "cpu"])
    alone(file, tmp_path / "one", "training.batch_size=32")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)


@pytest.mark.slow
def test_accumulation_in_two_processes_sends_gradients_once_a_step(file, tmp_path) -> None:
    alone(file, tmp_path / "one", "training.batch_size=32")
    halves = flags("training.batch_size=4", "training.gradient_accumulation_steps=4")
    done(torchrun(2, "--data_path", file, "--run-dir", tmp_path / "two", *halves))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)


@pytest.mark.slow
def test_two_machines_are_two_nodes(file, tmp_path) -> None:
    alone(file, tmp_path / "one", "training.batch_size=32")
    port, nodes = free_port(), []
    for node in range(2):
        where = f"--nnodes=2 --nproc_per_node=1 --node_rank={node} --master_addr=127.0.0.1 --master_port={port}"
        arguments = ("--data_path", file, "--run-dir", tmp_path / "two", *flags("training.batch_size=16"))
        nodes.append(started(torchrun(1, *arguments, launcher=tuple(where.split()))))
    assert [(node.communicate(timeout=300), node.returncode)[1] for node in nodes] == [0, 0]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_says_so_and_the_run_goes_on(file, tmp_path) -> None:
    alone(file, tmp_path / "whole", "training.batch_size=32", "training.num_epochs=200")
    run, port = tmp_path / "run", free_port()
    settings = flags("training.batch_size=16", "training.num_epochs=200", "training.checkpoint_every_steps=5")
    arguments = [sys.executable, "-m", "scfm_lib", "train", "--data_path", str(file), "--run-dir", str(run), *settings]
    pair = []
    for rank in range(2):  # without torchrun, which would end the other by itself
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        pair.append(
            subprocess.Popen(
                arguments,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env=environment() | {name: str(value) for name, value in own.items()},
            )
        )
    wait_for(lambda: (run / "checkpoints").exists() and len(losses(run)) > 12, pair[0])
    pair[1].kill()
    _, told = pair[0].communicate(timeout=120)
    assert pair[0].returncode == 2, told
    assert "Traceback" not in told
    assert "lost touch with the others" in told.splitlines()[-1]
    assert "--resume" in told.splitlines()[-1]
    pair[1].wait()
    done([sys.executable, "-m", "scfm_lib", "train", "--resume", str(run)])
    whole, again = losses(tmp_path / "whole"), losses(run)
    assert len(again) == len(whole)
    np.testing.assert_allclose(again[:50], whole[:50], atol=1e-5)
    assert np.mean(again[-100:]) == pytest.approx(np.mean(whole[-100:]), rel=0.01)  # over 1,600 steps rounding grows


def test_wrong_variables_of_a_launcher_are_one_line(file, tmp_path) -> None:
    command = [sys.executable, "-m", "scfm_lib", "train", "--data_path", str(file), "--run-dir", str(tmp_path / "run")]
    for own in ({"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "0"}):
        failed = subprocess.run(command, capture_output=True, text=True, env=environment() | own)
        assert failed.returncode == 2
        assert "Traceback" not in failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen) -> None:
    for _ in range(1200):
        if ready():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    pytest.fail("nothing happened for two minutes")


def test_only_torchs_errors_are_about_other_processes() -> None:
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:28231"
    unset = "Error initializing torch.distributed using env:// rendezvous: environment variable MASTER_ADDR expected"
    for error in (dist.DistNetworkError("timed out"), dist.DistStoreError("x"), RuntimeError(gloo), ValueError(unset)):
        assert _is_about_the_others(error)
    for ours in (ValueError("cannot connect the layers"), RuntimeError("timeout must be positive"), IndexError("peer")):
        assert not _is_about_the_others(ours)
