"""A CELLxGENE Census of your own: a few cells on the local disk, in the Census' layout, so that its reader can be tried."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

ASSAYS, STUDIES = ("10x 3' v2", "10x 3' v3"), ("study-1", "study-2", "study-3")


def write_census(adata: ad.AnnData, folder: Path) -> Path:
    """Writes counts (cells, genes) of X as a SOMA collection that `census(..., uri=folder)` opens; returns the folder.

    Cells are dealt to two assays and three made-up studies in turn; those of the third stand for copies of cells that
    another study published, so `is_primary_data` is False. `obs["cell_type"]` is kept if it is there.

    The layout (census_data, organism, ms["RNA"], X["raw"]) is that of the Census' schema
    (https://github.com/chanzuckerberg/cellxgene-census/blob/main/docs/cellxgene_census_schema.md). Needs `tiledbsoma`,
    which comes with `cellxgene_census`.
    """
    import tiledbsoma
    import tiledbsoma.io

    number = np.arange(adata.n_obs)
    obs = {
        "dataset_id": np.array(STUDIES)[number % 3],
        "donor_id": "donor-1",
        "assay": np.array(ASSAYS)[number % 2],
        "tissue": "blood",
        "tissue_general": "blood",
        "disease": "normal",
        "cell_type": adata.obs["cell_type"].astype(str).to_numpy() if "cell_type" in adata.obs else "unknown",
        "is_primary_data": number % 3 < 2,
    }
    var = {
        "feature_id": [f"ENSG{gene:011d}" for gene in range(adata.n_vars)],  # made up, in the form of real ones
        "feature_name": adata.var_names.to_numpy(),
    }
    plain = ad.AnnData(
        adata.X,
        obs=pd.DataFrame(obs, index=number.astype(str)),
        var=pd.DataFrame(var, index=np.arange(adata.n_vars).astype(str)),
    )
    with warnings.catch_warnings(), tiledbsoma.Collection.create(str(folder)) as root:
        warnings.simplefilter("ignore")  # anndata's "Transforming to str index"
        data = root.add_new_collection("census_data")
        made = tiledbsoma.io.from_anndata(
            f"{folder}/census_data/homo_sapiens", plain, measurement_name="RNA", X_layer_name="raw"
        )
        with tiledbsoma.Experiment.open(made) as experiment:
            data.set("homo_sapiens", experiment, use_relative_uri=True)
    return folder
