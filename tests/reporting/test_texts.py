"""What the demo prints beside its table: ranges, and results that were recorded."""

import json

from scfm_lib.reporting.report import ranges_text, recorded_text, table_text


def test_ranges_stand_beside_their_scores() -> None:
    scored = {"pca": {"knn_f1": 0.5, "logistic_f1": 0.6}, "raw": {"knn_f1": None, "logistic_f1": 0.7}, "scvi": None}
    ranges = {
        "pca": {"knn_f1": [0.4, 0.61], "logistic_f1": [0.55, 0.65]},
        "raw": {"knn_f1": None, "logistic_f1": [0, 1]},
    }
    first, second = ranges_text({"embeddings": scored, "ranges": ranges}).splitlines()[1:]
    assert first.split("  ")[0] == "PCA, all genes"
    assert "0.50 (0.40 to 0.61)" in first
    assert second.split()[-4:] == ["0.70", "(0.00", "to", "1.00)"]
    assert " - " in second


def test_methods_that_were_not_run_stand_below_the_table() -> None:
    table = {"pca": {"knn_f1": 0.5, "nmi": None}, "scvi": None, "trained": {"knn_f1": 0.25, "nmi": 0.75}}
    *lines, last = table_text(table).splitlines()
    assert last == "not run: scVI"
    assert [line.split()[-2:] for line in lines[1:]] == [["0.500", "-"], ["0.250", "0.750"]]
    assert "not run" not in table_text({"pca": {"knn_f1": 0.5}})


def test_a_recorded_result_is_marked_as_such(tmp_path) -> None:
    file = tmp_path / "recorded.json"
    assert recorded_text("zheng_pbmc_facs", file) == ""
    scores = {"pca": {"knn_f1": [0.8, 0.0]}, "trained": {"knn_f1": [0.84, 0.012], "nmi": [0.5, 0.1]}}
    told = {"scores": {"zheng_pbmc_facs": scores}, "seeds": [0, 1], "command": "python x.py", "date": "2026-11-25"}
    file.write_text(json.dumps(told))
    said = recorded_text("zheng_pbmc_facs", file)
    assert said.startswith("Recorded on 2026-11-25, not run now: zheng_pbmc_facs, mean (standard deviation) of 2 seeds")
    assert "0.840 (0.012)" in said
    assert said.endswith("Made anew by: python x.py")
    assert recorded_text("pbmc3k", file) == ""
