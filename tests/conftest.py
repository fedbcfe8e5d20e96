import os
import sys
from pathlib import Path

import anndata as ad
import pytest

import scfm_lib as scfm
from scfm_lib.cli import main

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
