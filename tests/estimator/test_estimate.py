"""The estimate: its parts add up, its levers save what they say, its fits fit. How true it is, benchmarks measure."""

import json

import numpy as np
import pytest
import torch

import scfm_lib as scfm
from scfm_lib.config import parse_overrides
from scfm_lib.estimator.estimate import best_fit, disk_bytes, estimate
from scfm_lib.estimator.speed import calibrate
from scfm_lib.estimator.text import estimate_text, fit_text
from scfm_lib.estimator.workload import genes_per_cell, padded_flops, parameters, typical_store, workload
from scfm_lib.units import parse_bytes, parse_count, parse_seconds


@pytest.fixture(scope="module")
def on_a_card() -> dict:
    return estimate(scfm.load_config("large"), gpu="RTX 3080", cells=100_000)


def test_a_large_model_on_a_card(on_a_card) -> None:
    found = on_a_card
    assert found["parameters"] == sum(found["parameters_by_component"].values()) == 30_997_344
    memory = found["memory_bytes"]
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert memory["parameters"] == 4 * found["parameters"]
    assert memory["optimizer"] == 2 * memory["parameters"]  # AdamW keeps two averages
    assert found["precision"] == "bf16"
    seconds = found["seconds"]
    assert 0 < seconds["low"] < seconds["typical"] < seconds["high"]
    assert found["memory_available"] == 10 * 2**30
    assert found["fits"]
    assert json.loads(json.dumps(found))["seconds"] == seconds
    text = estimate_text(found)
    assert "30,997,344 (at 20,000 genes)" in text
    assert "RTX 3080" in text


def test_what_is_rented_has_a_price(on_a_card) -> None:
    assert on_a_card["cost_usd"] is None  # nobody in gpus.yaml rents a 3080
    t4 = estimate(scfm.load_config("minimal"), gpu="T4")
    assert t4["precision"] == "fp16"
    assert 0 < t4["cost_usd"]["low"] < t4["cost_usd"]["high"]
    free = next(row for row in t4["rented"] if row["machine"] == "Colab free")
    assert free["usd"] == [0, 0]
    assert free["fits_one_session"]


def test_levers_are_sorted_and_true(on_a_card) -> None:
    levers = on_a_card["levers"]
    assert [row["saves_bytes"] for row in levers] == sorted((row["saves_bytes"] for row in levers), reverse=True)
    names = {row["lever"] for row in levers}
    assert {"smaller batch with accumulation", "smaller model", "fewer tokens", "gradient checkpointing"} <= names
    # the saving of one lever is what the estimate says once it is pulled
    half = estimate(scfm.load_config("large", {"training.gradient_checkpointing": True}), gpu="RTX 3080", cells=100_000)
    said = next(row["saves_bytes"] for row in levers if row["lever"] == "gradient checkpointing")
    saved = on_a_card["memory_bytes"]["total"] - half["memory_bytes"]["total"]
    assert said == pytest.approx(saved, rel=0.15)


def test_the_largest_batch_fits_and_one_much_larger_does_not(on_a_card) -> None:
    size = on_a_card["max_batch_size"]
    room = 0.9 * on_a_card["memory_available"]
    at = {s: estimate(scfm.load_config("large", {"training.batch_size": s}), gpu="RTX 3080") for s in (size, size + 8)}
    assert at[size]["memory_bytes"]["total"] <= 1.02 * room
    assert at[size + 8]["memory_bytes"]["total"] > room


def test_this_machine_is_measured(zheng) -> None:
    found = estimate(scfm.load_config("minimal"), data=zheng, seconds=1.0)
    assert found["calibration"]["steps"] >= 3
    assert "CPU threads" in found["target"]
    assert found["genes"]["source"].startswith("zheng_pbmc_facs: 3,874 of 3,874 cells")
    genes = found["genes"]
    assert genes["all"] == pytest.approx(13_672, abs=10)  # as `prepare` finds on all cells
    assert genes["tokens_per_half"] < genes["mean_per_half"] < genes["mean_per_cell"]
    assert found["parameters"] == sum(parameters(scfm.load_config("minimal").model, genes["all"]).values())
    assert found["cost_usd"] is None
    assert found["cells"] <= 3874


