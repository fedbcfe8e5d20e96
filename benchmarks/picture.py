"""The README's picture: the map of a MINIMAL trained on sorted blood cells, and the recorded scores of three seeds.

    SCFM_DATA_DIR=... python benchmarks/picture.py    (or `make picture`; two minutes)

The map is of one training, seed 0. The scores are those of data/recorded_scores.json, made by benchmarks/quality.py, so
the picture says what the README's table says. Writes results/picture.png.
"""

import json
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import scfm_lib as scfm
from scfm_lib.data.read import read_adata
from scfm_lib.files import RECORDED
from scfm_lib.reporting.plots import draw_scores, draw_umap

DATA = "zheng_pbmc_facs"
METHODS = ["pca", "raw", "scvi", "scvi_all", "start", "trained"]
SCORES = {
    "knn": "kNN F1", "logistic_f1": "logistic F1", "nmi": "NMI", "ari": "ARI", "held_out_knn": "kNN F1, held out",
    "held_out_logistic_f1": "logistic F1, held out",
}  # fmt: skip
OUT = Path(__file__).resolve().parent / "results" / "picture.png"


def main() -> None:
    adata, config = read_adata(scfm.find_data(DATA)), scfm.load_config("minimal")
    with tempfile.TemporaryDirectory() as folder:
        run = scfm.train(config, adata, run_dir=Path(folder) / "run", device="cpu", tensorboard=False)
        if not run.finished:
            raise SystemExit("stopped before the end: the picture is left as it was")
    vectors = scfm.embed(run.model, adata, layer="counts")

    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = {method: recorded["scores"][DATA][method] for method in METHODS}
    means = {m: {key: row.get(key) and row[key][0] for key in SCORES} for m, row in found.items()}
    spread = {m: {key: row.get(key) and _around(*row[key]) for key in SCORES} for m, row in found.items()}

    figure = Figure(figsize=(14, 5.4), layout="constrained")
    cells, scores = figure.subplots(1, 2, width_ratios=[1.1, 1])
    draw_umap(cells, vectors, adata.obs["cell_type"].astype("category"), f"{adata.n_obs:,} sorted blood cells")
    draw_scores(scores, means, "How well the vectors tell the cell types apart", spread)
    scores.set(yticklabels=list(SCORES.values()), xlim=(0.6, 0.95))
    scores.set_xlabel(f"score (1 is best), mean and standard deviation of {len(recorded['seeds'])} seeds")
    figure.savefig(OUT, dpi=100)


def _around(mean: float, deviation: float) -> list[float]:
    return [mean - deviation, mean + deviation]


if __name__ == "__main__":
    main()
