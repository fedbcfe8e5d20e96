"""CELLxGENE Census as a source: cells of many published studies, chosen by a filter, with raw counts.

Needs the package `cellxgene_census`, which is not among the dependencies, and the network; asked for by name only.
Tested with that package on a small local copy in the Census' layout (notebooks/exercises/local_census.py): no session
of ours has reached the Census itself.
"""

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np

from ..errors import InputError

VERSION = "2025-11-08"  # a long-term release: "latest" would change under a result
COLUMNS = ("soma_joinid", "dataset_id", "donor_id", "assay", "tissue", "disease", "cell_type")


def census(
    obs_value_filter: str,
    *,
    organism: str = "homo_sapiens",
    max_cells: int = 10_000,
    version: str = VERSION,
    seed: int = 0,
    uri: str | Path | None = None,
) -> ad.AnnData:
    """Cells of the Census that a filter finds, with raw counts in X: (cells, genes), ready for `train` and `embed`.

    The same cell stands in the Census more than once if several studies published it; unless the filter says
    otherwise, only the primary copy is taken. Cells are named by their `soma_joinid`, so that they are held out by
    name in the same way whatever filter of this version found them.

    Args:
        obs_value_filter: such as `"tissue_general == 'blood' and disease == 'normal'"`.
        organism: homo_sapiens, mus_musculus, ...
        max_cells: if more are found, so many are drawn at random; about 25 kB of memory each.
        version: of the Census.
        seed: of the draw.
        uri: a copy of the Census on a disk of yours; then nothing is sent, and `version` is not used.

    Returns:
        The cells, `COLUMNS` in obs; `uns["census"]` says version, filter, and how many were found and taken.

    Raises:
        InputError: the package is missing, the Census does not answer or refuses the filter, or too few cells.
    """
    if max_cells < 2:
        raise InputError(f"max_cells = {max_cells} is fewer than two cells; raise it")
    package = _package()
    wanted = obs_value_filter.strip()
    if "is_primary_data" not in wanted:
        wanted = f"({wanted}) and is_primary_data == True" if wanted else "is_primary_data == True"
    try:
        where = {"census_version": version} if uri is None else {"uri": str(uri)}
        with package.open_soma(**where) as opened:
            found = package.get_obs(opened, organism, value_filter=wanted, column_names=["soma_joinid"])
            numbers = np.sort(found["soma_joinid"].to_numpy(dtype=np.int64))
            if len(numbers) < 2:
                raise InputError(
                    f"the Census {version} has {len(numbers)} cells of {organism} with {wanted}; use a wider filter"
                )
            taken = numbers
            if len(numbers) > max_cells:
                taken = np.sort(np.random.default_rng(seed).choice(numbers, max_cells, replace=False))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # anndata's "Transforming to str index"
                adata = package.get_anndata(
                    opened, organism, X_name="raw", obs_coords=taken.tolist(), obs_column_names=list(COLUMNS)
                )
    except InputError:
        raise
    except Exception as error:  # the network, TileDB and the filter's parser raise many kinds
        reason = (str(error).splitlines() or [""])[0][:120]
        raise InputError(
            f"the Census did not give cells for {wanted} ({type(error).__name__}: {reason}); check filter and network"
        ) from None
    adata.obs_names = [f"census-{number}" for number in adata.obs["soma_joinid"]]
    if "feature_id" in adata.var:
        adata.var_names = adata.var["feature_id"].astype(str).to_numpy()
    adata.uns["census"] = {
        "version": version if uri is None else "local copy",
        "filter": wanted,
        "organism": organism,
        "found": len(numbers),
        "taken": len(taken),
    }
    return adata


def _package() -> ModuleType:
    try:
        return importlib.import_module("cellxgene_census")
    except ImportError:
        raise InputError(
            "the Census needs a package that is not installed; run pip install cellxgene-census, best in an "
            "environment of its own, save the cells as .h5ad and train on that file"
        ) from None
