"""Who was learned from is known by counts and names, whatever the cells are called later."""

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scfm_lib as scfm
from scfm_lib.checkpoint import trained_on
from scfm_lib.data.seen import seen_cells, split_cells
from scfm_lib.data.store import open_store
from scfm_lib.reporting.hub import save_pretrained
from scfm_lib.reporting.report import result_text, write_report


@pytest.fixture
def judged(trained) -> ad.AnnData:
    """The cells that `trained` learned from, four fifths, and held out, one fifth."""
    return ad.read_h5ad(trained.dir.parent / "cells.h5ad")


def others(cells: int, seed: int) -> ad.AnnData:
    """Cells with the same genes that nobody learned from, and with names of their own."""
    adata = scfm.simulate(cells, 120, n_types=3, depth=300, seed=seed)
    adata.obs_names = [f"other {seed} {number}" for number in range(cells)]
    return adata


def learned(run_dir: Path, cells: ad.AnnData) -> np.ndarray:
    """The truth: which of these cells the run's store gives to training, by their order; every cell is kept."""
    store = open_store(run_dir / "store")
    assert len(store) == cells.n_obs
    return ~store.held_out


def test_renamed_cells_do_not_leak_into_the_held_out_table(trained, judged) -> None:
    truth = learned(trained.dir, judged)
    judged.obs_names = [f"{name}-1" for name in judged.obs_names]
    more = others(200, 2)
    joined = ad.concat([judged, more], label="run", index_unique="-")
    result = scfm.evaluate(trained.checkpoint, joined, scvi=False)
    assert result["cells"]["held_out"] == 800 - truth.sum()
    assert not result["unseen"][:600][truth].any()  # none that was learned from
    assert result["unseen"][600:].all()
    assert f"learned from {truth.sum()} of these 800 cells. The baselines are fitted on" in result["learned_from"]


def test_genes_may_be_missing_as_well(trained, judged) -> None:
    truth = learned(trained.dir, judged)
    judged.obs_names = [f"cell {number}" for number in range(600)]
    seen = seen_cells([trained.dir / "store"], counted(judged[:, np.arange(120) % 6 > 0].copy()))
    np.testing.assert_array_equal(seen.by_counts, truth)
    assert not seen.by_names.any()


def counted(adata: ad.AnnData) -> ad.AnnData:
    adata.layers["counts"] = adata.X
    return adata


def test_a_cell_with_other_counts_is_known_by_its_name(trained, judged) -> None:
    truth = learned(trained.dir, judged)
    judged.X.data += 1  # as after a correction for ambient RNA
    seen = seen_cells([trained.dir / "store"], counted(judged))
    assert not seen.by_counts.any()
    np.testing.assert_array_equal(seen.by_names, truth)
    fit, unseen, _, told = split_cells(trained_on(trained.checkpoint), judged, trained.config.data)
    np.testing.assert_array_equal(unseen, ~truth)
    np.testing.assert_array_equal(fit, truth)
    assert f"learned from {truth.sum()} of these 600 cells (0 by their counts" in told


def test_baselines_are_fitted_on_the_cells_that_the_model_learned_from(tiny, tmp_path, judged) -> None:
    tiny.data.n_obs = 200
    sources = [judged[:400].copy(), judged[400:].copy()]
    run = scfm.train(tiny, sources, run_dir=tmp_path / "run", max_steps=1, verbose=False)
    store = open_store(run.dir / "store")
    assert len(store) == 200
    fit, unseen, seen, _ = split_cells(trained_on(run.dir), counted(judged), run.config.data)
    assert seen == fit.sum() == (~store.held_out).sum()
    np.testing.assert_array_equal(unseen, ~fit)  # whatever n_obs left out is unseen too
    first = judged[:400].copy()  # one of the two sources
    part, _, _, told = split_cells(trained_on(run.dir), first, run.config.data)
    np.testing.assert_array_equal(part, fit[:400])
    assert f"and from {fit.sum() - part.sum()} others" in told


def test_without_its_store_a_model_gets_no_held_out_table(trained, judged, tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    alone = shutil.copy(trained.checkpoint, tmp_path / "checkpoints")
    result = scfm.evaluate(alone, judged, scvi=False)
    assert not any(result["held_out"].values())
    assert result["cells"]["seen"] is None
    assert "cannot be known, so none counts as held out" in result["learned_from"]
    assert str(tmp_path) in result["learned_from"]
    assert result["learned_from"] in result_text(result)
    assert "cannot be known" in write_report(result, alone, tmp_path / "report").read_text()


def test_what_a_model_began_from_was_seen_too(trained, tiny, tmp_path, judged) -> None:
    other = others(300, 3)
    adapted = scfm.train(tiny, other, init=trained.dir, run_dir=tmp_path / "adapted", max_steps=1, verbose=False)
    _, unseen, _, _ = split_cells(trained_on(adapted.dir), counted(judged), tiny.data)
    np.testing.assert_array_equal(unseen, ~learned(trained.dir, judged))
    twice = scfm.train(tiny, judged, init=trained.dir, run_dir=tmp_path / "twice", max_steps=1, verbose=False)
    _, unseen_twice, seen, told = split_cells(trained_on(twice.dir), judged, tiny.data)
    np.testing.assert_array_equal(unseen_twice, unseen)
    assert told.startswith(f"The model learned from {seen} of these 600 cells. ")  # and from no others
    again = scfm.train(resume=adapted.dir, max_steps=2, verbose=False)
    np.testing.assert_array_equal(split_cells(trained_on(again.dir), judged, tiny.data)[1], unseen)
    shared = save_pretrained(trained, tmp_path / "shared")
    of_unknown = scfm.train(tiny, other, init=shared, run_dir=tmp_path / "of shared", max_steps=1, verbose=False)
    _, unseen, seen, told = split_cells(trained_on(of_unknown.dir), judged, tiny.data)
    assert (unseen.sum(), seen) == (0, None)
    assert str(shared) in told


def test_cells_that_no_training_saw(trained) -> None:
    new = others(300, 4)
    result = scfm.evaluate(trained.dir, new, scvi=False)
    assert "learned from 0 of these 300 cells" in result["learned_from"]
    assert f"fitted on {300 - result['unseen'].sum()} of the 300" in result["learned_from"]
    assert result["held_out"]["trained"]["knn_f1"] > 0


def test_few_expressed_genes_say_nothing(trained, judged) -> None:
    few = judged[:, :15].copy()
    few.obs_names = [f"cell {number}" for number in range(600)]
    few = counted(few[np.asarray(few.X.sum(1)).ravel() > 0].copy())
    assert not seen_cells([trained.dir / "store"], few).either.any()


def test_no_two_of_the_cells_are_equal(judged) -> None:
    assert len(np.unique(judged.X.toarray(), axis=0)) == 600  # else the others would expect too little
