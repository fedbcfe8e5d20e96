"""Reading: the counts are found wherever people keep them, and whatever is not counts is refused in one line."""

import gc

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.io
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.data.genes import match_genes, match_report
from scfm_lib.data.read import held_out, open_cells, read_adata
from scfm_lib.embed import embed_file
from scfm_lib.estimator.workload import cells_like


def dense(cells) -> np.ndarray:
    return np.vstack([rows.toarray() for _, rows in cells.chunks()])


@pytest.mark.parametrize("matrix", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("place", ["X", "layer", "raw"])
def test_counts_are_found_and_read_the_same_from_disk_and_memory(cells, tmp_path, matrix, place) -> None:
    counts = cells.X.toarray()
    adata = ad.AnnData(matrix(counts), obs=cells.obs, var=cells.var)
    if place != "X":
        if place == "layer":
            adata.layers["counts"] = adata.X.copy()
        else:
            adata.raw = adata.copy()
        adata.X = np.log1p(counts / 7)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    where = {"X": "X", "layer": "layers['counts']", "raw": "raw.X"}[place]
    for source in (adata, tmp_path / "cells.h5ad"):
        opened = open_cells(source)
        assert opened.where == where
        np.testing.assert_array_equal(dense(opened), counts)


def test_raw_may_hold_more_genes_than_x(cells, tmp_path) -> None:
    full = cells.copy()
    cells.raw = full
    few = cells[:, :20].copy()
    few.X = np.log1p(few.X.toarray() / 3)
    few.write_h5ad(tmp_path / "cells.h5ad")
    opened = open_cells(tmp_path / "cells.h5ad")
    assert opened.where == "raw.X"
    assert opened.shape == (300, 120)
    assert read_adata(tmp_path / "cells.h5ad").layers["counts"].shape == (300, 120)


def test_10x_folder_and_h5_give_the_same_counts(cells, tmp_path) -> None:
    counts = cells.X.T.tocsc().astype(int)
    ids = [f"ENSG{g:011d}" for g in range(120)]
    names = [f"GENE{g}" for g in range(119)] + ["GENE0"]  # 10x has such twins: two ids, one symbol
    folder = tmp_path / "filtered_gene_bc_matrices"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", counts)
    pd.DataFrame({"id": ids, "name": names}).to_csv(folder / "genes.tsv", sep="\t", header=False, index=False)
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names))
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(cells.obs_names, dtype="S")
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = counts.shape
        for key, value in {
            "id": ids,
            "name": names,
            "feature_type": ["Gene Expression"] * 120,
            "genome": ["hg"] * 120,
        }.items():
            matrix[f"features/{key}"] = np.array(value, dtype="S")
    for path in (folder, tmp_path / "cells.h5"):
        opened = open_cells(path)
        np.testing.assert_array_equal(dense(opened), cells.X.toarray())
        assert opened.ensembl[5] == ids[5]
        assert opened.symbols[119] == "GENE0"


def spoil(adata: ad.AnnData, how: str) -> ad.AnnData:
    counts = adata.X.toarray()
    if how == "negative":
        counts[299, 3] = -2
    elif how == "fractional":
        counts[299, 3] = 1.5
    elif how == "nan":
        counts[299, 3] = np.nan
    elif how == "empty cell":
        counts[7] = 0
    elif how == "normalised":
        counts = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    adata.X = sp.csr_matrix(counts)
    if how == "zero cells":
        adata = adata[:0].copy()
    elif how == "duplicated genes":
        adata.var_names = ["TWIN", "TWIN", *adata.var_names[2:]]
    elif how == "duplicated cells":
        adata.obs_names = ["TWIN", "TWIN", *adata.obs_names[2:]]
    return adata


