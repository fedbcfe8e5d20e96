"""A shared model is the run's to the bit, says what it was made from, and comes whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml

import scfm_lib as scfm
from scfm_lib.reporting.hub import save_pretrained


@pytest.fixture
def shared(trained, tmp_path) -> Path:
    return save_pretrained(trained, tmp_path / "shared")


def test_vectors_are_equal_to_the_bit(trained, shared, cells) -> None:
    expected = scfm.embed(trained.model, cells)
    for model in (scfm.load_model(shared), scfm.load_model(str(shared))):
        assert not model.training
        np.testing.assert_array_equal(scfm.embed(model, cells), expected)
    assert sorted(path.name for path in shared.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocabulary.json",
    ]


def test_half_precision_halves_the_weights_and_hardly_moves_a_vector(trained, shared, cells, tmp_path) -> None:
    half = save_pretrained(trained, tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, shared)]
    assert sizes[0] < 0.6 * sizes[1]
    model = scfm.load_model(half)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
    expected = scfm.embed(trained.model, cells)
    np.testing.assert_allclose(scfm.embed(model, cells), expected, atol=0.01 * expected.std())


def test_run_folder_and_checkpoint_give_the_same_files(trained, shared, tmp_path) -> None:
    for number, source in enumerate((trained.dir, str(trained.checkpoint))):
        again = save_pretrained(source, tmp_path / str(number) / "shared")
        for path in shared.iterdir():
            assert path.read_bytes() == (again / path.name).read_bytes()


def test_the_command_embeds_with_it(shared, trained, cells, tmp_path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command = [sys.executable, "-m", "scfm_lib", "embed", str(shared), str(tmp_path / "cells.h5ad")]
    subprocess.run([*command, "--out", str(tmp_path / "out.h5ad"), "--device", "cpu"], check=True)
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(out.obsm["X_scfm"], scfm.embed(trained.model, cells), atol=1e-5)


def test_the_card_is_written_from_the_run(trained, shared) -> None:
    text = (shared / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "scfm-workbook"
    assert front["license"] == "unknown"
    store = scfm.open_store(trained.dir / "store")
    held_out = int(store.held_out.sum())
    assert f"{len(store) - held_out:,} cells were learned from" in text
    assert re.search(rf"\b{held_out:,} cells, .*held out", text)
    last = [row["validation_loss"] for row in trained.history if "validation_loss" in row][-1]
    assert f"held-out cells: {last:.3f} nats" in text
    assert f"{trained.step:,} steps of 32 cells, seed 0" in text
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert written == trained.config.model_dump()
    assert "torch " in text
    assert str(trained.dir.parent) not in text  # no paths of the machine it was made on


def test_what_a_shared_model_cannot_do_is_said(shared, cells) -> None:
    for attempt in (lambda: scfm.evaluate(shared, cells), lambda: scfm.train(resume=shared, verbose=False)):
        with pytest.raises(scfm.InputError, match="is a shared model, which can embed"):
            attempt()


def test_a_card_without_store_or_metrics_says_so(trained, tmp_path) -> None:
    lonely = tmp_path / "lonely" / "model.pt"
    lonely.parent.mkdir()
    lonely.write_bytes(trained.checkpoint.read_bytes())
    text = (
        save_pretrained(lonely, tmp_path / "shared", about="blood of nobody", license="mit") / "README.md"
    ).read_text(encoding="utf-8")
    assert "prepared data were not there" in text
    assert "## Data\n\nblood of nobody\n\n" in text
    assert yaml.safe_load(text.split("---")[1])["license"] == "mit"
    assert text.count("not recorded") == 2


def test_scores_stand_on_the_card_if_they_are_of_this_step(trained, tmp_path) -> None:
    shutil.copytree(trained.dir, tmp_path / "run")
    cells = scfm.simulate(600, 120, n_types=3, n_batches=2, depth=300, seed=1)
    result = scfm.evaluate(tmp_path / "run", cells, scvi=False)
    scfm.write_report(result, tmp_path / "run", tmp_path / "run" / "report")
    card = (save_pretrained(tmp_path / "run", tmp_path / "judged") / "README.md").read_text()
    held_out = f"{result['cells']['held_out']:,} cells held out of everything"
    assert f"Judged on 600 cells: {held_out}. The trained model is" in card
    for method in ("pca", "untrained", "trained"):
        assert f"{result['held_out'][method]['knn_f1']:.3f}" in card
    scores = tmp_path / "run" / "report" / "scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"step": trained.step - 1}))
    card = (save_pretrained(tmp_path / "run", tmp_path / "other") / "README.md").read_text()
    assert "It was not judged" in card


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json"])
def test_a_missing_or_broken_file_is_one_line(shared, name) -> None:
    path = shared / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(scfm.InputError, match=f"{name} cannot be read"):
        scfm.load_model(shared)
    path.unlink()
    with pytest.raises(scfm.InputError, match=f"has no {name}"):
        scfm.load_model(shared)


def test_files_that_do_not_belong_together_are_refused(shared) -> None:
    names = json.loads((shared / "vocabulary.json").read_text())
    (shared / "vocabulary.json").write_text(json.dumps({key: value[:-1] for key, value in names.items()}))
    with pytest.raises(scfm.InputError, match="not the file that was written with this model"):
        scfm.load_model(shared)
    told = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({key: told[key] for key in told if key != "sha256"}))
    with pytest.raises(scfm.InputError, match="does not name the model's 120 genes"):
        scfm.load_model(shared)
    (shared / "vocabulary.json").write_text(json.dumps(names))
    told = json.loads((shared / "config.json").read_text())
    told["config"]["model"]["hidden_dim"] = 32
    (shared / "config.json").write_text(json.dumps(told))
    with pytest.raises(scfm.InputError, match="other dimensions"):
        scfm.load_model(shared)
    (shared / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(scfm.InputError, match="another kind"):
        scfm.load_model(shared)


def test_an_existing_folder_is_left_as_it_is(trained, shared) -> None:
    before = {path.name: path.read_bytes() for path in shared.iterdir()}
    with pytest.raises(scfm.InputError, match="exists and is left"):
        save_pretrained(trained, shared)
    assert before == {path.name: path.read_bytes() for path in shared.iterdir()}
    with pytest.raises(scfm.InputError, match="no checkpoint"):
        save_pretrained(shared.parent / "nothing", shared.parent / "new")


def test_nothing_half_written_is_left(trained, tmp_path, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(trained, tmp_path / "shared")
    assert not [path for path in tmp_path.iterdir() if "shared" in path.name]
