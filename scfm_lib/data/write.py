"""Cells with something added, as a new .h5ad that is whole or not there."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import pandas as pd
import scipy.sparse as sp

from ..errors import InputError
from ..files import new_file
from .read import old_h5ad, read_any


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
    with new_file(out) as temporary:
        _need_room(_size(adata), out)
        adata.write_h5ad(temporary)


def _size(adata: ad.AnnData) -> int:
    """Bytes of its matrices, which is nearly all."""
    raw = [adata.raw.X] if adata.raw is not None else []
    matrices = [adata.X, *adata.layers.values(), *adata.obsm.values(), *raw]
    return sum(m.data.nbytes + m.indices.nbytes if sp.issparse(m) else getattr(m, "nbytes", 0) for m in matrices)


@contextlib.contextmanager
def copied_h5ad(source: str | Path | ad.AnnData, out: Path, obs_only: bool, more: int) -> Iterator[h5py.File]:
    """A copy of the cells, open to be added to; `out` is whole when the block ends, or not there.

    A `.h5ad` is copied as a file, so that however large it is, little of it is in memory.

    Args:
        source: what to copy.
        out: where to.
        obs_only: copy nothing but obs.
        more: bytes that will be added.

    Raises:
        OSError: no space; nothing is left behind.
    """
    by_file = not isinstance(source, ad.AnnData) and Path(source).suffix.lower() == ".h5ad" and not old_h5ad(source)
    with new_file(out) as temporary:
        if by_file and obs_only:
            with h5py.File(source) as there, h5py.File(temporary, "w") as file:
                there.copy("obs", file)
                file.attrs.update(there.attrs)
                ad.io.write_elem(file, "var", pd.DataFrame(index=[]))
        elif by_file:
            _need_room(Path(source).stat().st_size + more, out)
            shutil.copyfile(source, temporary)
        else:
            adata = ad.AnnData(obs=read_any(source).obs) if obs_only else read_any(source)
            _need_room(_size(adata) + more, out)
            adata.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            file.require_group("obsm").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
            yield file


def _need_room(size: int, out: Path) -> None:
    """Looks first, since HDF5 reports a full disk badly."""
    if size > shutil.disk_usage(out.parent).free:
        raise OSError(errno.ENOSPC, f"No space left on device: about {size / 1e6:,.0f} MB are needed", str(out))
