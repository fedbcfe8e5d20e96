"""The README's picture: MINIMAL trained on real cells, its map, and its scores beside the baselines.

    SCFM_DATA_DIR=... python benchmarks/picture.py [--data zheng_pbmc_facs] [--epochs 20]    (or `make picture`)

Writes results/picture.png and, beside it, results/picture.json with the scores, the config and the versions; among the
scores that of a PCA of all genes, since the PCA of the picture reads as few genes as the model (`pca_all_genes`).
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import scfm_lib as scfm
from scfm_lib.baselines import pca_embedding
from scfm_lib.config import with_changes
from scfm_lib.evaluate import scores
from scfm_lib.reporting.plots import result_figure

OUT = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="zheng_pbmc_facs")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    config = scfm.load_config("minimal", {"training.num_epochs": arguments.epochs})
    data = scfm.find_data(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        run = scfm.train(config, data, run_dir=Path(folder) / "run", device="cpu", tensorboard=False)
        if not run.finished:
            raise SystemExit("stopped before the end: the picture is left as it was")
        result = scfm.evaluate(run.checkpoint, data, say=print)
    adata, all_genes = scfm.read_adata(data), with_changes(config, {"model.n_genes": 65_535})
    vectors = pca_embedding(adata, np.ones(adata.n_obs, dtype=bool), all_genes)
    cells = result["cells"]
    title = f"{cells['all']:,} sorted blood cells: MINIMAL after {arguments.epochs} epochs on two CPU cores"
    result_figure(result, title).savefig(OUT / "picture.png", dpi=100)
    numbers = {key: value for key, value in result.items() if key not in {"vectors", "labels"}}
    numbers["pca_all_genes"] = scores(vectors, adata.obs["cell_type"].astype(str).to_numpy())
    text = json.dumps(numbers | {"config": run.config.model_dump()}, indent=1)
    (OUT / "picture.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