def test_large_files_are_sampled(tmp_path) -> None:
    adata = scfm.simulate(9000, 300, depth=300, seed=0)
    adata.write_h5ad(tmp_path / "many.h5ad")
    config = scfm.load_config("minimal", {"model.n_genes": 100, "data.preprocessing.min_genes": 5})
    found = estimate(config, data=tmp_path / "many.h5ad", gpu="T4")
    assert found["genes"]["source"] == "many: 4,096 of 9,000 cells looked at"
    assert found["cells"] == pytest.approx(9000, rel=0.02)
    assert found["config"]["model"]["n_genes"] == 100


def test_symbols_that_stand_for_two_genes_do_not_stop_an_estimate(cells) -> None:
    """As in 10x output: unique Ensembl ids, some symbols twice."""
    cells.var["gene_symbols"] = [f"SYMBOL{number // 2}" for number in range(cells.n_vars)]
    cells.var_names = [f"ENSG{number:011d}" for number in range(cells.n_vars)]
    config = scfm.load_config("minimal", {"model.n_genes": 60, "data.preprocessing.min_genes": 5})
    assert estimate(config, data=cells, gpu="T4")["config"]["model"]["n_genes"] == 60


def test_a_batch_key_does_not_stop_an_estimate(cells, tiny) -> None:
    tiny.data.batch_key = "batch"
    assert estimate(tiny, data=cells, seconds=0.1)["cells"] == 300


def test_typical_cells_are_like_those_of_pbmc3k(pbmc3k, tmp_path) -> None:
    for n_genes in (1000, 2000):
        config = scfm.load_config("minimal", {"model.n_genes": n_genes})
        real = scfm.prepare([pbmc3k], config, tmp_path / str(n_genes))
        typical = typical_store(n_genes)
        there, here = (workload(config, store, 2638)[0] for store in (real, typical))
        assert here.mean_tokens == pytest.approx(there.mean_tokens, rel=0.05)
        assert here.mean_genes == pytest.approx(there.mean_genes, rel=0.05)
        assert here.flops == pytest.approx(there.flops, rel=0.15)  # of 20,000 genes, not the 13,714 of PBMC3k
        assert here.longest.tokens == pytest.approx(there.longest.tokens, rel=0.35)
        assert here.longest.expressed == pytest.approx(there.longest.expressed, rel=0.35)


def test_genes_per_cell_grow_with_the_vocabulary() -> None:
    sizes = [genes_per_cell(n) for n in (100, 1000, 1500, 2000, 5000, 13714, 20000)]
    assert sizes == sorted(sizes)
    assert genes_per_cell(2000) == pytest.approx(198)
    assert np.diff(typical_store(500, mean_genes=80).indptr).mean() == pytest.approx(80, rel=0.05)


def test_a_calibration_counts_operations_not_steps(tiny) -> None:
    store = typical_store(60, 400, cells=256)
    work, batches = workload(tiny, store, 256)
    genes = work.longest.genes
    speed = calibrate(tiny, batches, genes, torch.device("cpu"), "fp32", seconds=0.3)
    assert speed.per_flop > 0
    assert speed.spread[0] <= 1 <= speed.spread[1]
    assert work.flops == pytest.approx(sum(padded_flops(tiny.model, [b], genes) for b in batches) / len(batches))


def test_checkpoints_take_the_disk_that_is_said(cells, tmp_path) -> None:
    changes = {"model.n_genes": 60, "data.preprocessing.min_genes": 5, "training.num_epochs": 1}
    run = scfm.train(scfm.load_config("minimal", changes), cells, run_dir=tmp_path / "run", verbose=False)
    store = scfm.open_store(run.dir / "store")
    said = disk_bytes(run.config, len(store), store)
    one = said["checkpoints"] / (run.config.training.keep_checkpoints + 1)
    assert run.checkpoint.stat().st_size == pytest.approx(one, rel=0.03)
    arrays = sum(file.stat().st_size for file in (run.dir / "store").glob("*.bin"))
    assert said["store"] == pytest.approx(arrays, rel=0.05)


