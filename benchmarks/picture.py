"""The README's picture: MINIMAL trained on real cells, its map, and its scores beside the baselines.

    SCFM_DATA_DIR=... python benchmarks/picture.py [--data zheng_pbmc_facs] [--epochs 20]    (or `make picture`)

Writes results/picture.png and, beside it, results/picture.json with the scores, the config and the versions. scVI on
all genes is among the baselines where scVI is installed, which takes minutes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import scfm_lib as scfm
from scfm_lib.reporting.plots import result_figure
from scfm_lib.reporting.report import told

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
        result = scfm.evaluate(run.checkpoint, data, full=True, say=print)
    cells = result["cells"]
    title = f"{cells['all']:,} sorted blood cells: MINIMAL after {arguments.epochs} epochs on two CPU cores"
    result_figure(result, title).savefig(OUT / "picture.png", dpi=100)
    text = json.dumps(told(result) | {"config": run.config.model_dump()}, indent=1)
    (OUT / "picture.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
