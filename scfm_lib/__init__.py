"""Train a single-cell foundation model on the computer you have, and find out honestly how good it is.

import scfm_lib as scfm
config = scfm.load_config("minimal")
run = scfm.train(config, "data/pbmc3k.h5ad")
adata.obsm["X_scfm"] = scfm.embed(run.model, adata)
"""

import os

from .public_names import public_names

# Threads of torch that wait for each other spin, and take the cores from whatever else runs. 1,000 turns instead of
# some 300,000 cost nothing alone, and beside a second run are twice as fast (CONTRIBUTING.md). Read when torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = public_names(
    __name__,
    {
        "errors": "InputError",
        "files": "work_dir",
        "config": "Config load_config config_text",
        "data.read": "open_cells read_adata",
        "data.store": "prepare open_store",
        "data.sources": "find_data",
        "data.census": "census",
        "data.simulate": "simulate",
        "model": "CellTransformer",
        "checkpoint": "load_model",
        "train": "train Run",
        "embed": "embed",
        "evaluate": "evaluate judge",
        "analysis.annotate": "annotate",
        "estimator.advice": "check",
        "estimator.estimate": "estimate best_fit",
        "reporting.report": "write_report",
        "reporting.hub": "save_pretrained",
    },
)
