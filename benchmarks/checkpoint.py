"""Makes the small trained model that lies in data/minimal: MINIMAL on sorted blood cells and PBMC3k, seed 0.

    python benchmarks/checkpoint.py     (or `make checkpoint`; some ten minutes on two cores, most of them scVI's)

The two data sets are found in SCFM_DATA_DIR, or downloaded. Which of them a cell is from is not told: what sets them
apart is mostly which cells they hold, and vectors that may not know it were worse (CONTRIBUTING.md). It is judged on
the held-out sorted cells, for its card. The old model is only replaced when the new one is whole.
"""

import shutil
import tempfile
from pathlib import Path

import scfm_lib as scfm
from scfm_lib.files import SHIPPED_MODEL

SOURCES = {
    "pbmc3k": "PBMC3k (10x Genomics), peripheral blood",
    "zheng_pbmc_facs": "blood cells sorted by antibody (Zheng et al., Nature Communications 2017)",
}
JUDGED = "zheng_pbmc_facs"  # its labels do not depend on expression
ABOUT = "Human blood cells: " + "; ".join(SOURCES.values()) + "."


def main() -> None:
    cells = {name: scfm.read_adata(scfm.find_data(name)) for name in SOURCES}
    config = scfm.load_config("minimal", {"training.seed": 0})
    with tempfile.TemporaryDirectory() as folder:
        run = scfm.train(config, list(cells.values()), run_dir=Path(folder) / "run", device="cpu", tensorboard=False)
        if not run.finished:
            raise SystemExit("stopped before the end: the model in data/minimal is left as it was")
        result = scfm.evaluate(run.checkpoint, cells[JUDGED], say=print)
        scfm.write_report(result | {"data": JUDGED}, run.checkpoint, run.dir / "report")
        made = scfm.save_pretrained(run, Path(folder) / "minimal", about=ABOUT, license="mit", half=True)
        shutil.rmtree(SHIPPED_MODEL, ignore_errors=True)
        shutil.copytree(made, SHIPPED_MODEL)
    size = sum(path.stat().st_size for path in SHIPPED_MODEL.iterdir())
    print(f"{SHIPPED_MODEL}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
