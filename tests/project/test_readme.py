"""The README's figures are those of the stored measurements, not of anybody's memory."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCORES = ["knn_f1", "logistic_f1", "silhouette", "nmi", "ari"]
PLAIN = (ROOT / "README.md").read_text(encoding="utf-8").replace("**", "")
WRITTEN = {"pca": "PCA, 50 components", "scvi": "scVI 1.4.2, 100 epochs", "trained": "MINIMAL, 20 epochs"}


def measured(kind: str) -> pd.DataFrame:
    """The newest results of a benchmark, a row for each method and seed."""
    file = sorted((ROOT / "benchmarks" / "results").glob(f"*-{kind}.jsonl"))[-1]
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame([line for line in lines if "method" in line])


def told(line: str) -> list[float]:
    """The figures in the README's only line that begins like this."""
    found = [written for written in PLAIN.splitlines() if written.startswith(line)]
    assert len(found) == 1, (line, found)
    return [float(number) for number in re.findall(r"(?<![\d.])\.\d{3}\b", found[0])]


def check(figures: list[float], rows: pd.DataFrame) -> None:
    assert len(rows) == 3  # seeds
    expected = [value for key in SCORES for value in (rows[key].mean(), rows[key].std())]
    assert figures == pytest.approx(expected, abs=0.00051)


@pytest.mark.parametrize("method", WRITTEN)
@pytest.mark.parametrize("data", ["zheng_pbmc_facs", "pbmc3k"])
def test_scores_on_cells_it_learned_from(data: str, method: str) -> None:
    rows = measured("quality").query("data == @data and method == @method and cells == 'all'")
    seconds = f"{rows['seconds'].mean():.{0 if rows['seconds'].mean() > 1 else 1}f}"
    lines = [line for line in PLAIN.splitlines() if re.match(rf"\| {WRITTEN[method]} \| \.\d.* {seconds} \|$", line)]
    assert len(lines) == 1, (method, seconds)
    check(told(lines[0]), rows)


@pytest.mark.parametrize("data", ["zheng_pbmc_facs", "pbmc3k"])
def test_scores_on_cells_held_out(data: str) -> None:
    rows = measured("quality").query("data == @data and cells == 'held out'").set_index("method")
    pattern = r"held out.*?kNN F1 (\.\d+), scVI (\.\d+), PCA (\.\d+); logistic F1 (\.\d+), scVI (\.\d+), PCA (\.\d+)"
    found = [[float(number) for number in match] for match in re.findall(pattern, PLAIN, re.S)]
    expected = [rows.loc[method, key] for key in SCORES[:2] for method in ("trained", "scvi", "pca")]
    assert found[data == "pbmc3k"] == pytest.approx(expected, abs=0.00051)


@pytest.mark.parametrize(
    ("method", "fitted_on", "line"),
    [
        ("pca", "pbmc3k", "| PCA, 50 components | PBMC3k |"),
        ("scvi", "pbmc3k", "| scVI 1.4.2, 100 epochs | PBMC3k |"),
        ("start", "pbmc3k", "| MINIMAL at its start | PBMC3k |"),
        ("trained", "pbmc3k", "| MINIMAL, 20 epochs | PBMC3k |"),
        ("pca", "zheng_pbmc_facs", "| PCA, 50 components | the Zheng cells |"),
    ],
)
def test_scores_carried_over(method: str, fitted_on: str, line: str) -> None:
    rows = measured("transfer").query("method == @method and fitted_on == @fitted_on")
    check(told(line), rows)


def test_speed() -> None:
    file = sorted((ROOT / "benchmarks" / "results").glob("*-throughput.jsonl"))[-1]
    ratios = [json.loads(line) for line in file.read_text().splitlines() if "times_faster" in line]
    ratios.sort(key=lambda row: row["times_faster"])
    found = re.search(r"([\d.]+) and ([\d.]+)\s+times a padded.*?at ([\d.]+) and ([\d.]+) of", PLAIN, re.S).groups()
    assert found[:2] == tuple(f"{row['times_faster']:.1f}" for row in ratios)
    assert found[2:] == tuple(f"{row['share']:.2f}" for row in ratios)


def test_the_picture_and_the_strongest_baseline() -> None:
    results = ROOT / "benchmarks" / "results"
    scores = json.loads((results / "picture.json").read_text(encoding="utf-8"))
    number = r"(\.\d+)"
    claim = rf"kNN F1 {number}, logistic F1 {number}, NMI {number} and ARI {number}; in the run of the picture.*?"
    claim += rf"the model has {number}, {number}, {number} and {number}\."
    keys = ("knn_f1", "logistic_f1", "nmi", "ari")
    expected = [row[key] for row in (scores["pca_all_genes"], scores["embeddings"]["trained"]) for key in keys]
    found = re.search(claim, PLAIN, re.S).groups()
    assert [float(value) for value in found] == pytest.approx(expected, abs=0.00051)
    unseen = re.search(rf"\(the run of the picture\) gave kNN F1 {number} and scVI {number}", PLAIN).groups()
    expected = [scores["held_out"][method]["knn_f1"] for method in ("trained", "scvi")]
    assert [float(value) for value in unseen] == pytest.approx(expected, abs=0.00051)
    assert f"the {scores['cells']['all'] - scores['cells']['held_out']:,} cells that were not held out" in PLAIN
    assert (results / "picture.png").stat().st_size > 20_000
    assert "](benchmarks/results/picture.png)" in PLAIN
