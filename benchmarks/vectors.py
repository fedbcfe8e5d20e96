"""Makes data/sorted_cells.h5ad: every method's vectors of the sorted blood cells, which lesson 06 judges.

    python benchmarks/vectors.py [--out FILE]    (or `make vectors`; some ten minutes on two cores, most of them scVI's)

The cells (Zheng et al. 2017) are found in SCFM_DATA_DIR, or downloaded. Every method is fitted on the same 80 % of
them, without labels, with seed 0, as `scfm evaluate --full` does it; `bag` is MINIMAL without tokens, from ablation.py.
The file holds no counts:

    X      values of a few markers: log1p of counts per 10,000
    obs    cell_type and lineage, from the sorting; held_out; molecules
    obsm   X_<method>: vectors, in half precision; map_<method>: a UMAP of them, for pictures
    uns    made: by which command, when, with which config and versions

The old file is only replaced when the new one is whole.
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from ablation import VARIANTS, trained, vectors_of

import scfm_lib as scfm
from scfm_lib.baselines import baselines_for, expression
from scfm_lib.checkpoint import load_checkpoint
from scfm_lib.config import Config
from scfm_lib.data.read import held_out, read_adata
from scfm_lib.evaluate import models
from scfm_lib.files import PROJECT, new_file
from scfm_lib.hardware.threads import use_all_cores
from scfm_lib.scores.clusters import neighbour_graph
from scfm_lib.versions import versions

DATA = "zheng_pbmc_facs"
OUT = PROJECT / "data" / "sorted_cells.h5ad"
MARKERS = ["CD3D", "CD4", "IL7R", "CCR7", "FOXP3", "CD8A", "CD8B", "GZMK", "NKG7", "GNLY", "MS4A1", "CD79A"]
MARKERS += ["CD14", "LYZ", "FCGR3A", "CD34"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    use_all_cores()
    adata, config = read_adata(scfm.find_data(DATA)), scfm.load_config("minimal")
    unseen = held_out(adata.obs_names, config.data.validation_fraction, config.data.split_seed)
    vectors = every_method(adata, unseen, config)
    recorded = without_counts(adata, unseen)
    for method, of_cells in vectors.items():
        recorded.obsm[f"X_{method}"] = of_cells.astype(np.float16)
        recorded.obsm[f"map_{method}"] = umap(of_cells).astype(np.float16)
    made = {"command": "python benchmarks/vectors.py", "date": f"{date.today()}", "data": DATA}
    recorded.uns["made"] = json.dumps(made | {"config": config.model_dump(), "versions": versions()})
    with new_file(out) as temporary:
        recorded.write_h5ad(temporary, compression="gzip")
    print(f"{out}: {len(vectors)} methods, {recorded.n_obs:,} cells, {out.stat().st_size / 1e6:.1f} MB")


def every_method(adata: ad.AnnData, unseen: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """Each method's vectors (cells, dimensions) of all cells, fitted on those that are not in `unseen` (cells,)."""
    counts = adata.layers["counts"]
    fit = ~unseen & (np.diff(counts.indptr) >= config.data.preprocessing.min_genes)
    wanted = baselines_for(counts[fit], config, scvi=True, full=True, say=print)
    if "scvi" not in wanted:
        raise SystemExit("scVI is not installed, and a record without it would flatter the model: make .venv/benchmark")
    vectors = {}
    for method, baseline in wanted.items():
        if method != "raw":  # 16,000 numbers a cell
            print(f"{method} ...", flush=True)
            vectors[method] = baseline(adata, fit, config)
    with tempfile.TemporaryDirectory() as folder:
        run = scfm.train(config, adata, run_dir=Path(folder) / "run", device="cpu", verbose=False, tensorboard=False)
        if not run.finished:
            raise SystemExit(f"stopped at step {run.step}: {OUT} is left as it was")
        for method, model in models(load_checkpoint(run.checkpoint), run.config).items():
            vectors[method] = scfm.embed(model, adata, layer="counts")
        bag, _, _ = trained(VARIANTS["bag alone"], scfm.open_store(run.dir / "store"), run.config)
    return vectors | {"bag": vectors_of(bag, adata)}


def without_counts(adata: ad.AnnData, unseen: np.ndarray) -> ad.AnnData:
    """The cells with what the lesson needs of them: sorting, markers' values, depth."""
    counts = adata.layers["counts"]
    values = expression(counts, adata.var_names.get_indexer(MARKERS)).toarray()
    obs = pd.DataFrame(
        {"cell_type": adata.obs["cell_type"], "lineage": adata.obs["lineage"], "held_out": unseen}
        | {"molecules": np.asarray(counts.sum(1)).ravel().astype(np.int32)},
        index=adata.obs_names,
    )
    return ad.AnnData(values.astype(np.float16), obs=obs, var=pd.DataFrame(index=MARKERS))


def umap(vectors: np.ndarray) -> np.ndarray:
    """A map (cells, 2), as the library's figures draw it."""
    graph = neighbour_graph(vectors)
    sc.tl.umap(graph, random_state=0)
    return graph.obsm["X_umap"]


if __name__ == "__main__":
    main()