@pytest.mark.filterwarnings("ignore:Variable names are not unique", "ignore:Observation names are not unique")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("negative", "holds negative values (such as -2)"),
        ("fractional", "holds fractions (such as 1.5)"),
        ("nan", "holds NaN or infinite values"),
        ("normalised", "so it was normalised; raw counts are needed"),
        ("empty cell", "1 cells have no counts at all (the first is 'cell7'); remove them with sc.pp.filter_cells"),
        ("zero cells", "has zero cells"),
        ("duplicated genes", "has duplicated gene names ('TWIN' for one)"),
        ("duplicated cells", "has duplicated cell names"),
    ],
)
@pytest.mark.parametrize("from_disk", [True, False])
def test_what_is_not_counts_is_refused(cells, tmp_path, how, says, from_disk, tiny) -> None:
    source = spoil(cells, how)
    if from_disk:
        source.write_h5ad(tmp_path / "bad.h5ad")
        source = tmp_path / "bad.h5ad"
    with pytest.raises(scfm.InputError) as caught:
        scfm.prepare([source], tiny, tmp_path / "store")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == (["bad.h5ad"] if from_disk else [])


def test_files_that_are_not_data(cells, tmp_path) -> None:
    cells.write_h5ad(tmp_path / "whole.h5ad")
    whole = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5ad").write_text("not HDF5")
    (tmp_path / "cells.csv").write_text("a,b")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["something"] = [1]
    for name, says in {
        "nowhere.h5ad": "does not exist",
        "cut.h5ad": "may be truncated",
        "text.h5ad": "cannot be read as .h5ad",
        "other.h5ad": "HDF5 but not AnnData",
        "cells.csv": "not a .h5ad, a 10x .h5 or a folder",
        "folder": "a folder without matrix.mtx",
    }.items():
        with pytest.raises(scfm.InputError, match=says):
            open_cells(tmp_path / name)


def test_a_layer_asked_for_by_name(cells) -> None:
    cells.layers["mine"] = cells.X.copy()
    assert open_cells(cells, "mine").where == "layers['mine']"
    with pytest.raises(scfm.InputError, match=r"no layer 'yours'; there are layers\['mine'\], X"):
        open_cells(cells, "yours")


def test_genes_match_by_symbol_or_ensembl_id_whatever_the_version() -> None:
    def adata(names, **columns) -> ad.AnnData:
        return ad.AnnData(sp.csr_matrix(np.ones((2, len(names)), "f4")), var=pd.DataFrame(columns, index=names))

    here = open_cells(adata(["CD3E", "CD4", "GNLY"], gene_ids=["ENSG1.2", "ENSG2.1", "ENSG3"]))
    by_id = open_cells(adata(["ENSG3.9", "ENSG1", "ENSG9"]))
    by_symbol = open_cells(adata(["GNLY", "MS4A1", "CD3E", "Cd4"]))
    assert match_genes(here.symbols, here.ensembl, by_id).tolist() == [1, -1, 0]
    assert match_genes(here.symbols, here.ensembl, by_symbol).tolist() == [2, -1, 0]
    report = match_report(match_genes(here.symbols, here.ensembl, by_symbol), here.symbols, "b", 4)
    assert report == "b: 2 of 3 genes matched, 1 not (for example CD4)"
    with pytest.raises(scfm.InputError, match="no gene matched"):
        match_report(np.array([-1, -1, -1]), here.symbols, "b", 4)
    symbols, columns = np.arange(1000).astype(str), np.full(1000, -1)
    columns[:40] = range(40)
    assert match_report(columns, symbols, "a panel", 50).startswith("a panel: 40 of 1,000 genes matched")
    with pytest.raises(scfm.InputError, match="40 of 1,000 genes matched: too few"):
        match_report(columns, symbols, "other names", 500)


def test_held_out_cells_depend_on_name_and_seed_alone() -> None:
    names = pd.Index([f"cell{i}" for i in range(5000)])
    first = held_out(names, 0.2, 0)
    assert abs(first.mean() - 0.2) < 0.02
    np.testing.assert_array_equal(held_out(names[::-1], 0.2, 0), first[::-1])
    assert (held_out(names, 0.2, 1) != first).mean() > 0.2
    assert (first <= held_out(names, 0.5, 0)).all()
    assert not held_out(names, 0, 0).any()


