"""The commands as a user types them: exit 0 and a result, or exit 2 and one line on standard error."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import torch
import yaml

import scfm_lib as scfm
from scfm_lib.checkpoint import FORMAT, find_checkpoint

TINY_FLAGS = ["--set", "model.n_genes=60", "--set", "data.preprocessing.min_genes=5", "--set", "training.num_epochs=2"]


@pytest.fixture
def data(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_from_counts_to_report(scfm_command, data, tmp_path) -> None:
    code, out, _ = scfm_command("prepare", data, "--out", tmp_path / "store", *TINY_FLAGS)
    assert code == 0
    assert "genes are read and predicted; tokens are the 60 most variable" in out
    run = tmp_path / "run"
    code, out, _ = scfm_command("train", "--data_path", tmp_path / "store", "--run-dir", run, "--json", *TINY_FLAGS)
    assert code == 0
    trained = json.loads(out)
    assert trained["finished"]
    code, out, _ = scfm_command("embed", run, data, "--out", tmp_path / "out.h5ad")
    assert code == 0
    before, after = ad.read_h5ad(data), ad.read_h5ad(tmp_path / "out.h5ad")
    assert after.obsm["X_scfm"].shape == (300, 64)
    assert (before.X != after.X).nnz == 0
    assert before.obs.equals(after.obs)
    assert list(after.layers) == list(before.layers)
    code, out, _ = scfm_command("evaluate", run, data, "--json", "--no-scvi", "--batch-key", "batch")
    assert code == 0
    result = json.loads(out)
    assert set(result["embeddings"]["trained"]) >= {"knn_f1", "logistic_f1", "nmi", "ari", "silhouette", "ilisi"}
    page = (run / "report" / "report.html").read_text()
    figures = re.findall(r'<img alt="(\w+)[^"]*" src="data:image/png;base64,', page)
    assert figures == ["scores", "scores", "confusion", "UMAPs", "loss"]  # the second: on held-out cells
    assert f"{result['embeddings']['trained']['knn_f1']:.3f}" in page
    code, out, _ = scfm_command("evaluate", run, data, "--no-scvi", "--out", tmp_path / "report")
    assert code == 0
    assert f"{result['embeddings']['pca']['silhouette']:.3f}" in out
    assert "trained model" in out
    brought = ["judge", tmp_path / "out.h5ad", "--obsm", "X_scfm", "--no-scvi", "--out", tmp_path / "judged"]
    code, out, _ = scfm_command(*brought, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["embeddings"]["X_scfm"]["kmeans_ari"] is not None
    assert result["report"] == str(tmp_path / "judged" / "report.html")
    code, _, err = scfm_command(*brought)
    assert (code, err.count("\n"), "judged exists" in err) == (2, 1, True)
    code, _, err = scfm_command("judge", tmp_path / "out.h5ad", "--obsm", "X_nothing", "--no-scvi")
    assert (code, err.count("\n"), "choose --obsm from: X_scfm" in err) == (2, 1, True)


def test_a_run_that_diverges_is_no_bad_input(scfm_command, data, tmp_path) -> None:
    steps = ["--set", "training.learning_rate=1e30", "--set", "training.warmup_fraction=0", "--max-steps", "4"]
    code, out, err = scfm_command("train", "--data_path", data, *TINY_FLAGS, *steps, "--run-dir", tmp_path / "run")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: the loss is nan at step 2: the learning rate was")


def test_the_guides_own_command_line_and_resume(scfm_command, data, tmp_path) -> None:
    code, out, err = scfm_command("train", "--data-path", data, "--run-dir", tmp_path / "run", *TINY_FLAGS)
    assert code == 0
    assert err.splitlines()[0].startswith("device ")  # never silently on the CPU
    checkpoint = out.strip()
    code, out, err = scfm_command("train", "--resume", checkpoint)
    assert code == 0
    code, _, err = scfm_command("train", "--resume", checkpoint, "--preset", "minimal")
    assert (code, "brings its own config" in err) == (2, True)


def test_counts_in_a_layer_that_must_be_named(scfm_command, cells, tmp_path) -> None:
    cells.layers["my counts"] = cells.X.copy()
    cells.X = np.log1p(cells.X.toarray() / 3)
    data = tmp_path / "my cells.h5ad"
    cells.write_h5ad(data)
    named = ["--layer", "my counts"]
    code, _, _ = scfm_command("train", "--data_path", data, *named, "--run-dir", tmp_path / "my run", *TINY_FLAGS)
    assert code == 0
    code, _, err = scfm_command("embed", tmp_path / "my run", data, "--out", tmp_path / "my out.h5ad", *named)
    assert code == 0
    assert "my cells: 120 of 120 genes matched" in err
    code, _, _ = scfm_command("evaluate", tmp_path / "my run", data, "--no-scvi", "--json", *named)
    assert code == 0
    code, _, err = scfm_command("embed", tmp_path / "my run", data, "--out", tmp_path / "b.h5ad", "--layer", "none")
    assert (code, "has no layer 'none'; there are layers['my counts'], X" in err) == (2, True)


def test_version(scfm_command) -> None:
    code, out, _ = scfm_command("--version")
    assert (code, json.loads(out)["torch"]) == (0, importlib.metadata.version("torch"))


def test_config_prints_a_preset_to_edit(scfm_command, tmp_path) -> None:
    code, out, _ = scfm_command("config", "LARGE")
    assert code == 0
    assert yaml.safe_load(out)["model"]["ff_dim"] == 2048
    code, _, err = scfm_command("config", "huge")
    assert code == 2
    assert err == "error: there is no preset 'huge'; choose one of minimal, default, large\n"


def bad(name: str, tmp_path, data, run) -> list:
    (tmp_path / "cut.h5ad").write_bytes(data.read_bytes()[:20_000])
    (tmp_path / "typo.yaml").write_text("training: {batch_sise: 3}")
    torch.save({"weights": torch.ones(3)}, tmp_path / "other.pt")
    torch.save({"format": "scfm-checkpoint-1"}, tmp_path / "old.pt")
    torch.save({"format": FORMAT}, tmp_path / "hollow.pt")
    out, run_dir = ["--out", tmp_path / "new.h5ad"], ["--run-dir", tmp_path / "new"]
    other = scfm.simulate(50, 40, n_types=2, depth=300)
    other.var_names = [f"OTHER{g}" for g in range(40)]
    other.write_h5ad(tmp_path / "other.h5ad")
    return {
        "missing file": (["prepare", tmp_path / "nowhere.h5ad", *out], "does not exist"),
        "not an h5ad": (["prepare", tmp_path / "typo.yaml", *out], "is not a .h5ad"),
        "truncated": (["train", "--data_path", tmp_path / "cut.h5ad", "--run-dir", tmp_path / "new"], "truncated"),
        "yaml typo": (["train", "--data_path", data, "--config", tmp_path / "typo.yaml"], "'training.batch_size'"),
        "unknown setting": (["train", "--data_path", data, "--set", "batch=3"], "unknown key 'batch'"),
        "no gene matched": (["embed", run, tmp_path / "other.h5ad", *out], "no gene matched"),
        "no label key": (["evaluate", run, data, "--label-key", "type"], "choose --label-key from: cell_type, batch"),
        "another model": (["embed", tmp_path / "other.pt", data, *out], "another model"),
        "an old checkpoint": (["embed", tmp_path / "old.pt", data, *out], "an earlier edition of scfm"),
        "init of another kind": (["train", "--init", tmp_path / "other.pt", "--data_path", data], "another model"),
        "init that does not fit": (
            ["train", "--init", run, "--data_path", data, "--preset", "minimal", "--run-dir", tmp_path / "new"],
            "gene_embedding_dim = 64, the model of --init has 8",
        ),
        "resume and init": (["train", "--init", run, "--resume", run], "leave out --preset"),
        "no such gene": (
            ["train", "--data_path", data, "--set", "data.preprocessing.must_include=[GENEX]", *run_dir, *TINY_FLAGS],
            "gene 'GENEX' is not in the data; write 'GENE",
        ),
        "no such batch": (
            ["train", "--data_path", data, "--set", "data.batch_key=donor", *run_dir, *TINY_FLAGS],
            "choose data.batch_key from: cell_type, batch",
        ),
        "reference without labels": (
            ["annotate", run, data, "--reference", data, "--label-key", "kind", *out],
            "choose --label-key from: cell_type, batch",
        ),
        "hollow checkpoint": (["embed", tmp_path / "hollow.pt", data, *out], "incomplete"),
        "not a checkpoint": (["embed", data, data, *out], "cannot be read as a checkpoint"),
        "no checkpoint": (["train", "--resume", tmp_path / "nowhere"], "there is no checkpoint"),
        "existing output": (["embed", run, data, "--out", data], "exists and is left as it is"),
        "output not h5ad": (["embed", run, data, "--out", tmp_path / "new.csv"], "does not end in .h5ad"),
        "no output folder": (
            ["embed", run, data, "--out", tmp_path / "no" / "new.h5ad"],
            "does not exist; make it first",
        ),
        "existing run": (["train", "--data_path", data, "--run-dir", run], "is not empty"),
        "nothing": (["train"], "nothing to learn from"),
        "two configs": (["train", "--data_path", data, "--preset", "large", "--config", "a.yaml"], "both given"),
        "device": (["train", "--data_path", data, "--device", "mps"], "needs a Mac"),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "missing file", "not an h5ad", "truncated", "yaml typo", "unknown setting", "no gene matched", "no label key",
        "another model", "hollow checkpoint", "not a checkpoint", "no checkpoint", "existing output",
        "no output folder", "output not h5ad", "existing run", "nothing", "two configs", "device",
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2_and_nothing_changes(name, scfm_command, data, tmp_path, trained) -> None:
    arguments, says = bad(name, tmp_path, data, trained.dir)
    before = {p: p.stat().st_mtime_ns for folder in (tmp_path, trained.dir) for p in sorted(folder.rglob("*"))}
    code, out, err = scfm_command(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith(("PCA", "device"))]
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert before == {p: p.stat().st_mtime_ns for folder in (tmp_path, trained.dir) for p in sorted(folder.rglob("*"))}


def test_python_dash_m_and_json_alone_on_standard_output(data, tmp_path) -> None:
    command = [sys.executable, "-m", "scfm_lib", "train", "--data_path", data, "--run-dir", tmp_path / "run", "--json"]
    done = subprocess.run([*command, *TINY_FLAGS], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["finished"]
    assert "Warning" not in done.stderr


def test_importing_leaves_torch_alone_until_it_is_needed() -> None:
    code = "import sys, scfm_lib; scfm_lib.load_config('minimal'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    code = "import scfm_lib.train, scfm_lib.evaluate, scfm_lib.embed, scfm_lib as s; print(callable(s.train), "
    code += "callable(s.evaluate), callable(s.embed))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


@pytest.mark.slow
def test_demo_twice_gives_the_same_numbers(tmp_path) -> None:
    results = []
    for name in ("first", "second"):
        code = "import sys; sys.modules['scvi'] = None; from scfm_lib.cli import main; main()"  # as if not installed
        command = [sys.executable, "-c", code, "demo", "--run-dir", tmp_path / name]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout))
        assert os.path.exists(results[-1].pop("report"))
        results[-1].pop("seconds")
    assert results[0] == results[1]
    table = results[0]["embeddings"]
    assert table["scvi"] is None
    # a random bag of all genes has .44 already, where random attention over tokens had .32
    for method in ("trained", "pretrained", "adapted"):
        assert table[method]["knn_f1"] > table["untrained"]["knn_f1"] + 0.15
    runs = [tmp_path / name for name in ("first", "first-adapted")]
    steps = [find_checkpoint(run).name for run in runs]
    assert steps[0] == steps[1]  # scratch and adapted are compared at equal steps
    assert np.isfinite(list(table["trained"].values())).all()


@pytest.mark.slow
def test_the_guides_command_on_pbmc3k(pbmc3k, tmp_path) -> None:
    """scfm train --data_path data/pbmc3k.h5ad, stopped by SIGTERM in the middle, then resumed to the end."""
    train = [sys.executable, "-m", "scfm_lib", "train"]
    first = [
        *train,
        "--data_path",
        pbmc3k,
        "--preset",
        "minimal",
        "--run-dir",
        tmp_path / "run",
        "--set",
        "training.num_epochs=3",
    ]
    process = subprocess.Popen(first, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step"):
            break
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert "go on with --resume" in err
    done = subprocess.run([*train, "--resume", tmp_path / "run", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["finished"]


def test_estimate_as_json_and_as_tables(scfm_command) -> None:
    code, out, err = scfm_command("estimate", "--preset", "large", "--gpu", "rtx 3080", "--cells", 100_000, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    keys = {"parameters", "memory_bytes", "seconds", "cost_usd", "max_batch_size", "levers"}
    assert keys <= found.keys()
    assert {"parameters", "gradients", "optimizer", "activations", "overhead", "total"} == found["memory_bytes"].keys()
    assert {"low", "typical", "high"} == found["seconds"].keys()
    code, out, _ = scfm_command("estimate", "--gpu", "T4", "--epochs", 3, "--genes-per-cell", 200)
    assert code == 0
    assert "3 epochs" in out
    assert "200 expressed" in out or "(given)" in out
    assert "Colab free" in out


def test_estimate_to_a_budget(scfm_command) -> None:
    code, out, _ = scfm_command("estimate", "--gpu", "RTX 3050", "--budget-vram", "1GB", "--deadline", "2h")
    assert code == 0
    assert "scfm train --preset" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "RTX 9999"], "is not in gpus.yaml; did you mean"),
        (["--budget-vram", "lots", "--gpu", "T4"], "write for example 4GB"),
        (["--cells", "many", "--gpu", "T4"], "write for example 20000 or 20k"),
        (["--deadline", "soon", "--gpu", "T4"], "write for example 2h"),
        (["--budget-vram", "4GB", "--set", "training.batch_size=8"], "leave out --config and --set"),
        (["--gpu", "T4", "--preset", "huge", "--deadline", "2h"], "config 'huge' is neither a preset"),
    ],
)
def test_wrong_estimates_are_one_line(scfm_command, arguments, message) -> None:
    code, out, err = scfm_command("estimate", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_check_prints_a_table_and_json(scfm_command) -> None:
    code, out, _ = scfm_command("check")
    assert code == 0
    for word in ("MINIMAL", "DEFAULT", "LARGE", "OMP_NUM_THREADS", "memory", "GPU"):
        assert word in out
