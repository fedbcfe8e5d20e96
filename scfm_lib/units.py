"""Amounts as people write and read them: 4GB, 3.5 GiB, 2h, 90min."""

import re

from .errors import InputError

BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
COUNTS = {"": 1, "k": 1e3, "m": 1e6}
SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "hours": 3600, "hour": 3600, "d": 86400, "days": 86400}


def parse_bytes(text: str) -> float:
    """Bytes of "4GB" (1e9) or "4GiB" (2**30); a bare number is GB."""
    return _parse(text, BYTES, "gb", "4GB or 4GiB")


def parse_seconds(text: str) -> float:
    """Seconds of "2h", "90min", "45s" or "1d"; a bare number is hours."""
    return _parse(text, SECONDS, "h", "2h, 90min or 1d")


def parse_count(text: str) -> int:
    """The number in "20000", "20,000", "20k" or "1.5M"."""
    return round(_parse(text.replace(",", ""), COUNTS, "", "20000 or 20k"))


def _parse(text: str, units: dict[str, float], default: str, example: str) -> float:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", text.strip().lower())
    if not match or (match[2] or default) not in units or float(match[1]) <= 0:
        bare = f" (a bare number is in {default})" if default else ""
        raise InputError(f"{text!r} is not an amount; write for example {example}{bare}")
    return float(match[1]) * units[match[2] or default]


def gb(size: float | None) -> str:
    """Bytes as GB (1e9) or MB (1e6)."""
    if size is None:
        return "not known"
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
