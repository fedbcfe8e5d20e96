"""The report: what stands on the page, and that its figures and tables say what was computed."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml

import scfm_lib as scfm
from scfm_lib.config import parse_overrides, with_changes
from scfm_lib.reporting import confusion_figure, maps_figure, scores_figure
from scfm_lib.reporting.markers import cluster_markers, lineage_markers, markers_without_token
from scfm_lib.reporting.report import told, write_report


@pytest.fixture(scope="module")
def result(trained) -> dict:
    return scfm.evaluate(trained.checkpoint, trained.dir.parent / "cells.h5ad", scvi=False)


def test_the_page_has_every_part_and_its_numbers(result, trained, tmp_path) -> None:
    page = write_report(result, trained.checkpoint, tmp_path / "report").read_text(encoding="utf-8")
    heads = re.findall("<h[12]>(.*?)</h", page)
    assert heads == [
        "How good is this model?", "Cells held out of everything", "Which types are taken for which", "The cells",
        "What the clusters are made of", "Markers that are no tokens", "Training", "How it was judged", "To cite",
        "Versions",
    ]  # fmt: skip
    assert page.count("data:image/png;base64,") == 5
    assert f"{result['held_out']['trained']['knn_f1']:.3f}" in page
    assert "None of the human marker genes" in page  # simulated genes have other names
    assert "scanpy (Wolf" in page
    assert "scVI: Lopez" not in page  # it was not run
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {f"{name}.png" for name in ("scores", "held_out", "confusion", "umap", "loss")} | {
        "report.html",
        "scores.json",
    }
    assert told(result).keys() == result.keys() - {"vectors", "labels", "adata", "unseen"}


def test_held_out_cells_are_ringed_and_counted(result) -> None:
    unseen = result["unseen"]
    figure = maps_figure({"trained": result["vectors"]["trained"]}, result["labels"], unseen)
    rings = figure.axes[0].collections[-1]
    assert len(rings.get_offsets()) == unseen.sum() == result["cells"]["held_out"]
    assert rings.get_label() == f"held out ({unseen.sum()})"


def test_ranges_are_bars_that_do_not_hide_each_other(result) -> None:
    axes = scores_figure(result["embeddings"], "All", result["ranges"]).axes[0]
    bars = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    expected = [r for method, row in result["ranges"].items() if row for r in row.values() if r]
    assert sorted(bars) == sorted(map(tuple, expected))
    heights = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    assert len(set(heights)) == len(heights)


def test_a_row_of_the_confusion_matrix_adds_up_to_the_types_cells() -> None:
    truth, guess = np.array(list("aaabbc")), np.array(list("aabbbb"))
    axes = confusion_figure(truth, {"pca": guess, "trained": truth}).axes
    counts = {text.get_position(): text.get_text() for text in axes[0].texts}
    assert counts == {(0, 0): "2", (1, 0): "1", (1, 1): "2", (1, 2): "1"}  # (guessed, true)
    assert {text.get_position(): text.get_text() for text in axes[1].texts} == {(0, 0): "3", (1, 1): "2", (2, 2): "1"}
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a", "b", "c"]


def test_markers_of_clusters_are_the_genes_that_were_made_to_differ() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (90, 30))
    for number in range(3):  # three kinds of 30 cells, each with two genes of its own
        counts[30 * number : 30 * (number + 1), 2 * number : 2 * number + 2] += 20
    adata = scfm.simulate(90, 30, n_types=2, depth=300, seed=0)
    adata.layers["counts"] = adata.X = sp.csr_matrix(counts.astype(np.float32))
    adata.var_names = [f"G{number}" for number in range(30)]
    labels = pd.Series(np.repeat(["a", "b", "c"], 30), index=adata.obs_names).where(rng.random(90) < 0.9)
    vectors = np.repeat(np.eye(3) * 10, 30, axis=0) + rng.normal(size=(90, 3))
    found = {row["label"]: row for row in cluster_markers(adata, vectors.astype(np.float32), labels.astype("category"))}
    assert sum(row["cells"] for row in found.values()) == 90
    for number, label in enumerate("abc"):
        assert set(found[label]["markers"][:2]) == {f"G{2 * number}", f"G{2 * number + 1}"}
        assert found[label]["share"] == 1.0


def test_markers_that_are_no_tokens_are_named_and_can_be_asked_for() -> None:
    symbols = ["CD3D", "LYZ", "FOXP3", "cd4", "GENE1"]
    heard, missing = markers_without_token(symbols, 2)
    assert heard == 4
    assert missing == {"CD4 T cell": ["CD4"], "regulatory T cell": ["FOXP3"]}
    assert markers_without_token(symbols, 5) == (4, {})
    assert markers_without_token(["Gm1", "Xkr4"], 1) == (0, {})
    for genes in lineage_markers().values():
        assert len(genes) == len(set(genes)) >= 2
        assert all(gene == gene.upper() for gene in genes)


def test_the_line_that_makes_markers_tokens_is_one_the_config_takes(result, trained, tmp_path, monkeypatch) -> None:
    from scfm_lib.reporting import markers

    symbols = [str(symbol) for symbol in trained.model.symbols]
    monkeypatch.setattr(markers, "lineage_markers", lambda: {"kind": symbols[-3:]})
    page = write_report(result, trained.checkpoint, tmp_path / "report").read_text(encoding="utf-8")
    pair = re.search(r"--set '(data\.preprocessing\.must_include=.*?)'", page)[1]
    config = with_changes(scfm.load_config("minimal"), parse_overrides([pair]))
    assert config.data.preprocessing.must_include == symbols[-3:]
    assert yaml.safe_load(pair.split("=")[1]) == symbols[-3:]
