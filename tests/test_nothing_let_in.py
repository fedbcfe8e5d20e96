"""Nothing from outside is run, nothing leaves its folder, nothing is sent unasked, no name becomes markup."""

import ast
import html
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scfm_lib as scfm
from scfm_lib.data import sources
from scfm_lib.reporting.report import write_report

ROOT = Path(__file__).parents[1]
OURS = [*(ROOT / "scfm_lib").rglob("*.py"), *(ROOT / "notebooks").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file by its dotted name; of a py:percent notebook without its shell lines, which are comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call: ast.Call, name: str) -> object:
    found = [word.value for word in call.keywords if word.arg == name]
    return ast.literal_eval(found[0]) if found and isinstance(found[0], ast.Constant) else None


def test_no_call_runs_what_it_reads() -> None:
    assert len(OURS) > 80
    for path in OURS:
        for name, call in calls(path):
            where = f"{path.relative_to(ROOT)}:{call.lineno} {name}"
            last = name.rsplit(".", 1)[-1]
            assert name not in {"eval", "exec", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "os.system"}, where
            assert not name.startswith(("pickle.", "marshal.", "shelve.", "joblib.load")), where
            assert keyword(call, "shell") is not True, where
            assert keyword(call, "allow_pickle") is not True, where
            if name == "torch.load":
                assert keyword(call, "weights_only") is True, where
            if last in {"extractall", "extract"}:
                assert keyword(call, "filter") == "data", where


def test_a_config_cannot_run_code(tmp_path, scfm_command) -> None:
    for number, line in enumerate(("!!python/object/apply:os.mkdir [{}]", "model: !!python/object/new:os.mkdir [{}]")):
        made = tmp_path / f"made {number}"
        (tmp_path / "hostile.yaml").write_text(line.format(made))
        code, _, said = scfm_command("train", "--config", tmp_path / "hostile.yaml", "--data_path", "bundled")
        assert code == 2
        assert "is not valid YAML" in said
        assert not made.exists()
    code, _, said = scfm_command("train", "--set", f"training.seed=!!python/object/apply:os.mkdir [{tmp_path}/x]")
    assert (code, (tmp_path / "x").exists()) == (2, False)


@pytest.mark.parametrize("name", ["../escaped", "{}/absolute-escaped", "a/../../escaped"])
def test_a_member_of_an_archive_stays_inside(tmp_path, monkeypatch, name) -> None:
    archive = tmp_path / "hostile.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        entry = tarfile.TarInfo(name.format(tmp_path))
        entry.size = 4
        made.addfile(entry, io.BytesIO(b"evil"))
    monkeypatch.setenv("SCFM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "download", lambda url: archive)
    with pytest.raises(scfm.InputError, match=r"hostile\.tar\.gz is damaged .*; remove it"):
        scfm.find_data("zheng_pbmc_facs")
    assert not list(tmp_path.rglob("*escaped"))
    assert not list((tmp_path / "data").glob("*"))


def test_nothing_is_sent_unasked(tiny, cells, tmp_path, monkeypatch, scfm_command) -> None:
    asked = []

    def refuse(*address: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(OSError, match="no network"):
        urllib.request.urlopen("http://127.0.0.1:9", timeout=1)  # it would be seen
    asked.clear()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run = scfm.train(tiny, tmp_path / "cells.h5ad", run_dir=tmp_path / "run", max_steps=3, verbose=False)
    write_report(scfm.evaluate(run.dir, tmp_path / "cells.h5ad", scvi=False), run.dir)
    scfm.save_pretrained(run, tmp_path / "shared")
    embed = ["embed", run.dir, tmp_path / "cells.h5ad", "--out", tmp_path / "vectors.h5ad"]
    for words in (["check"], ["doctor", run.dir], embed):
        assert scfm_command(*words)[0] == 0, words
    assert asked == []


def test_no_name_becomes_markup(tiny, cells, tmp_path) -> None:
    evil = "<script>alert('x')</script>"
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str) + evil
    cells.var_names = [f"<img src=x onerror=y>{name}" for name in cells.var_names]
    file = tmp_path / "<b>cells & more.h5ad"
    cells.write_h5ad(file)
    run = scfm.train(tiny, file, run_dir=tmp_path / "run", max_steps=3, verbose=False)
    page = write_report(scfm.evaluate(run.dir, file, scvi=False), run.dir).read_text()
    for markup in (evil, "<img src=x", "<b>cells"):
        assert markup not in page
    assert html.escape(evil) in page or html.escape(evil, quote=False) in page  # shown, as what it is
    card = (scfm.save_pretrained(run, tmp_path / "shared", about=evil) / "README.md").read_text()
    assert "<b>cells" not in card
    assert "<img src=x" not in card


@pytest.mark.slow
def test_jupyter_listens_to_this_machine_alone_and_asks_for_its_token(tmp_path) -> None:
    makefile = (ROOT / "Makefile").read_text() + (ROOT / "colab_setup.sh").read_text()
    assert not re.search(r"--ip|0\.0\.0\.0|\.token\s*=|\.password\s*=|--allow-root|disable_check_xsrf", makefile)
    words = re.search(r"\$\(BIN\)/jupyter (lab \S+)", makefile)[1].split()  # as `make lab` starts it
    command = [sys.executable, "-m", "jupyter", words[0], str(ROOT / words[1]), "--no-browser"]
    runtime = tmp_path / "runtime"
    command += ["--allow-root"] if os.geteuid() == 0 else []  # it refuses the root of a container
    environment = {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)}
    server = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while not (found := list(runtime.glob("jpserver-*.json"))) and time.monotonic() < end:
            time.sleep(0.2)
        assert found, server.stdout.read1().decode()
        told = json.loads(found[0].read_text())
        assert told["hostname"] in {"localhost", "127.0.0.1"}
        assert len(told["token"]) >= 32
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{told['port']}/api/contents", timeout=10)
        with_token = f"http://127.0.0.1:{told['port']}/api/contents?token={told['token']}"
        assert urllib.request.urlopen(with_token, timeout=10).status == 200
    finally:
        server.terminate()
        server.wait(20)


def test_vectors_of_a_stranger_are_numbers(cells, tmp_path) -> None:
    cells.obsm["X_given"] = np.full((300, 2), np.nan)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(scfm.InputError, match="has NaN or infinity"):
        scfm.judge(ad.read_h5ad(tmp_path / "cells.h5ad"), "X_given", scvi=False)
