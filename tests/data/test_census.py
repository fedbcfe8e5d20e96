"""The Census as a source: the real package on a small local copy; nothing is sent."""

import sys
from pathlib import Path

import numpy as np
import pytest

import scfm_lib as scfm
from exercises.local_census import write_census
from scfm_lib.data.census import COLUMNS, VERSION, census

pytest.importorskip("cellxgene_census", reason="cellxgene_census is not installed (pip install '.[test]')")
BLOOD = "tissue_general == 'blood'"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = scfm.simulate(300, 120, n_types=3, n_batches=2, depth=300, seed=1)
    return write_census(cells, tmp_path_factory.mktemp("local") / "census")


def test_cells_come_with_counts_names_and_where_they_are_from(local, cells) -> None:
    adata = census(BLOOD, uri=local)
    primary = np.flatnonzero(np.arange(300) % 3 < 2)  # the others stand for copies
    np.testing.assert_array_equal(adata.X.toarray(), cells.X[primary].toarray())
    assert list(adata.obs_names[:3]) == ["census-0", "census-1", "census-3"]
    assert list(adata.obs["cell_type"]) == list(cells.obs["cell_type"].astype(str).iloc[primary])
    assert set(COLUMNS) <= set(adata.obs)
    told = adata.uns["census"]
    assert told["found"] == told["taken"] == 200
    assert told["filter"] == f"({BLOOD}) and is_primary_data == True"
    assert told["version"] == "local copy"


def test_the_filter_is_the_census_own(local) -> None:
    v3 = census('assay == "10x 3\' v3"', uri=local)
    assert set(v3.obs["assay"]) == {"10x 3' v3"}
    assert len(v3) == 100
    assert len(census("is_primary_data == False", uri=local)) == 100
    assert len(census("", uri=local)) == 200


def test_the_bound_draws_the_same_cells_again(local) -> None:
    first, again, other = (census(BLOOD, max_cells=50, seed=seed, uri=local) for seed in (0, 0, 1))
    assert len(first) == first.uns["census"]["taken"] == 50
    assert first.uns["census"]["found"] == 200
    assert list(first.obs_names) == list(again.obs_names) != list(other.obs_names)
    with pytest.raises(scfm.InputError, match="max_cells = 1"):
        census(BLOOD, max_cells=1, uri=local)


def test_they_can_be_prepared_and_saved(local, tiny, tmp_path) -> None:
    census(BLOOD, max_cells=150, uri=local).write_h5ad(tmp_path / "census.h5ad")
    store = scfm.prepare([tmp_path / "census.h5ad"], tiny, tmp_path / "store")
    assert all(name.startswith("ENSG") for name in store.ensembl)
    assert not any(name.startswith("ENSG") for name in store.symbols)


def test_what_goes_wrong_is_one_line(local, tmp_path, monkeypatch) -> None:
    with pytest.raises(scfm.InputError, match="has 0 cells of homo_sapiens"):
        census("tissue == 'brain'", uri=local)
    with pytest.raises(scfm.InputError, match=r"did not give cells for .nonsense == 1.*check filter and network"):
        census("nonsense == 1", uri=local)
    with pytest.raises(scfm.InputError, match="did not give cells"):
        census(BLOOD, organism="mus_musculus", uri=local)
    with pytest.raises(scfm.InputError, match="did not give cells"):
        census(BLOOD, uri=tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(scfm.InputError, match="pip install cellxgene-census"):
        census(BLOOD)


def test_without_a_uri_a_fixed_version_is_asked_for(monkeypatch) -> None:
    import cellxgene_census

    asked = {}

    def no_network(**options: str) -> None:
        asked.update(options)
        raise OSError("no route to host")

    monkeypatch.setattr(cellxgene_census, "open_soma", no_network)
    with pytest.raises(scfm.InputError, match=r"OSError: no route to host\); check filter and network"):
        census(BLOOD)
    assert asked == {"census_version": VERSION}
