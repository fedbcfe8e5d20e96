"""Cell types from a reference that lacks one: does `annotate` name the known and give up the unknown, beside a PCA?

    SCFM_DATA_DIR=... python benchmarks/annotate.py [--seeds 0 1 2] [--blind] [--out FILE]

For each seed a third of the sorted cells of Zheng et al., by the hash of their names, is the query. MINIMAL learns from
the others alone, without labels, for its preset's epochs. Those others are the reference: with every type, and then
without one type's cells, three that are easily told from the rest and two that are not.

The model may have seen the missing type's cells in training, without their label, as a pretrained model has seen more
than the reference at hand. A PCA of all genes, fitted as in `scfm annotate` on the reference cells that are learned
from, has not. So there is a third row, for a PCA fitted on the missing type's cells too; and with --blind a fourth, for
a model trained without them, which takes a training for each type.

Rows are written to FILE as they are made, and rows that are there are not made again. A training takes three minutes
with one thread, all else seconds. Ends with a table of means and standard deviations over the seeds.
"""

import argparse
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rows import Rows, markdown

import scfm_lib as scfm
from scfm_lib.analysis.annotate import UNKNOWN, annotate_vectors, pca_of_all_genes, reference_types
from scfm_lib.data.read import held_out, open_cells, read_adata
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.versions import versions

DATA = "zheng_pbmc_facs"
MISSING = ("nothing", "CD56+ NK", "CD19+ B", "CD14+ Monocyte", "CD4+/CD45RO+ Memory", "CD8+ Cytotoxic T")
METHODS = {
    "model": "model",
    "pca": "PCA of all genes",
    "pca_seen": "PCA of all genes, fitted on them too",
    "model_blind": "model, trained without them",
}
CASES = [
    (missing, method)
    for missing in MISSING
    for method in METHODS
    if missing != "nothing" or method in {"model", "pca"}  # both models, and both PCAs, would be one
]
SHOWN = {
    "accuracy": "right, of all that were named",
    "coverage": "named",
    "missing_unknown": "missing type: unknown",
    "known_unknown": "known types: unknown",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--blind", action="store_true", help="also models trained without the missing type")
    parser.add_argument("--out", type=Path, default=Path("annotate.jsonl"))
    arguments = parser.parse_args()
    use_all_cores()
    rows = Rows(arguments.out, ("seed", "missing", "method"))
    for seed in arguments.seeds:
        wanted = [case for case in CASES if arguments.blind or case[1] != "model_blind"]
        wanted = [case for case in wanted if not rows.has(seed=seed, missing=case[0], method=case[1])]
        if wanted:
            annotated(seed, wanted, rows)
    print(json.dumps({"versions": versions()}))
    found = {case: rows.of(missing=case[0], method=case[1]) for case in CASES}
    named = {f"without {missing}: {METHODS[method]}": made for (missing, method), made in found.items() if made}
    print(f"\n{DATA}, mean (sd) over seeds\n\n{markdown(named, SHOWN)}")


def annotated(seed: int, wanted: list[tuple[str, str]], rows: Rows) -> None:
    """Adds a seed's rows, for each missing type and method of `wanted`."""
    adata = read_adata(scfm.find_data(DATA))
    asked = held_out(adata.obs_names, 1 / 3, 1000 + seed)
    parts = reference, query = adata[~asked].copy(), adata[asked].copy()
    cells = [open_cells(part, "counts") for part in parts]
    config = scfm.load_config("minimal", {"training.seed": seed})
    every = reference_types(reference.obs, "cell_type")
    unseen = held_out(reference.obs_names, config.data.validation_fraction, config.data.split_seed)
    truth = query.obs["cell_type"].astype(str).to_numpy()

    @cache
    def vectors_of(method: str, missing: str) -> tuple[np.ndarray, np.ndarray]:
        """Of reference and query, by a method that has never met the missing type."""
        if method == "pca":
            return pca_of_all_genes(*cells, ~unseen & (every != missing), config, lambda line: None)
        with TemporaryDirectory() as folder:
            learned = reference[every != missing].copy()
            run = scfm.train(config, learned, run_dir=Path(folder) / "run", verbose=False, tensorboard=False)
            if not run.finished:
                raise SystemExit(f"stopped at step {run.step}: nothing is recorded")
            return tuple(scfm.embed(run.model, part, layer="counts") for part in parts)

    for missing, method in wanted:
        blind = method in {"pca", "model_blind"}
        here, there = vectors_of(method.split("_")[0], missing if blind else "nothing")
        types = np.where(every == missing, "", every)  # annotate leaves them out
        label, lacking = annotate_vectors(here, types, unseen, there)["label"].to_numpy(), truth == missing
        named, right = label != UNKNOWN, label == truth
        row = {
            "seed": seed,
            "missing": missing,
            "method": method,
            "accuracy": share(right[named]),
            "accuracy_known": share(right[named & ~lacking]),
            "coverage": share(named),
            "missing_unknown": share(~named[lacking]),
            "known_unknown": share(~named[~lacking]),
            "missing_cells": int(lacking.sum()),
            "query_cells": len(truth),
            "reference_cells": int((types != "").sum()),
        }
        rows.add(row)
        print(json.dumps(row), flush=True)


def share(chosen: np.ndarray) -> float | None:
    """Of cells (cells,) bool; None of none."""
    return round(float(chosen.mean()), 4) if len(chosen) else None


if __name__ == "__main__":
    main()