def test_numbered_genes_are_named_by_a_column_or_refused(cells) -> None:
    cells.var["gene_symbols"] = cells.var_names.to_numpy()
    cells.var_names = [str(number) for number in range(120)]
    assert open_cells(cells).symbols[3] == "GENE3"
    del cells.var["gene_symbols"]
    with pytest.raises(scfm.InputError, match="genes are only numbered; set"):
        open_cells(cells)


def test_a_table_with_cells_in_its_columns_is_refused(cells) -> None:
    barcodes = ["".join(np.random.default_rng(i).choice(list("ACGT"), 16)) + "-1" for i in range(cells.n_vars)]
    cells.var_names = barcodes
    with pytest.raises(scfm.InputError, match=r"look like cell barcodes.*adata\.T"):
        scfm.open_cells(cells)


def test_counts_beyond_what_a_store_can_hold_are_refused(cells) -> None:
    cells.X[0, 0] = 2.0**33
    with pytest.raises(scfm.InputError, match="more molecules than"):
        scfm.open_cells(cells)


def test_yes_and_no_are_not_counts(cells) -> None:
    cells.X = cells.X > 0
    with pytest.raises(scfm.InputError, match="True and False"):
        scfm.open_cells(cells)


@pytest.mark.parametrize("source", [None, 3, pd.DataFrame({"a": [1]})])
def test_what_is_no_data_set_is_refused_by_its_type(source) -> None:
    with pytest.raises(scfm.InputError, match="AnnData or a path"):
        scfm.open_cells(source)


def test_counts_by_genes_are_turned_around_in_blocks(cells, tmp_path, monkeypatch) -> None:
    cells.layers["counts"] = sp.csc_matrix(cells.X)
    cells.layers["other"] = sp.csc_matrix(cells.X * 0.5)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scfm_lib.data.read.BLOCK", 1000)  # some cut a gene in two
    opened = open_cells(tmp_path / "cells.h5ad")
    assert opened.where == "layers['counts']"
    assert opened.counts.has_sorted_indices
    np.testing.assert_array_equal(dense(opened), cells.X.toarray())


def test_counts_by_genes_that_need_more_memory_than_there_is(cells, tmp_path, monkeypatch) -> None:
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scfm_lib.data.read.memory", lambda: {"available": 1000})
    with pytest.raises(scfm.InputError, match=r"cells: X is stored by genes \(CSC\); .* are free; save it by cells"):
        open_cells(tmp_path / "cells.h5ad")


def test_names_are_read_without_the_rest_of_obs(cells, tmp_path) -> None:
    cells.obs["note"] = [f"a long story about cell {number}" for number in range(300)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    opened = open_cells(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(opened.held_out(0.2, 0), held_out(cells.obs_names, 0.2, 0))
    assert "obs" not in vars(opened)
    assert opened.obs["note"].tolist() == cells.obs["note"].tolist()


def test_no_file_stays_open(trained, cells, tiny, tmp_path) -> None:
    """On Windows an open file can be neither moved nor deleted. What holds it must be gone without a collection."""
    file, out = tmp_path / "cells.h5ad", iter(range(100))
    cells.write_h5ad(file)
    uses = [
        lambda: scfm.read_adata(file),
        lambda: scfm.prepare(file, tiny, tmp_path / f"store{next(out)}"),
        lambda: scfm.embed(trained.model, file),
        lambda: embed_file(trained.checkpoint, file, tmp_path / f"out{next(out)}.h5ad"),
        lambda: cells_like(tiny, None, file, None),
    ]
    for use in uses:
        use()  # imports and compilation leave their frames to the collector
        gc.collect()
        gc.disable()
        try:
            use()
            assert str(file) not in [there.path for there in psutil.Process().open_files()]
        finally:
            gc.enable()
