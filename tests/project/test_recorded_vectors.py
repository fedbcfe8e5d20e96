"""data/sorted_cells.h5ad, which lesson 06 judges: every method, the cells that were held out, no counts."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scfm_lib as scfm
from scfm_lib.baselines import BASELINES
from scfm_lib.data import held_out
from scfm_lib.scores.embedding import held_out_scores

RECORDED = Path(__file__).resolve().parents[2] / "data" / "sorted_cells.h5ad"
METHODS = [*(name for name in BASELINES if name != "raw"), "untrained", "start", "trained", "bag"]


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return ad.read_h5ad(RECORDED)


def test_it_is_small_and_holds_every_method(cells: ad.AnnData) -> None:
    assert RECORDED.stat().st_size < 5e6
    assert {key[2:] for key in cells.obsm if key.startswith("X_")} == set(METHODS)
    for method in METHODS:
        assert cells.obsm[f"X_{method}"].dtype == np.float16
        assert cells.obsm[f"map_{method}"].shape == (cells.n_obs, 2)
        assert np.isfinite(cells.obsm[f"X_{method}"].astype(float)).all()
    assert not cells.layers
    assert cells.n_vars < 20


def test_it_was_made_by_the_shipped_preset(cells: ad.AnnData) -> None:
    made = json.loads(cells.uns["made"])
    assert made["config"] == scfm.load_config("minimal").model_dump()
    assert made["command"] == "python benchmarks/vectors.py"


def test_held_out_cells_follow_from_the_names(cells: ad.AnnData) -> None:
    data = scfm.load_config("minimal").data
    assert np.array_equal(cells.obs["held_out"], held_out(cells.obs_names, data.validation_fraction, data.split_seed))


def test_the_recorded_pca_is_that_of_the_cells_to_learn_from(cells: ad.AnnData, zheng: Path) -> None:
    counts = scfm.read_adata(zheng)
    assert list(counts.obs_names) == list(cells.obs_names)
    learn = ~cells.obs["held_out"].to_numpy()
    made = BASELINES["pca"](counts, learn, scfm.load_config("minimal"))
    recorded = cells.obsm["X_pca"].astype(np.float32)
    assert np.allclose(np.abs(made), np.abs(recorded), atol=0.05)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    whole, half = (held_out_scores(vectors, labels, learn, ~learn) for vectors in (made, recorded))
    assert half.values["knn_f1"] == pytest.approx(whole.values["knn_f1"], abs=0.01)  # half precision changes nothing
