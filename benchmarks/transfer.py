"""Does a MINIMAL model carry over to a data set it was never trained on? Trained on PBMC3k, judged on sorted cells.

    SCFM_DATA_DIR=... python benchmarks/transfer.py [--seeds 0 1 2] > benchmarks/results/DATE-transfer.jsonl

Every baseline and the model learn from PBMC3k's cells alone, without labels. Then each, as it is, makes vectors of
Zheng et al.'s antibody-sorted cells, and probes on those are judged by 5 folds of the labels (`scores`). Beside them
stand the model untrained and at its PCA start, a PCA that was fitted on the sorted cells themselves, and a guess of
the commonest type every time. For each seed prints a JSON line for what was done, then one per method (minutes a seed).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

import scfm_lib as scfm
from scfm_lib.baselines import BASELINES, baselines_for
from scfm_lib.checkpoint import load_checkpoint
from scfm_lib.data.read import open_cells, read_adata
from scfm_lib.embed import match_model
from scfm_lib.evaluate import models
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.scores.embedding import scores
from scfm_lib.versions import versions

LEARNED, JUDGED = "pbmc3k", "zheng_pbmc_facs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    use_all_cores()
    for seed in arguments.seeds:
        transfer(arguments.epochs, seed)


def transfer(epochs: int, seed: int) -> None:
    learned, judged = (read_adata(scfm.find_data(name)) for name in (LEARNED, JUDGED))
    labels = judged.obs["cell_type"].astype(str).to_numpy()
    changes = {
        "training.num_epochs": epochs,
        "training.seed": seed,
        "data.validation_fraction": 0.0,  # what is judged is another data set
    }
    config = scfm.load_config("minimal", changes)

    # One table of both (genes of either, 0 where a data set lacks one), so that a fit on a part serves for all.
    parts = {"learned": learned, "judged": judged}
    counts = [ad.AnnData(part.layers["counts"], obs=part.obs[[]], var=part.var[[]]) for part in parts.values()]
    both = ad.concat(counts, join="outer", fill_value=0, index_unique="-", keys=list(parts))
    both.layers["counts"] = both.X.tocsr()
    fit = np.arange(both.n_obs) < learned.n_obs

    def record(method: str, fitted_on: str, started: float, vectors: np.ndarray) -> None:
        seconds = round(time.monotonic() - started, 1)
        row = {"method": method, "fitted_on": fitted_on, "seed": seed, "seconds": seconds}
        print(json.dumps(row | scores(vectors, labels).values), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run = scfm.train(config, learned, run_dir=Path(folder) / "run", verbose=False, tensorboard=False)
        if not run.finished:
            raise SystemExit(f"stopped at step {run.step}: nothing is recorded")
        vectors = scfm.embed(run.model, judged, layer="counts")
        trained_in = time.monotonic() - started
        others = models(load_checkpoint(run.checkpoint), run.config)
        cells = open_cells(judged, "counts")
        cells.name = JUDGED
        _, matched = match_model(run.model, cells)
        what = {
            "learned": LEARNED, "judged": JUDGED, "cells_learned": learned.n_obs, "cells_judged": judged.n_obs,
            "genes": matched, "steps": run.step, "versions": versions(), "config": run.config.model_dump(),
        }  # fmt: skip
        print(json.dumps(what), flush=True)
        record("trained", LEARNED, time.monotonic() - trained_in, vectors)
        for name, fitted_on in (("untrained", "nothing"), ("start", LEARNED)):
            started = time.monotonic()
            record(name, fitted_on, started, scfm.embed(others[name], judged, layer="counts"))
    for name, baseline in baselines_for(
        both.layers["counts"][fit], config, scvi=True, full=True, say=lambda line: print(line, file=sys.stderr)
    ).items():
        started = time.monotonic()
        record(name, LEARNED, started, baseline(both, fit, config)[~fit])
    started = time.monotonic()
    record("pca", JUDGED, started, BASELINES["pca"](both, ~fit, config)[~fit])
    kinds, numbers = np.unique(labels, return_counts=True)
    guess = np.full(len(labels), kinds[numbers.argmax()])
    row = {"method": "majority", "fitted_on": "labels", "knn_f1": f1_score(labels, guess, average="macro")}
    row |= {"logistic_f1": row["knn_f1"], "knn_accuracy": accuracy_score(labels, guess)}
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))


if __name__ == "__main__":
    main()
