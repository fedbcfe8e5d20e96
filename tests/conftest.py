import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import pytest

import scfm_lib as scfm
from scfm_lib.cli import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOTS = Path(__file__).resolve().parents[1] / ".screenshots"
TINY = {
    "model.n_genes": 60,
    "model.gene_embedding_dim": 8,
    "model.hidden_dim": 16,
    "model.num_heads": 2,
    "model.ff_dim": 32,
    "data.preprocessing.min_genes": 5,
    "training.batch_size": 32,
    "training.num_epochs": 3,
    "training.patience": None,
    "training.log_every_steps": 5,
}


@pytest.fixture
def tiny() -> scfm.Config:
    """A config that trains in a second."""
    return scfm.load_config("minimal", TINY)


@pytest.fixture
def cells() -> ad.AnnData:
    """300 simulated cells x 120 genes, 3 types, 2 batches; fresh for each test, which may spoil them."""
    return scfm.simulate(300, 120, n_types=3, n_batches=2, depth=300, seed=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> scfm.Run:
    """A small run on simulated cells that learned something."""
    config = scfm.load_config("minimal", TINY | {"training.num_epochs": 20, "training.learning_rate": 0.005})
    data = scfm.simulate(600, 120, n_types=3, n_batches=2, depth=300, seed=1)
    path = tmp_path_factory.mktemp("trained")
    data.write_h5ad(path / "cells.h5ad")
    return scfm.train(config, path / "cells.h5ad", run_dir=path / "run", verbose=False)


def real(name: str) -> Path:
    """A data set that the project does not ship: found through SCFM_DATA_DIR, else the test is skipped, saying so."""
    path = Path(os.environ.get("SCFM_DATA_DIR", "")) / f"{name}.h5ad"
    if os.environ.get("SCFM_DATA_DIR") and path.exists():
        return path
    reason = f"{name}.h5ad is not in SCFM_DATA_DIR ({os.environ.get('SCFM_DATA_DIR', 'unset')})"
    if os.environ.get("SCFM_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def zheng() -> Path:
    return real("zheng_pbmc_facs")


@pytest.fixture
def pbmc3k() -> Path:
    return real("pbmc3k")


@pytest.fixture(autouse=True)
def _own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFM_WORK_DIR", str(tmp_path / "work"))


@pytest.fixture
def scfm_command(capsys, monkeypatch):
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scfm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A browser that is here, or Debian's, installed now if this is root's machine; else the tests are skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"capture_output": True, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], **quiet)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, and Debian's could not be installed")
    return found


@pytest.fixture
def page(browser_path: str) -> Iterator[Any]:
    """A page in it, of playwright."""
    from playwright.sync_api import sync_playwright  # here, so that only tests that want a browser need it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)  # milliseconds
        yield page
        page.screenshot(path=SHOTS / "last.png")  # what a failing test saw
        browser.close()
