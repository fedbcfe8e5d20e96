"""From files to checked counts: finds the raw counts of a data set, refuses what is not counts, aligns genes.

A `Cells` is one data set on disk or in memory; its counts are read in chunks of rows, so that a file larger than the
memory can be prepared. Formats: `.h5ad` (AnnData), 10x `.h5`, and 10x folders with `matrix.mtx`.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm.auto import tqdm

from ..errors import InputError
from ..hardware.system import memory
from ..units import gb
from .genes import gene_names

CHUNK = 8192  # cells read at a time: 100 MB at 3,000 expressed genes a cell
LOOKED_AT = 2**18  # values that tell whether a matrix holds counts
BLOCK = 2**24  # values of a matrix by genes that are turned around at a time
LAYERS = ("counts", "raw_counts", "raw", "umi")  # names under which people keep counts


@dataclass
class Cells:
    """One data set: counts (cells, genes) that can be sliced by rows, and what is known of cells and genes."""

    name: str
    counts: Any  # csr_matrix, ndarray, h5py.Dataset or anndata's on-disk sparse matrix
    where: str  # where the counts were found: "X", "layers['counts']" or "raw.X"
    names: Any  # of the cells (cells,): an index, or in a file what can be sliced like one
    symbols: np.ndarray  # (genes,) "" where unknown
    ensembl: np.ndarray  # (genes,) without version, "" where unknown
    read_obs: Callable[[], pd.DataFrame]
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (len(self.names), len(self.symbols))

    @cached_property
    def obs(self) -> pd.DataFrame:
        """What is known of each cell; read when first asked for, since of ten million cells it is a gigabyte."""
        return self.read_obs()

    def held_out(self, fraction: float, seed: int) -> np.ndarray:
        """Which cells are held out of everything, as `held_out` says: (cells,) bool."""
        return np.concatenate([held_out(chunk, fraction, seed) for chunk in _chunks_of(self.names)])

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Some rows as float32 CSR.

        Raises:
            InputError: the file is damaged. Compiled code would read behind the end of an array.
        """
        try:
            rows = sp.csr_matrix(self.counts[start:stop], dtype=np.float32)
            rows.check_format(full_check=True)
        except (ValueError, IndexError, OSError) as error:
            raise InputError(_damaged(f"{self.name}: {self.where}", str(error))) from None
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return rows

    def chunks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Pairs of the first row's number and the counts (rows, genes) as checked float32 CSR.

        Raises:
            InputError: negative, fractional or NaN values, or cells without any count.
        """
        bar = tqdm(total=self.shape[0], desc=self.name, unit=" cells", delay=2, leave=False, disable=None)
        for start in range(0, self.shape[0], CHUNK):
            bar.update(start - bar.n)
            rows = self.rows(start, start + CHUNK)
            check_counts(rows, f"{self.name}: {self.where}")
            empty = np.flatnonzero(np.diff(rows.indptr) == 0)
            if len(empty):
                first = self.names[start + empty[0]]
                raise InputError(
                    f"{self.name}: {len(empty)} cells have no counts at all (the first is {first!r}); remove them with "
                    "sc.pp.filter_cells(adata, min_counts=1) and save the file again"
                )
            yield start, rows
        bar.close()


def check_counts(rows: sp.csr_matrix, where: str) -> None:
    """Counts are whole molecules: 0, 1, 2, ...

    Raises:
        InputError: NaN or infinite, negative, or fractional values, with the first offender.
    """
    values = rows.data
    if not np.isfinite(values).all():
        raise InputError(f"{where} holds NaN or infinite values; raw counts are needed, 0 where a gene was not seen")
    if (values < 0).any():
        raise InputError(
            f"{where} holds negative values (such as {values[values < 0][0]:.3g}), so it was scaled; "
            "raw counts are needed: save them as adata.layers['counts'] or name another layer with --layer"
        )
    if (values >= 2**32).any():
        raise InputError(
            f"{where} holds {values.max():.3g}, more molecules than any cell has; is it a table of counts?"
        )
    fractional = values != np.rint(values)
    if fractional.any():
        raise InputError(
            f"{where} holds fractions (such as {values[fractional][0]:.4g}), so it was normalised; "
            "raw counts are needed: save them as adata.layers['counts'] or name another layer with --layer"
        )


def open_cells(source: "str | Path | ad.AnnData | Cells", layer: str | None = None) -> Cells:
    """Opens a data set without reading its counts; one that is open already is returned as it is.

    Args:
        source: an `AnnData`, a `.h5ad`, a 10x `.h5`, or a folder with `matrix.mtx(.gz)`.
        layer: where the counts are; looked for in `layers`, `raw` and `X` when unset.

    Raises:
        InputError: missing or unreadable file, no counts found, duplicated gene or cell names, no cells.
    """
    if isinstance(source, Cells):
        return source
    if isinstance(source, ad.AnnData):
        return _from_anndata(source, "adata", layer)
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"a {type(source).__name__} is no data set; give an AnnData or a path (anndata.AnnData(table))"
        )
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path, or see `scfm train --help` for data sets by name")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is neither a file nor a folder, but a pipe or device; save the cells as .h5ad first")
    if path.is_dir():
        return _from_anndata(_read_10x(path), path.name, layer)
    if path.suffix.lower() not in {".h5ad", ".h5"}:
        raise InputError(
            f"{path} is not a .h5ad, a 10x .h5 or a folder with matrix.mtx; read it with scanpy (sc.read_csv or "
            "sc.read_text, with .T if its rows are genes) and save it with adata.write_h5ad('cells.h5ad')"
        )
    try:
        with h5py.File(path) as file:
            if "X" not in file and "matrix" in file:
                return _from_anndata(_read_10x(path), path.stem, layer)
            if "obs" not in file or "var" not in file:
                raise InputError(
                    f"{path} is HDF5 but not AnnData: it has no obs and var; write it with adata.write_h5ad"
                )
        return _from_anndata(_read_h5ad(path), path.stem, layer) if old_h5ad(path) else _from_h5ad(path, layer)
    except InputError:
        raise
    except Exception as error:  # h5py and anndata raise many kinds for a damaged file
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).split("(")[0].strip()[:100] or type(error).__name__
    return InputError(f"{path} cannot be read as .h5ad ({reason}); it may be truncated: copy or download it again")


def _read_h5ad(path: Path) -> ad.AnnData:
    """All of a file, with every sparse matrix looked at before it may be cut.

    Raises:
        InputError: it is damaged.
    """
    try:
        adata = ad.read_h5ad(path)
    except Exception as error:
        raise _unreadable(path, error) from None
    raw = {"raw.X": adata.raw.X} if adata.raw is not None else {}
    for key, matrix in {"X": adata.X, **adata.layers, **adata.obsm, **adata.obsp, **raw}.items():
        check_structure(matrix, f"{path.stem}: {key}")
    return adata


def old_h5ad(path: str | Path) -> bool:
    """Whether a file was written before anndata 0.7: its tables are no groups, and only anndata reads them."""
    with h5py.File(path) as file:
        return isinstance(file["obs"], h5py.Dataset)


def read_any(source: str | Path | ad.AnnData, layer: str | None = None) -> ad.AnnData:
    """The whole data set in memory as it is, layers and all.

    Raises:
        InputError: missing or unreadable.
    """
    if isinstance(source, ad.AnnData):
        return source
    open_cells(source, layer)  # says in one line what is wrong, if something is
    path = Path(source)
    return _read_h5ad(path) if path.suffix.lower() == ".h5ad" else _read_10x(path)


def read_adata(source: str | Path | ad.AnnData, layer: str | None = None) -> ad.AnnData:
    """A copy in memory with the counts that were found, checked, in `layers["counts"]` (cells, genes).

    Raises:
        InputError: as `open_cells` and `Cells.chunks`.
    """
    cells = open_cells(source, layer)
    counts = sp.vstack([rows for _, rows in cells.chunks()], format="csr")
    adata = read_any(source, layer)
    adata = adata.raw.to_adata() if cells.where == "raw.X" else adata.copy()
    adata.layers["counts"] = counts
    return adata


def _read_10x(path: Path) -> ad.AnnData:
    """10x output by Ensembl id, since 10x has symbols that stand for two ids."""
    import scanpy as sc

    if path.is_dir() and not any((path / name).exists() for name in ("matrix.mtx", "matrix.mtx.gz")):
        raise InputError(f"{path} is a folder without matrix.mtx(.gz); give the folder that 10x calls filtered_*")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Variable names are not unique": the reason for the ids
            if path.is_dir():
                return sc.read_10x_mtx(path, var_names="gene_ids", make_unique=False)
            adata = sc.read_10x_h5(path)
    except Exception as error:  # pandas, scipy and h5py raise many kinds
        reason = str(error)[:100]
        raise InputError(f"{path} cannot be read as 10x output ({reason}); copy the whole folder again") from None
    adata.var = adata.var.rename_axis("symbol").reset_index().set_index("gene_ids")
    return adata


def _from_anndata(adata: ad.AnnData, name: str, layer: str | None) -> Cells:
    available = {f"layers[{key!r}]": adata.layers[key] for key in adata.layers}
    if adata.raw is not None:
        available["raw.X"] = adata.raw.X
    if adata.X is not None:
        available["X"] = adata.X
    raw_var = adata.raw.var if adata.raw is not None else None
    return _choose(name, available, adata.obs_names, lambda: adata.obs, adata.var, raw_var, layer)


def _from_h5ad(path: Path, layer: str | None) -> Cells:
    file = h5py.File(path)  # stays open: the counts are read from it later
    available = {f"layers[{key!r}]": element for key, element in file.get("layers", {}).items()}
    if "raw" in file and "X" in file["raw"]:
        available["raw.X"] = file["raw/X"]
    if "X" in file:
        available["X"] = file["X"]
    for key, matrix in available.items():  # before names are read, which may be said to be billions
        shape = _count(file["obs"]), _count(file["raw/var" if key == "raw.X" else "var"])
        if _shape(matrix) != shape:
            there = " x ".join(map(str, _shape(matrix)))
            raise InputError(_damaged(f"{path.stem}: {key}", f"{there} values for {shape[0]} cells, {shape[1]} genes"))
    raw_var = ad.io.read_elem(file["raw/var"]) if "raw.X" in available else None

    def read_obs() -> pd.DataFrame:
        try:
            return ad.io.read_elem(file["obs"])
        except Exception as error:  # as many kinds as there are kinds of columns
            raise InputError(_damaged(f"{path.stem}: obs", str(error))) from None

    names = file["obs"][file["obs"].attrs["_index"]]
    names = names.asstr() if isinstance(names, h5py.Dataset) and names.dtype.kind in "OS" else read_obs().index
    return _choose(path.stem, available, names, read_obs, ad.io.read_elem(file["var"]), raw_var, layer)


def _choose(
    name: str,
    available: dict[str, Any],
    names: Any,
    read_obs: Callable[[], pd.DataFrame],
    var: pd.DataFrame,
    raw_var: pd.DataFrame | None,
    layer: str | None,
) -> Cells:
    """Picks the counts: the layer asked for, else a layer named like counts, else X, else raw, whichever is whole."""
    if not len(names):
        raise InputError(f"{name} has zero cells; check the filter that made it")
    if not len(var):
        raise InputError(f"{name} has zero genes; check the filter that made it")
    if layer:
        key = layer if layer in available else f"layers[{layer!r}]"
        if key not in available:
            raise InputError(f"{name} has no layer {layer!r}; there are {', '.join(available) or 'none'}")
        order = [key]
    else:
        order = [f"layers[{key!r}]" for key in LAYERS] + ["X", "raw.X"]
        order = [key for key in order if key in available]
    problems = []
    for key in order:
        check_structure(available[key], f"{name}: {key}")
        try:
            first = _first_values(available[key])
            if first.dtype == bool:
                raise InputError(f"{name}: {key} holds True and False; raw counts are needed")
            check_counts(sp.csr_matrix(first, dtype=np.float32), f"{name}: {key}")
        except InputError as error:
            problems.append(error)
            continue
        symbols, ensembl = gene_names(raw_var if key == "raw.X" else var, name)
        if _twice(names):
            raise InputError(f"{name} has duplicated cell names; call adata.obs_names_make_unique() and save it again")
        return Cells(name, _by_cells(available[key], f"{name}: {key}"), key, names, symbols, ensembl, read_obs)
    if problems:
        raise problems[0]
    there = ", ".join(available)
    raise InputError(
        f"{name} has no X, nor a layer named like counts; choose --layer from: {there}"
        if there
        else f"{name} holds no matrix; there must be counts in X, a layer or raw"
    )


def check_structure(matrix: Any, where: str) -> None:
    """Whether the parts of a sparse matrix fit together; in a file its indices are looked at later, by `Cells.rows`.

    Raises:
        InputError: they do not, so compiled code would read behind the end of an array.
    """
    if isinstance(matrix, h5py.Group):
        indptr, sizes = matrix["indptr"][:].astype(np.int64), {len(matrix["data"]), len(matrix["indices"])}
        whole = matrix["indices"].dtype.kind in "iu" and matrix["indptr"].dtype.kind in "iu"
        rows = _shape(matrix)[matrix.attrs.get("encoding-type") == "csc_matrix"]
        rising = len(indptr) == rows + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
        if not (whole and rising and sizes == {int(indptr[-1])}):
            raise InputError(_damaged(where, "indptr, indices and data do not fit together"))
    elif sp.issparse(matrix):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise InputError(_damaged(where, str(error))) from None


def _shape(matrix: h5py.Group | h5py.Dataset) -> tuple[int, ...]:
    return tuple(int(size) for size in (matrix.attrs["shape"] if isinstance(matrix, h5py.Group) else matrix.shape))


def _count(table: h5py.Group) -> int:
    """How many names a table of a file has, without reading them."""
    index = table[table.attrs["_index"]]
    return len(index if isinstance(index, h5py.Dataset) else index["values" if "values" in index else "codes"])


def _damaged(where: str, why: str) -> str:
    return f"{where} is damaged ({why[:100]}); copy or download the file again, or write it anew with adata.write_h5ad"


def _first_values(matrix: Any) -> np.ndarray | sp.csr_matrix:
    """Some of a matrix's values, whatever it is: those stored first, or its first rows."""
    if isinstance(matrix, h5py.Group):
        return matrix["data"][:LOOKED_AT][None]
    return matrix.data[:LOOKED_AT][None] if sp.issparse(matrix) else matrix[: max(1, LOOKED_AT // matrix.shape[1])]


def _chunks_of(names: Any) -> Iterator[pd.Index]:
    for start in range(0, len(names), CHUNK):
        yield pd.Index(names[start : start + CHUNK]).astype(str)


def _twice(names: Any) -> bool:
    """Whether two cells have one name. Hashes are compared: ten million names would take a gigabyte."""
    return len(np.unique(name_hashes(names))) < len(names)


def name_hashes(names: Any) -> np.ndarray:
    """A number of 64 bits for each cell's name, (cells,) uint64."""
    hashes = [pd.util.hash_array(chunk.to_numpy().astype(object), categorize=False) for chunk in _chunks_of(names)]
    return np.concatenate(hashes)


def _by_cells(matrix: Any, where: str) -> Any:
    """The matrix as it can be read by rows."""
    if isinstance(matrix, h5py.Group):
        by_genes = matrix.attrs.get("encoding-type") == "csc_matrix"
        return _turned(matrix, where) if by_genes else ad.io.sparse_dataset(matrix)
    return matrix.tocsr() if sp.issparse(matrix) else matrix


def _turned(matrix: h5py.Group, where: str) -> sp.csr_matrix:
    """A matrix that is stored by columns (CSC), in memory by rows, read in blocks: so it is there once, not thrice.

    Raises:
        InputError: there is too little memory for that.
    """
    stored, shape = len(matrix["data"]), tuple(matrix.attrs["shape"])
    need, free = 8 * stored, memory()["available"]
    if need > free:
        raise InputError(
            f"{where} is stored by genes (CSC); to read it by cells takes {gb(need)} of memory, {gb(free)} are free; "
            "save it by cells where there is more (adata.X = adata.X.tocsr()), or take fewer cells"
        )
    filled = np.zeros(shape[0] + 1, dtype=np.int64)
    for start in range(0, stored, BLOCK):
        filled[1:] += np.bincount(matrix["indices"][start : start + BLOCK], minlength=shape[0])
    filled = np.cumsum(filled)
    out = sp.csr_matrix((np.zeros(stored, "f4"), np.zeros(stored, "i4"), filled.copy()), shape)
    columns = matrix["indptr"][:].astype(np.int64)
    for start in range(0, stored, BLOCK):
        here = slice(start, min(start + BLOCK, stored))
        indptr = np.clip(columns, here.start, here.stop) - start
        block = sp.csc_matrix((matrix["data"][here], matrix["indices"][here], indptr), shape).tocsr()
        lengths = np.diff(block.indptr)
        places = np.arange(block.nnz) + np.repeat(filled[:-1] - block.indptr[:-1], lengths)
        out.data[places], out.indices[places] = block.data, block.indices
        filled[:-1] += lengths
    return out


def held_out(names: pd.Index, fraction: float, seed: int) -> np.ndarray:
    """Which cells are held out of everything: (cells,) bool.

    A cell is held out if the hash of its name and the seed (`data.split_seed`) falls below `fraction`, so the answer
    does not depend on the order of the cells, on other files, or on who asks: training and evaluation agree without
    passing lists around.
    """
    if fraction == 0:
        return np.zeros(len(names), dtype=bool)
    hashes = pd.util.hash_array(names.astype(str).to_numpy().astype(object), hash_key=f"{seed:016d}", categorize=False)
    return hashes < np.uint64(min(fraction, 1 - 2**-53) * 2**64)
