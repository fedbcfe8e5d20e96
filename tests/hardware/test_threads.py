"""How many threads torch has, and which kernels."""

import importlib
import os
import subprocess
import sys

import pytest
import torch

import scfm_lib as scfm
from scfm_lib.hardware.threads import without_onednn

CODE = """
import numpy as np
import torch

import scfm_lib as scfm
from scfm_lib.data.genes import variable_genes
from scfm_lib.reporting.markers import cluster_markers
from scfm_lib.reporting.plots import umap_figure
from scfm_lib.scores.clusters import neighbour_graph

cells = scfm.simulate(300, 120, n_types=3, depth=300, seed=5)
cells.layers["counts"], labels = cells.X, cells.obs["cell_type"]
vectors = np.random.default_rng(0).normal(size=(300, 8)).astype("f4")
for use in (
    lambda: variable_genes(cells.X, 60),
    lambda: neighbour_graph(vectors),
    lambda: umap_figure(vectors, labels),
    lambda: cluster_markers(cells, vectors, labels),
):
    torch.set_num_threads(1)
    use()
    print(torch.get_num_threads())
"""


def test_numba_leaves_torch_its_threads() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_NUM_THREADS", None)
    ended = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()) == (0, ["1"] * 4), ended.stderr


def test_onednn_is_back_whatever_happens() -> None:
    with without_onednn(False):
        assert torch.backends.mkldnn.enabled
    with pytest.raises(ZeroDivisionError), without_onednn(True):
        1 / torch.backends.mkldnn.enabled  # False: 0
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("bf16", [False, True])
def test_only_bf16_trains_with_onednn_whose_kernels_stay_in_memory(bf16, cells, tiny, tmp_path, monkeypatch) -> None:
    module, seen = importlib.import_module("scfm_lib.train"), []
    step = module.training_step
    monkeypatch.setattr(module, "training_step", lambda *a: seen.append(torch.backends.mkldnn.enabled) or step(*a))
    tiny.training.bf16 = bf16
    scfm.train(tiny, cells, run_dir=tmp_path / "run", verbose=False, max_steps=2)
    assert seen == [bf16, bf16]
    assert torch.backends.mkldnn.enabled