def test_the_best_fit_keeps_to_its_budget() -> None:
    roomy = best_fit(budget_bytes=None, deadline_seconds=None, gpu="RTX 4090")
    assert roomy["preset"] == "large"
    tight = best_fit(budget_bytes=2e9, deadline_seconds=None, gpu="RTX 4090")
    assert tight["memory_bytes"]["total"] <= 2e9
    assert any("gradient_checkpointing=true" in pair or "batch_size" in pair for pair in tight["set"])
    config = scfm.load_config(tight["preset"], parse_overrides(tight["set"]))
    assert config.training.batch_size * config.training.gradient_accumulation_steps == 32
    hurried = best_fit(budget_bytes=None, deadline_seconds=10, gpu="T4", cells=50_000)
    assert hurried["preset"] == "minimal"
    assert hurried["seconds"]["typical"] <= 11
    assert hurried["cells"] < 50_000
    assert "scfm train --preset minimal" in fit_text(hurried)


def test_in_whichever_order_presets_are_given_the_smallest_is_tried_before_cells_are_left_out() -> None:
    for presets in (("large", "minimal"), ("minimal", "large")):
        fit = best_fit(budget_bytes=None, deadline_seconds=600, gpu="T4", cells=50_000, epochs=5, presets=presets)
        assert (fit["preset"], fit["cells"]) == ("minimal", 50_000)


def test_nothing_fits_is_said() -> None:
    with pytest.raises(scfm.InputError, match="the smallest tried takes"):
        best_fit(budget_bytes=1e8, deadline_seconds=None, gpu="T4")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gpu": "RTX 9999"}, "not in gpus.yaml"),
        ({"cells": 1}, "--cells 1"),
        ({"genes_per_cell": 50_000}, "--genes-per-cell 50000"),
        ({"data": "nowhere.h5ad"}, "nowhere.h5ad"),
    ],
)
def test_wrong_input_is_one_line(kwargs, message) -> None:
    with pytest.raises(scfm.InputError, match=message):
        estimate(scfm.load_config("minimal"), **kwargs)


def test_amounts_as_people_write_them() -> None:
    assert parse_bytes("4GB") == 4e9
    assert parse_bytes("3.5 GiB") == 3.5 * 2**30
    assert parse_bytes("512mb") == 512e6
    assert parse_seconds("2h") == parse_seconds("120 min") == parse_seconds("2") == 7200
    assert parse_count("20000") == parse_count("20,000") == parse_count("20k") == 20_000
    assert parse_count("1.5M") == 1_500_000
    with pytest.raises(scfm.InputError, match=r"'many' is not an amount; write for example 20000 or 20k$"):
        parse_count("many")
    with pytest.raises(scfm.InputError, match="a bare number is in h"):
        parse_seconds("soon")
    for text in ("", "lots", "-1GB", "0GB", "4XB", "4GB extra"):
        with pytest.raises(scfm.InputError, match="write for example"):
            parse_bytes(text)


def test_a_card_is_said_to_be_estimated_and_what_sets_its_pace() -> None:
    small, large = (estimate(scfm.load_config(name), gpu="RTX 4090", cells=10_000) for name in ("minimal", "large"))
    assert small["notes"][0] == large["notes"][0] == "from published figures: never measured on a card"
    assert "the host's launch rate" in small["notes"][1]
    assert "the host's launch rate" in estimate_text(small)
    assert len(large["notes"]) == 1  # its matrices keep the card busy
    faster = estimate(scfm.load_config("minimal"), gpu="H100 SXM", cells=10_000)
    assert faster["seconds"]["typical"] == small["seconds"]["typical"]  # nor does it hang on how busy this machine is
    lever = next(row for row in small["levers"] if row["lever"] == "larger batches")
    assert lever["saves_seconds"] > 0.5 * small["seconds"]["typical"]


@pytest.mark.parametrize(("card", "works"), [("P100", False), ("V100", False), ("GTX 1080 Ti", False), ("T4", True)])
def test_a_card_without_kernels_is_said_to_be_unusable(card, works) -> None:
    told = [note for note in estimate(scfm.load_config("minimal"), gpu=card)["notes"] if note.startswith("UNUSABLE")]
    assert len(told) == (not works)
