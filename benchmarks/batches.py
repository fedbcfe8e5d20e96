"""Does `data.batch_key` take the batch out of the vectors? Two data sets as two batches, with and without it.

    SCFM_DATA_DIR=... python benchmarks/batches.py [--out FILE] [--seeds 0]

PBMC3k and the sorted cells of Zheng et al., joined by the genes of both, labelled by lineage; what only one of them has
(CD34+ cells, platelets, other myeloid cells) is left out. MINIMAL learns from both, once as it is and once with
`data.batch_key`, and `scfm evaluate --batch-key data_set --split-key data_set` judges it: `ilisi` says how well the
data sets mix (0 apart, 1 as by chance), `leave_out_accuracy` how well each data set's labels can be told from the
other's, with every method fitted anew without it. scVI is told the batch in both. A row per method and seed is written
to FILE; ends with a table.
"""

import argparse
import json
import tempfile
from pathlib import Path

import anndata as ad
from rows import Row, Rows, markdown

import scfm_lib as scfm
from scfm_lib.data.read import read_adata
from scfm_lib.reporting.colours import METHOD_NAMES

LINEAGES = {
    "Naive CD4 T": "T cell", "Memory CD4 T": "T cell", "CD8 T": "T cell", "B": "B cell", "NK": "NK cell",
    "CD14+ Mono": "CD14+",  # Zheng et al. sorted no other myeloid cells
}  # fmt: skip
SHOWN = {
    "knn_f1": "kNN F1", "knn_cosine_f1": "kNN F1, cosine", "logistic_f1": "logistic F1", "nmi": "NMI", "ari": "ARI",
    "ilisi": "iLISI", "leave_out_accuracy": "left-out accuracy",
}  # fmt: skip


def two_data_sets() -> ad.AnnData:
    """Cells of both (cells, genes of both) with counts, `obs["data_set"]` and `obs["lineage"]`."""
    pbmc3k, zheng = (read_adata(scfm.find_data(name)) for name in ("pbmc3k", "zheng_pbmc_facs"))
    pbmc3k.obs["lineage"] = pbmc3k.obs["cell_type"].astype(str).map(LINEAGES)
    zheng.obs["lineage"] = zheng.obs["lineage"].astype(str).where(zheng.obs["lineage"] != "CD34+")
    parts = {"pbmc3k": pbmc3k, "zheng_pbmc_facs": zheng}
    cells = {name: part[part.obs["lineage"].notna()].copy() for name, part in parts.items()}
    slim = {name: ad.AnnData(c.layers["counts"], obs=c.obs[["lineage"]], var=c.var[[]]) for name, c in cells.items()}
    return ad.concat(slim, join="inner", label="data_set", index_unique="-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("batches.jsonl"))
    arguments = parser.parse_args()
    rows, adata = Rows(arguments.out, ("seed", "batch_key", "method")), two_data_sets()
    for seed in arguments.seeds:
        for key in (None, "data_set"):
            if rows.has(seed=seed, batch_key=key, method="trained"):
                continue
            config = scfm.load_config("minimal", {"training.seed": seed, "data.batch_key": key})
            with tempfile.TemporaryDirectory() as folder:
                run = scfm.train(config, adata, run_dir=Path(folder) / "run", tensorboard=False)
                if not run.finished:
                    raise SystemExit(f"stopped at step {run.step}: no row is made of it")
                keys = {"label_key": "lineage", "batch_key": "data_set", "split_key": "data_set"}
                # the config's key is not the baselines': scVI is told the batch, and fitted once
                result = scfm.evaluate(run.checkpoint, adata, **keys, scvi=key is None, say=print)
            for method, found in result["embeddings"].items():
                if found and (method in {"start", "trained"} or key is None):
                    rows.add({"seed": seed, "batch_key": key, "method": method} | found)
                    print(json.dumps(rows.rows[-1]), flush=True)
    table: dict[str, list[Row]] = {}
    for row in rows.rows:
        named = METHOD_NAMES[row["method"]] + (", with data.batch_key" if row["batch_key"] else "")
        table.setdefault(named, []).append(row)
    print(f"\n{adata.n_obs:,} cells x {adata.n_vars:,} genes, mean (sd) over seeds\n\n{markdown(table, SHOWN)}")


if __name__ == "__main__":
    main()
