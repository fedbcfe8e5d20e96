"""Cells with something added, as a new .h5ad that is whole or not there."""

import errno
import shutil
from pathlib import Path

import anndata as ad
import scipy.sparse as sp

from ..errors import InputError
from ..files import new_file


def check_new_h5ad(out: Path) -> None:
    """Looks before hours of work whether `out` can be written.

    Raises:
        InputError: it exists, is no .h5ad, or its folder is missing.
    """
    if out.exists():
        raise InputError(f"{out} exists and is left as it is; choose another --out")
    if out.suffix != ".h5ad":
        raise InputError(f"{out} does not end in .h5ad, which is what is written; choose such a name")
    if not out.parent.is_dir():
        raise InputError(f"folder {out.parent} does not exist; make it first")


def write_h5ad(adata: ad.AnnData, out: Path) -> None:
    """Writes the cells.

    Raises:
        OSError: no space; nothing is left behind.
    """
    raw = [adata.raw.X] if adata.raw is not None else []
    matrices = [adata.X, *adata.layers.values(), *adata.obsm.values(), *raw]
    need = sum(m.data.nbytes + m.indices.nbytes if sp.issparse(m) else getattr(m, "nbytes", 0) for m in matrices)
    if need > shutil.disk_usage(out.parent).free:  # HDF5 reports a full disk badly, so look first
        raise OSError(errno.ENOSPC, f"No space left on device: about {need / 1e6:,.0f} MB are needed", str(out))
    with new_file(out) as temporary:
        adata.write_h5ad(temporary)
