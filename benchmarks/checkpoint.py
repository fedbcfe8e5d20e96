"""Makes the small trained model that lies in data/minimal: MINIMAL on the bundled cells, seed 0.

    python benchmarks/checkpoint.py     (or `make checkpoint`; about two minutes on two cores, half of it scVI's)

Nothing is downloaded. It is judged on the held-out cells, for its card. The old model is only replaced when the new one
is whole.
"""

import shutil
import tempfile
from pathlib import Path

import scfm_lib as scfm
from scfm_lib.reporting.hub import save_pretrained

FOLDER = Path(__file__).resolve().parent.parent / "data" / "minimal"
ABOUT = (
    "700 human blood cells with 765 genes that come with scanpy "
    "(`scanpy.datasets.pbmc68k_reduced`, after Zheng et al., "
    "Nature Communications 2017); their counts were restored from normalised values."
)


def main() -> None:
    config = scfm.load_config("minimal", {"training.seed": 0})
    with tempfile.TemporaryDirectory() as folder:
        run = scfm.train(config, "bundled", run_dir=Path(folder) / "run", device="cpu", tensorboard=False)
        if not run.finished:
            raise SystemExit("stopped before the end: the model in data/minimal is left as it was")
        scfm.write_report(scfm.evaluate(run.checkpoint, "bundled"), run.checkpoint, run.dir / "report")
        made = save_pretrained(run, Path(folder) / "minimal", about=ABOUT, license="mit")
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{FOLDER}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
