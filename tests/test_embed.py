import copy
import sys

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import scfm_lib as scfm
from scfm_lib.embed import embed_file, token_batches


@pytest.fixture
def query(tmp_path) -> ad.AnnData:
    cells = scfm.simulate(60, 120, n_types=3, depth=300, seed=5)
    cells.layers["twice"] = cells.X * 2
    cells.obsm["X_pca"], cells.obsm["X_scfm"] = np.ones((60, 2)), np.ones((60, 3))
    cells.uns["note"] = "mine"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return cells


def in_chunks_of(size: int, monkeypatch) -> None:
    for room in ("scfm_lib.data.read", "scfm_lib.embed"):  # the package's own `embed` is the function
        monkeypatch.setattr(sys.modules[room], "CHUNK", size)


@pytest.mark.parametrize("chunk", [16, 8192])
def test_a_file_keeps_what_it_has_and_gets_its_vectors_chunk_by_chunk(
    trained, query, tmp_path, monkeypatch, chunk
) -> None:
    in_chunks_of(chunk, monkeypatch)
    shape, match = embed_file(trained.checkpoint, tmp_path / "cells.h5ad", tmp_path / "out.h5ad")
    assert shape == (60, 8)
    assert "120 of 120 genes matched" in match
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(written.obsm["X_scfm"], scfm.embed(trained.model, query), atol=1e-5)
    np.testing.assert_array_equal(written.X.toarray(), query.X.toarray())
    np.testing.assert_array_equal(written.layers["twice"].toarray(), query.layers["twice"].toarray())
    np.testing.assert_array_equal(written.obsm["X_pca"], query.obsm["X_pca"])
    assert written.uns["note"] == "mine"
    assert written.obs.equals(ad.read_h5ad(tmp_path / "cells.h5ad").obs)


def test_vectors_can_be_written_without_the_counts(trained, query, tmp_path) -> None:
    for name, source in (("from a file", tmp_path / "cells.h5ad"), ("from memory", query)):
        embed_file(trained.checkpoint, source, tmp_path / f"{name}.h5ad", vectors_only=True)
        written = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        assert written.X is None
        assert list(written.obsm) == ["X_scfm"]
        assert written.obs_names.equals(query.obs_names)
        assert written.obs["cell_type"].astype(str).equals(query.obs["cell_type"].astype(str))
        np.testing.assert_allclose(written.obsm["X_scfm"], scfm.embed(trained.model, query), atol=1e-5)


def test_an_error_on_the_way_leaves_nothing(trained, query, tmp_path, monkeypatch) -> None:
    in_chunks_of(16, monkeypatch)
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["X/data"][-1] = -1
    with pytest.raises(scfm.InputError, match="negative values"):
        embed_file(trained.checkpoint, tmp_path / "cells.h5ad", tmp_path / "out.h5ad")
    assert [file.name for file in tmp_path.glob("*.h5ad")] == ["cells.h5ad"]
    assert not list(tmp_path.glob(".*h5ad"))


def test_cells_in_memory_and_by_columns_are_embedded_alike(trained, query, tmp_path) -> None:
    expected = scfm.embed(trained.model, query)
    query.X = sp.csc_matrix(query.X)
    del query.layers["twice"]
    query.write_h5ad(tmp_path / "by_genes.h5ad")
    for number, source in enumerate((query, tmp_path / "by_genes.h5ad")):
        embed_file(trained.checkpoint, source, tmp_path / f"{number}.h5ad")
        np.testing.assert_allclose(ad.read_h5ad(tmp_path / f"{number}.h5ad").obsm["X_scfm"], expected, atol=1e-5)


def test_batches_are_where_the_model_is(trained, query) -> None:
    """So that heads and explanations work after training on a card; torch's "meta" stands for one that is not here."""
    model = copy.deepcopy(trained.model).to("meta")
    _, genes, values = next(token_batches(model, query))
    assert {genes.device.type, values.device.type, model.encode(genes, values, 8).device.type} == {"meta"}


def test_unknown_genes_count_towards_the_library_size_and_for_nothing_else(trained) -> None:
    cells = scfm.simulate(50, 120, n_types=3, depth=300, seed=5)
    unknown = np.random.default_rng(0).poisson(2, (50, 30))
    with_many = ad.concat([cells, ad.AnnData(sp.csr_matrix(unknown), obs=cells.obs)], axis=1, merge="same")
    with_many.var_names = [*cells.var_names, *(f"UNKNOWN{number}" for number in range(30))]
    with_one = with_many[:, :121].copy()
    with_one.X = sp.csr_matrix(np.hstack([cells.X.toarray(), unknown.sum(1, keepdims=True)]))
    without, one, many = (scfm.embed(trained.model, data) for data in (cells, with_one, with_many))
    np.testing.assert_allclose(one, many, atol=1e-5)
    assert np.abs(without - many).max() > 0.01
