"""The Census as a source, against a double of `cellxgene_census` that answers as its documentation says."""

import contextlib
import sys
import types

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfm_lib as scfm
from scfm_lib.census import COLUMNS, VERSION, census


class FakeCensus(types.ModuleType):
    """Simulated cells behind the three functions that are called, with the Census' names and numbered genes."""

    def __init__(self, cells: ad.AnnData):
        super().__init__("cellxgene_census")
        self.cells, self.numbers, self.open = cells, 1_000 + 7 * np.arange(len(cells)), 0
        self.filters: list[str] = []

    @contextlib.contextmanager
    def open_soma(self, *, census_version: str):
        assert census_version == VERSION
        self.open += 1
        yield self
        self.open -= 1

    def get_obs(self, opened, organism: str, *, value_filter: str, column_names: list[str]) -> pd.DataFrame:
        assert (opened, organism, column_names) == (self, "homo_sapiens", ["soma_joinid"])
        self.filters.append(value_filter)
        if "nonsense" in value_filter:
            raise ValueError("unknown column nonsense")
        numbers = self.numbers[:1] if "rare" in value_filter else self.numbers
        return pd.DataFrame({"soma_joinid": numbers[::-1]})

    def get_anndata(self, opened, organism: str, *, X_name: str, obs_coords: list[int], obs_column_names: list[str]):  # noqa: N803
        assert (opened, X_name) == (self, "raw")
        some = self.cells[np.isin(self.numbers, obs_coords)]
        obs = pd.DataFrame({name: ["x"] * len(some) for name in obs_column_names})
        obs["soma_joinid"] = sorted(obs_coords)
        obs.index = obs.index.astype(str)
        genes = [f"ENSG{number:011}" for number in range(some.n_vars)]
        var = pd.DataFrame({"feature_id": genes, "feature_name": [str(name) for name in some.var_names]})
        var.index = var.index.astype(str)
        return ad.AnnData(some.X.copy(), obs=obs, var=var)


@pytest.fixture
def fake(cells, monkeypatch) -> FakeCensus:
    package = FakeCensus(cells)
    monkeypatch.setitem(sys.modules, "cellxgene_census", package)
    return package


def test_cells_come_with_counts_names_and_where_they_are_from(fake, cells) -> None:
    adata = census("tissue == 'blood'")
    assert fake.filters == ["(tissue == 'blood') and is_primary_data == True"]
    assert fake.open == 0  # closed again
    np.testing.assert_array_equal(adata.X.toarray(), cells.X.toarray())
    assert adata.obs_names[0] == "census-1000"
    assert set(COLUMNS) <= set(adata.obs)
    assert adata.uns["census"]["found"] == adata.uns["census"]["taken"] == len(cells)
    census("is_primary_data == False")
    assert fake.filters[-1] == "is_primary_data == False"


def test_the_bound_draws_the_same_cells_again(fake) -> None:
    first, again, other = census("x", max_cells=50), census("x", max_cells=50), census("x", max_cells=50, seed=1)
    assert len(first) == first.uns["census"]["taken"] == 50
    assert first.uns["census"]["found"] == 300
    assert list(first.obs_names) == list(again.obs_names) != list(other.obs_names)
    with pytest.raises(scfm.InputError, match="max_cells = 1"):
        census("x", max_cells=1)


def test_they_can_be_prepared_and_saved(fake, tiny, tmp_path) -> None:
    adata = census("x", max_cells=200)
    adata.write_h5ad(tmp_path / "census.h5ad")
    store = scfm.prepare([tmp_path / "census.h5ad"], tiny, tmp_path / "store")
    assert all(name.startswith("ENSG") for name in store.ensembl)
    assert not any(name.startswith("ENSG") for name in store.symbols)


def test_what_goes_wrong_is_one_line(fake, monkeypatch) -> None:
    with pytest.raises(scfm.InputError, match="has 1 cells"):
        census("rare")
    with pytest.raises(scfm.InputError, match="unknown column nonsense"):
        census("nonsense == 1")
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(scfm.InputError, match="pip install cellxgene-census"):
        census("x")
