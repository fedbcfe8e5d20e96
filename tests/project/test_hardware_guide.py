"""HARDWARE.md is what its script writes; its claims are quotes of the guide it grew out of, each answered."""

import importlib.util
import itertools
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "hardware_guide.py"
HOW = {"measured", "estimated", "counted", "listed", "run", "not checkable here"}
VERDICTS = {
    "agrees",
    "too high",
    "too low",
    "depends on the preset",
    "depends on the machine",
    "not always",
    "not so here",
    "out of date",
    "not checkable",
}


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("hardware_guide", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hardware_guide"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(script) -> str:
    """The document, by a clock that says a second has passed whenever it is asked: nothing timed may be in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", itertools.count().__next__)
        return script.document()


@pytest.fixture(scope="module")
def claims(script, written) -> dict[str, dict[str, Any]]:
    return {claim["id"]: claim for claim in script.claims()}


def guide() -> list[str]:
    """The guide's lines, where the shared folder is; else the test is skipped, saying so."""
    path = Path(os.environ.get("SCFM_DATA_DIR", "")).parent / "hardware_guide.md"
    if os.environ.get("SCFM_DATA_DIR") and path.exists():
        return path.read_text(encoding="utf-8").splitlines()
    reason = "hardware_guide.md is not beside SCFM_DATA_DIR"
    if os.environ.get("SCFM_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_the_document_is_what_the_script_writes(written) -> None:
    assert (ROOT / "HARDWARE.md").read_text(encoding="utf-8") == written, "run python benchmarks/hardware_guide.py"
    assert "{{" not in written


def test_the_guide_and_its_script_stay_short(written, claims) -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 300
    assert len(written.splitlines()) <= 215
    assert 20 <= len(claims) <= 30


def test_every_claim_is_answered(script, claims) -> None:
    assert len(claims) == len(script.claims())  # no id twice
    for name, claim in claims.items():
        assert claim["how"] in HOW, name
        assert claim["verdict"] in VERDICTS, name
        assert claim["here"], name
        assert "{" not in claim["here"], name
        assert (claim["how"] == "not checkable here") == (claim["verdict"] == "not checkable"), name


def test_what_is_known_to_be_wrong_is_found(claims) -> None:
    for name in ("minimal-parameters", "default-parameters", "large-parameters", "default-hours-rtx-3060"):
        assert claims[name]["verdict"] == "too high", name
    assert claims["minimal-parameters"]["here"] == "3,078,048 at 20,000 genes"
    for word in ("excellent", "not practical"):  # its verdict is written: it depends on the preset
        assert word in claims["few-cores"]["here"]


@pytest.mark.parametrize(("bounds", "verdict"), [([0.1, 0.2], "too low"), ([0.5, 5], "agrees"), ([5, 10], "too high")])
def test_a_figure_agrees_where_the_ranges_overlap(script, bounds: list[float], verdict: str) -> None:
    claim = {"figure": "parameters minimal", "range": bounds}
    assert script.answered(claim) == claim | {"verdict": verdict, "here": "3,078,048"}


def test_every_claim_quotes_the_guide(claims) -> None:
    lines = guide()
    for name, claim in claims.items():
        assert claim["quote"] in lines[claim["line"] - 1], name
        assert all(f"{figure:g}" in claim["quote"] for figure in claim.get("range", [])), name


def test_no_long_line_of_the_guide_is_copied(written) -> None:
    """The words are our own: quotes are in the file of claims alone."""
    for line in guide():
        words = line.strip(" -*#|")
        assert len(words) <= 40 or words not in written, line
