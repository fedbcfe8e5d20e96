"""Downloads: the real code against a server on this machine."""

import functools
import http.server
import io
import tarfile
import threading

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.data import sources as datasets
from scfm_lib.data.read import check_counts


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and its address; downloads go to another folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SCFM_DATA_DIR", str(tmp_path / "data"))
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_bundled_cells_need_no_network_and_are_counts() -> None:
    cells = datasets.bundled()
    assert cells.shape == (700, 765)
    check_counts(cells.X, "bundled")
    assert cells.obs["cell_type"].nunique() == 10
    assert np.asarray(cells.X.sum(1)).min() > 0


def test_a_url_is_downloaded_once_and_held_to_its_checksum(served, cells, capsys) -> None:
    folder, address = served
    cells.write_h5ad(folder / "mine.h5ad")
    path = scfm.find_data(f"{address}/mine.h5ad")
    assert ad.read_h5ad(path).shape == (300, 120)
    assert "no checksum was known" in capsys.readouterr().err
    (folder / "mine.h5ad").unlink()
    assert scfm.find_data(f"{address}/mine.h5ad") == path  # from the disk
    assert "no checksum" not in capsys.readouterr().err
    path.unlink()
    (folder / "mine.h5ad").write_bytes(b"something else")
    with pytest.raises(scfm.InputError, match="has changed since its checksum was recorded"):
        scfm.find_data(f"{address}/mine.h5ad")
    with pytest.raises(scfm.InputError, match="could not be downloaded"):
        scfm.find_data(f"{address}/nowhere.h5ad")


def test_two_urls_with_one_file_name_are_two_files(served, cells) -> None:
    folder, address = served
    for number in (1, 2):
        (folder / str(number)).mkdir()
        cells[: 100 * number].write_h5ad(folder / str(number) / "cells.h5ad")
    found = [scfm.find_data(f"{address}/{number}/cells.h5ad") for number in (1, 2)]
    assert [ad.read_h5ad(path).n_obs for path in found] == [100, 200]
    assert found[0] != found[1]


def test_pbmc3k_is_put_together_from_its_two_sources(served, cells, monkeypatch) -> None:
    folder, address = served
    cells.write_h5ad(folder / "raw.h5ad")
    labels = ad.AnnData(np.zeros((280, 1), "f4"), obs=pd.DataFrame({"louvain": ["B cells", "NK cells"] * 140}))
    labels.obs_names = cells.obs_names[:280]
    labels.write_h5ad(folder / "labels.h5ad")
    monkeypatch.setattr(datasets, "PBMC3K_COUNTS", f"{address}/raw.h5ad")
    monkeypatch.setattr(datasets, "PBMC3K_LABELS", f"{address}/labels.h5ad")
    made = ad.read_h5ad(scfm.find_data("pbmc3k"))
    assert made.n_obs == 280
    assert made.obs["cell_type"].tolist()[:2] == ["B cells", "NK cells"]
    assert scfm.find_data("data/pbmc3k.h5ad") == datasets.data_dir() / "pbmc3k.h5ad"  # the guide's own path


def test_zheng_is_put_together_from_ten_archives(served, monkeypatch) -> None:
    folder, address = served
    rng = np.random.default_rng(0)
    genes = "\n".join(f"ENSG{g:011d}\tGENE{g // 2 if g < 2 else g}" for g in range(30))  # the first two share a symbol
    for number, name in enumerate(datasets.ZHENG_POPULATIONS):
        matrix = io.BytesIO()
        scipy.io.mmwrite(matrix, sp.coo_matrix(rng.poisson(3, (30, 20))), field="integer")
        files = {"genes.tsv": genes.encode(), "matrix.mtx": matrix.getvalue()}
        files["barcodes.tsv"] = "\n".join(f"CELL{number}-{i}" for i in range(20)).encode()
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            for file, content in files.items():
                entry = tarfile.TarInfo(f"filtered_matrices_mex/hg19/{file}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(datasets, "ZHENG", address + "/{name}.tar.gz")
    monkeypatch.setattr(datasets, "ZHENG_CELLS_EACH", 15)
    made = ad.read_h5ad(scfm.find_data("zheng_pbmc_facs"))
    assert made.shape == (150, 30)
    assert made.obs["cell_type"].value_counts().tolist() == [15] * 10
    assert made.obs["lineage"].nunique() == 5
    assert made.var["ensembl_id"].iloc[1] == "ENSG00000000001"
    assert made.var_names[1] == "GENE0-1"


def test_a_file_that_is_found_elsewhere_is_told(monkeypatch, tmp_path, cells, capsys) -> None:
    monkeypatch.setenv("SCFM_DATA_DIR", str(tmp_path))
    cells.write_h5ad(tmp_path / "mine.h5ad")
    assert scfm.find_data("no/such/folder/mine.h5ad") == tmp_path / "mine.h5ad"
    assert capsys.readouterr().err == f"no/such/folder/mine.h5ad does not exist: {tmp_path / 'mine.h5ad'} is used\n"
    assert scfm.find_data(tmp_path / "mine.h5ad") == tmp_path / "mine.h5ad"
    assert capsys.readouterr().err == ""


def test_a_path_may_begin_at_home(monkeypatch, tmp_path, cells) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    cells.write_h5ad(tmp_path / "mine.h5ad")
    assert scfm.find_data("~/mine.h5ad") == tmp_path / "mine.h5ad"


def test_a_missing_path_says_where_it_looked(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SCFM_DATA_DIR", str(tmp_path))
    with pytest.raises(scfm.InputError, match="`--data_path pbmc3k` downloads it"):
        scfm.find_data("elsewhere/pbmc3k.h5ad")
    with pytest.raises(scfm.InputError, match="or use one of bundled, pbmc3k, zheng_pbmc_facs"):
        scfm.find_data("elsewhere/mine.h5ad")
