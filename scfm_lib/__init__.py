"""Train a single-cell foundation model on the computer you have, and find out honestly how good it is.

import scfm_lib as scfm
config = scfm.load_config("minimal")
run = scfm.train(config, "data/pbmc3k.h5ad")
adata.obsm["X_scfm"] = scfm.embed(run.model, adata)
"""

import importlib
import os
import sys
import types
from typing import Any

_PUBLIC = {  # file: its public names
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
    "evaluate": "evaluate",
    "estimator.advice": "check",
    "estimator.estimate": "estimate best_fit",
    "reporting.report": "write_report",
    "reporting.hub": "save_pretrained",
}
_WHERE = {name: file for file, names in _PUBLIC.items() for name in names.split()}
__all__ = list(_WHERE)

# Threads of torch that wait for each other spin, and take the cores from whatever else runs. 1,000 turns instead of
# some 300,000 cost nothing alone, and beside a second run are twice as fast (CONTRIBUTING.md). Read when torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class _Package(types.ModuleType):
    """Loads a public name when it is first asked for, so that threads can be set before torch is imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"scfm_lib has no {name!r}; there are {', '.join(__all__)}")
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing scfm_lib.train would otherwise put the module in the place of the function scfm.train.
        if not (name in _WHERE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
