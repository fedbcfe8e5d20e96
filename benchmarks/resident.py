"""Memory of whole runs: is it flat over thousands of steps, and does `scfm estimate` name its peak?

    SCFM_DATA_DIR=... python benchmarks/resident.py [--data NAME ...] [--preset minimal] [--steps 5000] [--out FILE]

Each run is a process of its own, as `scfm train` would be, on a prepared store: `resident` is what the process itself
holds (RssAnon: without the pages of the store and of libraries, which the system may drop) after some steps, `peak` the
most that was resident of everything in a thousand steps (VmHWM), beside `ram_bytes` of `scfm estimate`. `embed` and
`evaluate` follow on the same cells. All bytes.
"""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from quality import SIMULATED
from rows import Rows

import scfm_lib as scfm
from scfm_lib.versions import versions

LOOKED_AT = (50, 200, 1000, 2000, 5000)
EPOCHS = 1000  # so that the schedule is longer than any run here


def of_this_process(key: str) -> int:
    """Bytes, by Linux: RssAnon its own memory now, VmHWM the most that was ever resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def train(store: str, run_dir: str, preset: str, steps: str) -> dict[str, object]:
    """Resident bytes after some steps, and the peak after a thousand."""
    module = importlib.import_module("scfm_lib.train")  # the package's own `train` is the function
    step, seen, taken = module.training_step, {}, 0

    def counted(*args: object) -> object:
        nonlocal taken
        made = step(*args)
        taken += 1
        if taken in LOOKED_AT:
            seen[taken] = of_this_process("RssAnon")
        if taken == 1000:
            seen["peak"] = of_this_process("VmHWM")
        return made

    module.training_step = counted
    config = scfm.load_config(preset, {"training.num_epochs": EPOCHS})
    scfm.train(config, store, run_dir=run_dir, max_steps=int(steps), verbose=False)
    return {"peak": seen.pop("peak", of_this_process("VmHWM")), "resident": seen}


def estimate(store: str, preset: str) -> dict[str, object]:
    return {"ram_bytes": scfm.estimate(scfm.load_config(preset), data=store)["ram_bytes"]}


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
    parser.add_argument("--data", nargs="+", default=["pbmc3k", "zheng_pbmc_facs", "simulated"])
    parser.add_argument("--preset", default="minimal")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("resident.jsonl"))
    parser.add_argument("--one", nargs="+", help="run this here and print what it gives")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(COMMANDS[arguments.one[0]](*arguments.one[1:])))
        return
    rows = Rows(arguments.out, ("data", "preset"))
    for name in arguments.data:
        if rows.has(data=name, preset=arguments.preset):
            continue
        with TemporaryDirectory() as folder:
            file, store, run = (Path(folder) / part for part in ("cells.h5ad", "store", "run"))
            if name == "simulated":
                scfm.simulate(**SIMULATED).write_h5ad(file)
            else:
                scfm.read_adata(scfm.find_data(name)).write_h5ad(file)
            scfm.prepare(file, scfm.load_config(arguments.preset), store)
            row = {"data": name, "preset": arguments.preset} | apart("estimate", store, arguments.preset)
            row |= apart("train", store, run, arguments.preset, arguments.steps)
            row |= {
                f"{key}_peak": apart(key, *words)["peak"]
                for key, words in (("embed", (run, file, Path(folder) / "vectors.h5ad")), ("evaluate", (run, file)))
            }
        rows.add(row | {"versions": versions()})
        first, *_, last = row["resident"].values()
        wrong = row["ram_bytes"]["total"] / row["peak"] - 1
        print(
            json.dumps(row), f"\n{name}: from first to last {last / first - 1:+.1%}, estimate {wrong:+.1%}", flush=True
        )


if __name__ == "__main__":
    main()
