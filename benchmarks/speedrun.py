"""The cell speedrun: how soon after a store is open are there vectors of all cells that beat the baselines?

    SCFM_DATA_DIR=... python benchmarks/speedrun.py --what "token share of a quarter" [--set KEY=VALUE ...]
    SCFM_DATA_DIR=... python benchmarks/speedrun.py --baselines

The rule: the sorted cells of Zheng et al., two cores. The clock starts with the prepared store open and stops with
the vectors of all cells: the PCA start, training with its checks on held-out cells and its checkpoints, and embedding.
The target, as a mean of three seeds: neighbours (cosine) and logistic regression above a PCA of all genes and above
scVI on all genes with its best number of epochs (100). All methods are fitted on the same 80 % of the cells.

Each call is a line of the leaderboard in benchmarks/README.md. The seeds' rows go to FILE, with the commit, the
settings and the versions. Run it alone on the machine: the clock is on the wall, and processor seconds stand beside it.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import numpy as np
from rows import Rows, mean_and_sd

import scfm_lib as scfm
from scfm_lib.baselines import BASELINES
from scfm_lib.config import Config, parse_overrides
from scfm_lib.data.read import held_out, read_adata
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.scores.embedding import scores
from scfm_lib.versions import versions

SCORES = ("knn_cosine_f1", "knn_f1", "logistic_f1", "nmi", "ari")


def clocked(make: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What `make` makes, seconds on the wall, and seconds of all processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = make()
    return made, time.perf_counter() - wall, time.process_time() - cpu


def ours(config: Config, store: Path, adata: ad.AnnData, folder: Path) -> np.ndarray:
    """The vectors of all cells, as `scfm train` and `scfm embed` make them."""
    run = scfm.train(config, store, run_dir=folder, verbose=False, tensorboard=False)
    assert run.finished
    return scfm.embed(run.model, adata, layer="counts")


def commit() -> str:
    """Of the code that runs, with a + if it has been changed since."""
    here = Path(scfm.__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--short", "--", str(here)) else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="zheng_pbmc_facs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--what", default="", help="what is new, for the leaderboard")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE changes of MINIMAL")
    parser.add_argument("--baselines", action="store_true", help="PCA and scVI of all genes instead of the model")
    parser.add_argument("--out", type=Path, default=Path("speedrun.jsonl"))
    arguments = parser.parse_args()
    use_all_cores()
    adata = read_adata(scfm.find_data(arguments.data))
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    rows, found = Rows(arguments.out, ("method", "what", "seed")), []
    with TemporaryDirectory() as folder:
        config = scfm.load_config("minimal", parse_overrides(arguments.set))
        fit = ~held_out(adata.obs_names, config.data.validation_fraction, config.data.split_seed)
        store = Path(folder) / "store"
        scfm.prepare(adata, config, store)
        for seed in arguments.seeds:
            config.training.seed = seed
            if arguments.baselines:
                makers = {name: lambda name=name: BASELINES[name](adata, fit, config) for name in ("pca", "scvi_all")}
            else:
                run_dir = Path(folder) / f"run {seed}"
                makers = {"scfm": lambda run_dir=run_dir: ours(config, store, adata, run_dir)}
            for method, make in makers.items():
                vectors, seconds, cpu = clocked(make)
                row = {"date": f"{date.today()}", "commit": commit(), "what": arguments.what, "method": method}
                row |= {"seed": seed, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
                values = scores(vectors, labels).values
                row |= {key: round(values[key], 4) for key in SCORES}
                rows.add(row | {"set": arguments.set, "versions": versions()})
                found.append(row)
                print(json.dumps(row), flush=True)
    for method in dict.fromkeys(row["method"] for row in found):
        here = [row for row in found if row["method"] == method]
        seconds = sorted(row["seconds"] for row in here)
        told = [f"{mean_and_sd(here, key)[0]:.3f} ({mean_and_sd(here, key)[1]:.3f})" for key in SCORES]
        spread = f"{statistics.median(seconds):.1f} ({seconds[0]:.1f}-{seconds[-1]:.1f})"
        cpu = statistics.median(row["cpu_seconds"] for row in here)
        name = arguments.what if method == "scfm" else method
        print("| " + " | ".join([here[0]["date"], name, spread, f"{cpu:.0f}", *told, here[0]["commit"]]) + " |")


if __name__ == "__main__":
    main()
