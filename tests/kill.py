"""Killed anywhere: SIGKILL at random moments of training and preparing, and whether what follows is as if nothing was.

    python tests/kill.py [SEED]    prints a table: 25 kills of training, 10 of preparing

Each command runs in a child of this process, which has everything imported (tests/fuzz.py). After a kill of training
the same command with `--resume auto` goes on to the end; its weights must equal, to the bit, those of a run that was
never killed. After a kill of preparing the store is not there or whole, and the same command makes the same bytes.
"""

import os

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # read when they are imported

import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fuzz import TINY, in_child, prepare_to_fork

WAYS = {  # threads, processes, steps between checkpoints, and whether it is killed while one is written; how often
    "one thread": (1, 1, 7, False, 6),
    "two threads": (2, 1, 7, False, 8),
    "writing a checkpoint": (2, 1, 1, True, 6),
    "two processes": (1, 2, 7, False, 5),
}
PREPARING = 10
EPOCHS = 20


def words_of(threads: int, every: int, data: Path) -> list[str]:
    changes = [change for change in TINY if "num_epochs" not in change]
    changes += [f"training.num_epochs={EPOCHS}", f"training.threads={threads}", "training.batch_size=16"]
    changes += [f"training.checkpoint_every_steps={every}", "training.seed=5"]
    pairs = [word for change in changes for word in ("--set", change)]
    return ["train", "--data_path", str(data), "--run-dir", "run", "--resume", "auto", *pairs]


def start(words: list[str], home: Path, processes: int = 1) -> list[int]:
    """The command in so many processes that know of each other, in the folder `at` of `home`."""
    (home / "at").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            in_child(words, home)
        children.append(child)
    return children


def ended(children: list[int]) -> bool:
    """Waits for them; whether all ended well."""
    return not any([os.waitpid(child, 0)[1] for child in children])


def kill(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def weights(run: Path) -> dict[str, np.ndarray]:
    from scfm_lib.checkpoint import load_checkpoint

    return {name: tensor.numpy() for name, tensor in load_checkpoint(run)["model"].items()}


def equal(run: Path, expected: dict[str, np.ndarray]) -> bool:
    found = weights(run)
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def steps_saved(run: Path) -> int | None:
    """The newest checkpoint's step; None where there is none."""
    steps = [int(file.stem.rsplit("_", 1)[1]) for file in run.glob("checkpoints/checkpoint_step_*.pt")]
    return max(steps, default=None)


def train_and_kill(way: str, data: Path, folder: Path, rng: np.random.Generator) -> list[dict]:
    threads, processes, every, in_write, times = WAYS[way]
    words = words_of(threads, every, data)
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert ended(start(words, whole, processes)), (whole / "at" / ".stderr").read_text()
    seconds, expected = time.monotonic() - began, weights(whole / "at" / "run")
    rows = []
    for number in range(times):
        home = folder / str(number)
        home.mkdir()
        run, moment = home / "at" / "run", float(rng.uniform(0.02 if number == 0 else 0.4, 0.98)) * seconds
        children, began, seen = start(words, home, processes), time.monotonic(), False
        while time.monotonic() - began < moment or (in_write and not seen):
            if in_write and time.monotonic() - began >= moment:
                seen = any((run / "checkpoints").glob(".*-checkpoint_step_*.pt"))  # under its temporary name
                if not seen and time.monotonic() - began > 3 * seconds:
                    break
            else:
                time.sleep(0.002)
        kill(children)
        saved = steps_saved(run)
        went_on = ended(start(words, home, processes))
        right = went_on and equal(run, expected)
        left = [path.name for path in (run / "checkpoints").glob(".*")]
        row = {"way": way, "after": round(moment, 2), "writing": seen, "from": saved}
        rows.append(row | {"equal": right, "left": left})
        shutil.rmtree(home)
    return rows


def prepare_and_kill(data: Path, folder: Path, rng: np.random.Generator) -> list[dict]:
    words = ["prepare", str(data), "--out", "store", "--set", "data.preprocessing.min_genes=5"]
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert ended(start(words, whole)), (whole / "at" / ".stderr").read_text()
    seconds = time.monotonic() - began
    expected = {file.name: file.read_bytes() for file in (whole / "at" / "store").glob("*.bin")}
    rows = []
    for number in range(PREPARING):
        home = folder / str(number)
        home.mkdir()
        moment = float(rng.uniform(0.02, 1.0)) * seconds
        children = start(words, home)
        time.sleep(moment)
        kill(children)
        store = home / "at" / "store"
        there = store.exists()
        right = there or ended(start(words, home))
        right = right and {file.name: file.read_bytes() for file in store.glob("*.bin")} == expected
        rows.append({"way": "preparing", "after": round(moment, 2), "whole": there, "equal": bool(right)})
        shutil.rmtree(home)
    return rows


def main() -> None:
    rng = np.random.default_rng(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    prepare_to_fork()
    import scfm_lib as scfm

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scfm.simulate(300, 200, n_types=3, n_batches=2, depth=300, seed=1).write_h5ad(folder / "few.h5ad")
        scfm.simulate(6000, 3000, n_types=3, depth=2000, seed=1).write_h5ad(folder / "many.h5ad")
        for way in WAYS:
            (folder / way).mkdir()
            for row in train_and_kill(way, folder / "few.h5ad", folder / way, rng):
                print(json.dumps(row), flush=True)
        (folder / "preparing").mkdir()
        for row in prepare_and_kill(folder / "many.h5ad", folder / "preparing", rng):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
