"""The README's figures are those of the stored measurements, not of anybody's memory."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from scfm_lib.files import RECORDED
from scfm_lib.reporting.colours import METHOD_NAMES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PLAIN = (ROOT / "README.md").read_text(encoding="utf-8").replace("**", "")
QUALITY = ["knn", "logistic_f1", "nmi", "ari", "held_out_knn", "held_out_logistic_f1"]
CARRIED = ["knn_f1", "knn_cosine_f1", "logistic_f1", "nmi", "ari", "silhouette"]
RECORDED_SCORES = json.loads(RECORDED.read_text(encoding="utf-8"))["scores"]
FIGURE = re.compile(r"(?<![\d.])\.\d{3}\b")


def measured(kind: str) -> pd.DataFrame:
    """The newest results of a benchmark, a row for each method and seed."""
    file = sorted(RESULTS.glob(f"*-{kind}.jsonl"))[-1]
    return pd.DataFrame([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


def lines(start: str) -> list[list[float]]:
    """The figures of the README's lines that begin like this."""
    return [[float(f) for f in FIGURE.findall(line)] for line in PLAIN.splitlines() if line.startswith(start)]


def figures(pairs: list[tuple[float, float] | None], seeds: int) -> list[float]:
    """As a line of a table has them: means, each with its standard deviation where there are several seeds."""
    return [value for pair in pairs if pair for value in (pair if seeds > 1 else pair[:1])]


@pytest.mark.parametrize("data", ["zheng_pbmc_facs", "pbmc3k", "simulated"])
def test_scores_beside_the_baselines(data: str) -> None:
    table = RECORDED_SCORES[data]
    assert list(table)[-3:] == ["untrained", "start", "trained"]
    number = list(RECORDED_SCORES).index(data)
    for method, row in table.items():
        seeds = 3 if method in ("untrained", "start", "trained") or method.startswith("scvi") else 1
        expected = figures([row.get(key) for key in QUALITY], seeds)
        cells = rf"| {METHOD_NAMES[method]} | "
        found = [line for line in lines(cells + ".") + lines(cells + " |")][number]
        assert found == pytest.approx(expected, abs=0.00051), method


def test_neighbours_by_one_distance_alone() -> None:
    """The sentence that undoes the choice of the better distance."""
    table = RECORDED_SCORES["zheng_pbmc_facs"]
    expected = []
    for score in ("held_out_knn_cosine_f1", "held_out_knn_f1"):
        expected += [*table["trained"][score], *table["scvi_all"][score], table["pca"][score][0]]
    (told,) = lines("leak, and it helps the model most")
    assert told == pytest.approx(expected, abs=0.00051)


def test_what_attention_adds() -> None:
    rows = measured("ablation")
    for line, variant in (("| the bag alone", "bag alone"), ("| with tokens", "shipped")):
        expected = []
        for data in ("zheng_pbmc_facs", "pbmc3k", "simulated"):
            found = rows[(rows["data"] == data) & (rows["variant"] == variant)]
            better = max(("knn_f1", "knn_cosine_f1"), key=lambda score, of=found: of[score].mean())
            pairs = [(found[score].mean(), found[score].std()) for score in (better, "logistic_f1")]
            expected += figures(pairs, len(found))
        (told,) = lines(line)
        assert told == pytest.approx(expected, abs=0.00051)


def test_scores_carried_over() -> None:
    rows = measured("transfer")
    assert set(rows["fitted_on"]) == {"pbmc3k", "zheng_pbmc_facs", "nothing"}
    for (method, fitted_on), found in rows.groupby(["method", "fitted_on"]):
        pairs = [(found[k].mean(), found[k].std()) if found[k].notna().all() else None for k in CARRIED]
        expected = figures(pairs, len(found))
        (told,) = lines(f"| {METHOD_NAMES[method]}, fitted on {fitted_on} |")
        assert told == pytest.approx(expected, abs=0.00051)


def test_no_figure_of_the_prose_was_made_up() -> None:
    """Each score in the sentences about quality stands in one of the tables."""
    section = PLAIN.split("## How good, how fast")[1].split("Training speed")[0]
    tables = {f for line in section.splitlines() if line.startswith("|") for f in FIGURE.findall(line)}
    held_to = ("|", "leak, and it helps the model most")  # the second by a test of its own
    prose = "\n".join(line for line in PLAIN.splitlines() if not line.startswith(held_to))
    found = FIGURE.findall(prose)
    assert len(found) > 10
    assert not set(found) - tables


def test_speed() -> None:
    file = sorted((ROOT / "benchmarks" / "results").glob("*-throughput.jsonl"))[-1]
    ratios = [json.loads(line) for line in file.read_text().splitlines() if "times_faster" in line]
    ratios.sort(key=lambda row: row["times_faster"])
    found = re.search(r"([\d.]+) and ([\d.]+)\s+times a padded.*?at ([\d.]+) and ([\d.]+) of", PLAIN, re.S).groups()
    assert found[:2] == tuple(f"{row['times_faster']:.1f}" for row in ratios)
    assert found[2:] == tuple(f"{row['share']:.2f}" for row in ratios)


def test_the_picture() -> None:
    assert (RESULTS / "picture.png").stat().st_size > 20_000
    assert "](benchmarks/results/picture.png)" in PLAIN


def test_missing_types_found_by_annotate() -> None:
    """CONTRIBUTING's table of what came back as unknown."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text[text.index("**And beside a PCA.**") :]
    rows = measured("annotate")
    for missing in set(rows["missing"]) - {"nothing"}:
        found = rows[rows["missing"] == missing].pivot(index="seed", columns="method", values="missing_unknown")
        expected = []
        for method in ("model", "pca", "pca_seen"):
            expected += [found[method].mean(), found[method].std()]
        expected += [found["model_blind"][0], found["pca"][0]]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {missing} |")]
        told = [float(figure) for figure in re.findall(r"[\d.]*\.\d\d", line.split("|", 2)[2])]
        assert told == pytest.approx(expected, abs=0.0051), missing
