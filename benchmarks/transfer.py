"""Does a MINIMAL model carry over to a data set it was never trained on? Trained on PBMC3k, judged on sorted cells.

    SCFM_DATA_DIR=... python benchmarks/transfer.py [--out FILE] [--seeds 0 1 2] [--only baselines|model]

Every baseline and the model, for its preset's epochs, learn from PBMC3k's cells alone, without labels. Then each, as it
is, makes vectors of Zheng et al.'s antibody-sorted cells, and probes on those are judged by 5 folds of the labels
(`scores`). Beside them stand the model untrained and at its PCA start, and a PCA that was fitted on the sorted cells
themselves. Rows are written to FILE as they are made, and rows that are there are not made again; scVI of all genes
takes some ten minutes a seed. Ends with a table.
"""

import argparse
import json
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
from rows import Row, Rows, markdown, timed

import scfm_lib as scfm
from scfm_lib.baselines import BASELINES, baselines_for
from scfm_lib.checkpoint import load_checkpoint
from scfm_lib.config import Config
from scfm_lib.data.read import open_cells, read_adata
from scfm_lib.embed import match_model
from scfm_lib.evaluate import models
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.reporting.colours import METHOD_NAMES
from scfm_lib.scores.embedding import scores
from scfm_lib.versions import versions

LEARNED, JUDGED = "pbmc3k", "zheng_pbmc_facs"


SHOWN = {
    "knn_f1": "kNN F1", "knn_cosine_f1": "kNN F1, cosine", "logistic_f1": "logistic F1", "nmi": "NMI", "ari": "ARI",
    "silhouette": "silhouette",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("transfer.jsonl"))
    parser.add_argument("--only", choices=("baselines", "model"), help="to make the rows in two processes")
    arguments = parser.parse_args()
    use_all_cores()
    learned, judged = (read_adata(scfm.find_data(name)) for name in (LEARNED, JUDGED))
    rows = Rows(arguments.out, ("method", "fitted_on", "seed"))
    for seed in arguments.seeds:
        # All of PBMC3k is learned from: what is judged is another data set.
        config = scfm.load_config("minimal", {"training.seed": seed, "data.validation_fraction": 0.0})
        if arguments.only != "baselines" and not rows.has(method="trained", fitted_on=LEARNED, seed=seed):
            carry_model(learned, judged, config, rows)
        if arguments.only != "model":
            carry_baselines(learned, judged, config, rows)
    table: dict[str, list[Row]] = {}
    for row in rows.rows:
        table.setdefault(f"{METHOD_NAMES[row['method']]}, fitted on {row['fitted_on']}", []).append(row)
    print(f"\n{LEARNED} to {JUDGED}, mean (sd) over seeds\n\n{markdown(table, SHOWN)}")


def record(rows: Rows, row: Row, vectors: np.ndarray, judged: ad.AnnData) -> None:
    found = scores(vectors, judged.obs["cell_type"].astype(str).to_numpy()).values
    rows.add(row | found | {"versions": versions()})
    print(json.dumps(row | found), flush=True)


def carry_model(learned: ad.AnnData, judged: ad.AnnData, config: Config, rows: Rows) -> None:
    cells = open_cells(judged, "counts")
    cells.name = JUDGED
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = timed(
            lambda: scfm.train(config, learned, run_dir=Path(folder) / "run", verbose=False, tensorboard=False)
        )
        if not run.finished:
            raise SystemExit(f"stopped at step {run.step}: nothing is recorded")
        what = {
            "seed": config.training.seed, "cells_learned": learned.n_obs, "cells_judged": judged.n_obs,
            "genes": match_model(run.model, cells)[1], "steps": run.step,
        }  # fmt: skip
        for method, model in models(load_checkpoint(run.checkpoint), run.config).items():
            row = {"method": method, "fitted_on": "nothing" if method == "untrained" else LEARNED}
            row |= what | {"cpu_seconds": seconds if method == "trained" else 0.0}
            record(rows, row, scfm.embed(model, judged, layer="counts"), judged)


def carry_baselines(learned: ad.AnnData, judged: ad.AnnData, config: Config, rows: Rows) -> None:
    # One table of both (genes of either, 0 where a data set lacks one), so that a fit on a part serves for all.
    parts = {LEARNED: learned, JUDGED: judged}
    counts = [ad.AnnData(part.layers["counts"], obs=part.obs[[]], var=part.var[[]]) for part in parts.values()]
    both = ad.concat(counts, join="outer", fill_value=0, index_unique="-", keys=list(parts))
    both.layers["counts"] = both.X.tocsr()
    fit = np.arange(both.n_obs) < learned.n_obs
    wanted = baselines_for(both.layers["counts"][fit], config, scvi=True, full=True, say=print)
    fitted = [(name, "nothing" if name == "raw" else LEARNED, fit) for name in wanted] + [("pca", JUDGED, ~fit)]
    for name, fitted_on, cells in fitted:
        row = {"method": name, "fitted_on": fitted_on, "seed": config.training.seed if name.startswith("scvi") else 0}
        if not rows.has(**row):
            vectors, seconds = timed(lambda name=name, cells=cells: BASELINES[name](both, cells, config))
            record(rows, row | {"cpu_seconds": seconds}, vectors[~fit], judged)


if __name__ == "__main__":
    main()
