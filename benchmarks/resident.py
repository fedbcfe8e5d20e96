"""Memory of whole runs: is it flat over thousands of steps, and does `scfm estimate` name the peak?

    SCFM_DATA_DIR=... python benchmarks/resident.py [--out FILE]

Each run is a process of its own, as `scfm train` would be, on a prepared store. After some steps, as medians of the
last 50 (batches differ in length): `resident` is what the process itself holds (RssAnon: without the pages of the
store and of libraries, which the system may drop), `rss` all that is resident, `step_milliseconds` a step;
`open_files` is how many. `peak` is the most that was ever resident in a thousand steps (VmHWM), beside what `scfm
estimate` says. `embed` and `evaluate` follow on the same cells. All bytes. Rows that are in FILE are not measured
again, but estimated anew.
"""

import argparse
import contextlib
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rows import Rows

import scfm_lib as scfm
from scfm_lib.versions import versions

LOOKED_AT = (50, 200, 1000, 2000, 5000)
EPOCHS = 1000  # so that the schedule is longer than any run here
RUNS: list[tuple[str, str, int, dict[str, object]]] = [  # data, preset, steps, and what is set
    ("pbmc3k", "minimal", 5000, {}),
    ("zheng_pbmc_facs", "minimal", 5000, {}),
    ("simulated", "minimal", 5000, {}),
    ("pbmc3k", "minimal", 1000, {"training.token_share": 1.0}),
    ("pbmc3k", "minimal", 1000, {"training.batch_size": 8, "training.gradient_accumulation_steps": 4}),
    ("zheng_pbmc_facs", "minimal", 1000, {"training.batch_size": 128}),
    ("zheng_pbmc_facs", "minimal", 1000, {"training.gradient_checkpointing": True}),
    ("zheng_pbmc_facs", "minimal", 1000, {"training.bf16": True}),
    ("pbmc3k", "default", 1000, {}),
    ("zheng_pbmc_facs", "default", 1000, {"training.batch_size": 8}),
]


def of_this_process(key: str) -> int:
    """Bytes, by Linux: RssAnon its own memory now, VmHWM the most that was ever resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def train(store: str, run_dir: str, preset: str, changes: str, steps: str) -> dict[str, object]:
    """Medians of memory and of a step's time over 50 steps, and open files, after some steps; the peak after 1,000."""
    module = importlib.import_module("scfm_lib.train")  # the package's own `train` is the function
    step, seen, peak = module.training_step, [], 0
    keys = ("resident", "rss", "step_milliseconds")
    found: dict[str, dict[int, float]] = {key: {} for key in (*keys, "open_files")}

    def counted(*args: object) -> object:
        nonlocal peak
        started = time.perf_counter()
        made = step(*args)
        took = 1000 * (time.perf_counter() - started)
        seen.append((of_this_process("RssAnon"), of_this_process("VmRSS"), took))
        taken = len(seen)
        if taken in LOOKED_AT:
            for key, value in zip(keys, np.median(seen[-50:], axis=0), strict=True):
                found[key][taken] = round(float(value), 1)
            found["open_files"][taken] = len(list(Path("/proc/self/fd").iterdir()))
        if taken == 1000:
            peak = of_this_process("VmHWM")
        return made

    module.training_step = counted
    config = scfm.load_config(preset, json.loads(changes) | {"training.num_epochs": EPOCHS})
    scfm.train(config, store, run_dir=run_dir, max_steps=int(steps), verbose=False)
    return found | {"peak": peak or of_this_process("VmHWM")}


def estimate(data: str, preset: str, changes: str) -> dict[str, object]:
    found = scfm.estimate(scfm.load_config(preset, json.loads(changes)), data=data)
    return {key: found[key] for key in ("ram_bytes", "embed_bytes", "evaluate_bytes")}


def embed(run_dir: str, data: str, out: str) -> dict[str, object]:
    from scfm_lib.embed import embed_file

    embed_file(run_dir, data, Path(out))
    return {"peak": of_this_process("VmHWM")}


def evaluate(run_dir: str, data: str) -> dict[str, object]:
    scfm.evaluate(run_dir, data, scvi=False)
    return {"peak": of_this_process("VmHWM")}


COMMANDS = {function.__name__: function for function in (train, estimate, embed, evaluate)}


def apart(*words: object) -> dict[str, object]:
    """What a function of `COMMANDS` gives in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("resident.jsonl"))
    parser.add_argument("--one", nargs="+", help="run this here and print what it gives")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(COMMANDS[arguments.one[0]](*arguments.one[1:])))
        return
    rows, errors = Rows(arguments.out, ("data", "preset", "set")), []
    for name, preset, steps, changes in RUNS:
        key = {"data": name, "preset": preset, "set": changes}
        if not rows.has(**key):
            rows.add(key | one_run(name, preset, steps, changes) | {"versions": versions()})
        (row,) = rows.of(**key)
        first, *_, last = row["resident"].values()
        said = estimated(name, preset, changes)
        wrong = {command: said[command] / peak - 1 for command, peak in row["peaks"].items()}
        errors += map(abs, wrong.values())
        print(json.dumps(key), flush=True)
        print(f"{first / 1e9:.2f} GB, then {last / first - 1:+.1%};", end=" ")
        print(*(f"{command} {row['peaks'][command] / 1e9:.2f} GB, said {wrong[command]:+.1%}" for command in wrong))
    print(f"estimates are wrong by {statistics.median(errors):.1%} (median), {max(errors):.1%} at most", flush=True)


@contextlib.contextmanager
def prepared(name: str, preset: str) -> Iterator[tuple[Path, Path]]:
    """A file of the cells and their store, until the block ends."""
    from quality import SIMULATED  # here, so that no child loads what it does not use

    with TemporaryDirectory() as folder:
        file, store = Path(folder) / "cells.h5ad", Path(folder) / "store"
        adata = scfm.simulate(**SIMULATED) if name == "simulated" else scfm.read_adata(scfm.find_data(name))
        adata.write_h5ad(file)
        scfm.prepare(file, scfm.load_config(preset), store)
        yield file, store


def estimated(name: str, preset: str, changes: dict[str, object]) -> dict[str, int]:
    """What `scfm estimate` says of each command's peak."""
    with prepared(name, preset) as (_, store):
        found = apart("estimate", store, preset, json.dumps(changes))
    return {"train": found["ram_bytes"]["total"], "embed": found["embed_bytes"], "evaluate": found["evaluate_bytes"]}


def one_run(name: str, preset: str, steps: int, changes: dict[str, object]) -> dict[str, object]:
    """A data set trained on, embedded and evaluated, each in a process of its own."""
    with prepared(name, preset) as (file, store):
        run, out = file.with_name("run"), file.with_name("vectors.h5ad")
        row = apart("train", store, run, preset, json.dumps(changes), steps)
        row["peaks"] = {"train": row.pop("peak")}
        if not changes:  # they do not depend on how the model was trained
            row["peaks"] |= {"embed": apart("embed", run, file, out)["peak"]}
            row["peaks"] |= {"evaluate": apart("evaluate", run, file)["peak"]}
        return row


if __name__ == "__main__":
    main()
