"""The list of the guide's claims quotes the guide."""

import os
from pathlib import Path

import pytest
import yaml

CLAIMS = Path(__file__).resolve().parents[2] / "benchmarks" / "guide_claims.yaml"


def guide() -> list[str]:
    path = Path(os.environ.get("SCFM_DATA_DIR", "")).parent / "hardware_guide.md"
    if os.environ.get("SCFM_DATA_DIR") and path.exists():
        return path.read_text().splitlines()
    reason = "hardware_guide.md is not beside SCFM_DATA_DIR"
    if os.environ.get("SCFM_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_every_claim_is_a_quote_with_its_line() -> None:
    lines = guide()
    claims = yaml.safe_load(CLAIMS.read_text())
    assert len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert claim["quote"] in lines[claim["line"] - 1], claim["id"]
        if claim["low"] is not None and claim["high"] is not None:
            assert claim["low"] <= claim["high"], claim["id"]


def test_no_figure_of_the_requirements_is_forgotten() -> None:
    """Each line of the sections on requirements, memory, cloud and set-ups that holds a figure has a claim."""
    claimed = {claim["line"] for claim in yaml.safe_load(CLAIMS.read_text())}
    code = False
    for number, line in enumerate(guide(), start=1):
        code ^= line.startswith("```")
        figure = any(c.isdigit() for c in line) and line.lstrip().startswith(("-", "|"))
        if figure and not code and not line.endswith(":"):  # a heading names the job of the lines below
            assert number in claimed, line
