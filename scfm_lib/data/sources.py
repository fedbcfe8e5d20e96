"""Where data sets come from: a path, a name, or a URL.

`bundled` needs no network: 700 blood cells that come with scanpy. Everything else is downloaded only when its name or
URL is given, into `SCFM_DATA_DIR` or the project's `data/`, and held to a checksum from then on.
"""

import gzip
import json
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..errors import InputError
from ..files import data_dir, new_file, write_text

PBMC3K_COUNTS = "https://falexwolf.de/data/pbmc3k_raw.h5ad"  # the address scanpy.datasets.pbmc3k uses
PBMC3K_LABELS = "https://raw.githubusercontent.com/chanzuckerberg/cellxgene/main/example-dataset/pbmc3k.h5ad"
ZHENG = "https://cf.10xgenomics.com/samples/cell-exp/1.1.0/{name}/{name}_filtered_gene_bc_matrices.tar.gz"
ZHENG_POPULATIONS = {  # 10x's name -> what the antibodies sorted (Zheng et al., Nature Communications 2017), lineage
    "b_cells": ("CD19+ B", "B cell"),
    "cd14_monocytes": ("CD14+ Monocyte", "Myeloid"),
    "cd34": ("CD34+", "CD34+"),
    "cd4_t_helper": ("CD4+ T Helper2", "T cell"),
    "regulatory_t": ("CD4+/CD25 T Reg", "T cell"),
    "naive_t": ("CD4+/CD45RA+/CD25- Naive T", "T cell"),
    "memory_t": ("CD4+/CD45RO+ Memory", "T cell"),
    "cd56_nk": ("CD56+ NK", "NK cell"),
    "cytotoxic_t": ("CD8+ Cytotoxic T", "T cell"),
    "naive_cytotoxic": ("CD8+/CD45RA+ Naive Cytotoxic", "T cell"),
}
ZHENG_CELLS_EACH = 400
NAMES = ("bundled", "pbmc3k", "zheng_pbmc_facs")


def find_data(source: str | Path | ad.AnnData) -> str | Path | ad.AnnData:
    """A path or `AnnData` that `open_cells` takes, from a path, a data set's name (`NAMES`) or a URL.

    A missing path is looked for by its file name in `data_dir()` too; if it is there, a line says so.

    Raises:
        InputError: nothing there, or a download that failed or has changed.
    """
    if isinstance(source, ad.AnnData):
        return source
    name = str(source)
    if name.startswith(("http://", "https://")):
        return download(name)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if name in NAMES:
        return bundled() if name == "bundled" else _named(name)
    if (data_dir() / path.name).exists():
        print(f"{path} does not exist: {data_dir() / path.name} is used", file=sys.stderr)
        return data_dir() / path.name
    hint = f"`--data_path {path.stem}` downloads it" if path.stem in NAMES else f"or use one of {', '.join(NAMES)}"
    raise InputError(f"{path} does not exist, nor does {path.name} in {data_dir()}; check the path, {hint}")


def bundled() -> ad.AnnData:
    """700 blood cells x 765 genes from scanpy, no network: counts (cells, genes) in X, `obs["cell_type"]` (10 types).

    scanpy keeps normalised values; the counts are restored as round(expm1(raw) * n_counts / 1e4), which leaves at most
    0.09 from a whole number.
    """
    import scanpy as sc

    stored = sc.datasets.pbmc68k_reduced()
    per_cell = stored.obs["n_counts"].to_numpy()[:, None] / 1e4
    counts = np.rint(np.expm1(stored.raw.X.toarray()) * per_cell).astype(np.float32)
    obs = pd.DataFrame({"cell_type": stored.obs["bulk_labels"].astype(str).astype("category")})
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=stored.raw.var_names))


def _named(name: str) -> Path:
    path = data_dir() / f"{name}.h5ad"
    if not path.exists():
        adata = _make_pbmc3k() if name == "pbmc3k" else _make_zheng()
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as temporary:
            adata.write_h5ad(temporary, compression="gzip")
    return path


def _make_pbmc3k() -> ad.AnnData:
    """2,638 labelled cells with their raw counts; the labels are clusters found on a PCA, so they favour PCA."""
    counts = ad.read_h5ad(download(PBMC3K_COUNTS))
    labels = ad.read_h5ad(download(PBMC3K_LABELS)).obs["louvain"]
    shared = counts.obs_names.intersection(labels.index)
    adata = counts[shared].copy()
    adata.var_names_make_unique()
    adata = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 3].copy()
    adata.obs["cell_type"] = labels[shared].astype(str).astype("category")
    return adata


def _make_zheng() -> ad.AnnData:
    """Ten populations sorted by antibody, at most 400 cells of each, drawn with seed 0."""
    import scanpy as sc

    parts = []
    for name, (cell_type, lineage) in ZHENG_POPULATIONS.items():
        file = download(ZHENG.format(name=name))
        with tempfile.TemporaryDirectory() as folder:
            try:
                with tarfile.open(file) as archive:
                    archive.extractall(folder, filter="data")
                matrix = next(Path(folder).rglob("matrix.mtx*")).parent
            except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, StopIteration) as error:
                raise InputError(f"{file} is damaged ({error}); remove it, so that it is downloaded again") from None
            part = sc.read_10x_mtx(matrix, var_names="gene_ids", make_unique=False)
        rows = np.random.default_rng(0).permutation(part.n_obs)[:ZHENG_CELLS_EACH]
        part = part[np.sort(rows)].copy()
        part.obs_names = part.obs_names + f"-{name}"
        part.obs["cell_type"], part.obs["lineage"] = cell_type, lineage
        parts.append(part)
    adata = ad.concat(parts, merge="same")
    adata.var["ensembl_id"] = adata.var_names.to_numpy()
    adata.var_names = adata.var["gene_symbols"].astype(str).to_numpy()
    adata.var_names_make_unique()
    adata.obs = adata.obs.astype("category")
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 3].copy()


def download(url: str) -> Path:
    """The file behind a URL, downloaded once into `data_dir()` under a name with a hash of the URL, with progress.

    Its SHA-256 is recorded in `checksums.json` at the first download, said so, and held from then on.

    Raises:
        InputError: no answer, or other content than the first time.
    """
    import pooch

    folder = data_dir()
    record = folder / "checksums.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    logger = pooch.get_logger()
    logger.setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(pooch.retrieve(url, known_hash=known.get(url), path=folder, progressbar=True))
    except ValueError:
        raise InputError(
            f"{url} has changed since its checksum was recorded in {record}; if that is right, remove its line there"
        ) from None
    except Exception as error:  # requests and urllib raise many kinds
        raise InputError(
            f"{url} could not be downloaded ({type(error).__name__}); check the network, or get the file "
            "another way and give its path"
        ) from None
    if url not in known:
        known[url] = "sha256:" + pooch.file_hash(str(path))
        write_text(record, json.dumps(known, indent=1))
        print(
            f"{path.name}: no checksum was known; {known[url][:19]}... is recorded and held from now on",
            file=sys.stderr,
        )
    return path
