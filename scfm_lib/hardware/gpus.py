"""The graphics cards and rented machines that the estimate knows: `gpus.yaml`, which is there to be edited."""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

GPUS = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True)
class Card:
    """A card's published figures; where each comes from is said in `gpus.yaml`."""

    name: str  # as the driver reports it, without "NVIDIA "
    also: tuple[str, ...]  # other spellings
    memory_gib: float | None  # as sold; None: shared with the system (Apple)
    fp32_tflops: float  # peak, 1e12 per second, a multiply and an add are two
    half_tflops: float  # peak of fp16 or bf16 with fp32 accumulation, without sparsity
    bandwidth_gb_per_s: float  # 1e9 bytes per second
    compute_capability: str | None  # None: Apple
    bf16: bool  # in hardware
    kind: str  # desktop, laptop, workstation, datacenter, apple
    source: str
    checked: bool  # the figures were read in a source, not only known

    @property
    def has_kernels(self) -> bool:
        """Whether torch from PyPI computes on it: since CUDA 12.8 nothing below capability 7.5 (see gpus.yaml)."""
        return self.compute_capability is None or float(self.compute_capability) >= 7.5


@dataclass(frozen=True)
class Machine:
    """A machine with a card that can be rented or had for nothing."""

    name: str
    provider: str
    card: str
    cards: int
    cpu_cores: int | None
    memory_gib: float | None
    usd_per_hour: tuple[float, float]  # low, high
    session_hours: float | None  # the longest session
    weekly_hours: float | None
    source: str
    checked: bool
    priced: str  # the month of the price
    note: str = ""


@cache
def _file() -> dict[str, Any]:
    return yaml.safe_load(GPUS.read_text(encoding="utf-8"))


def cards() -> list[Card]:
    """All cards of `gpus.yaml`."""
    return [Card(**row | {"also": tuple(row["also"])}) for row in _file()["cards"]]


def machines() -> list[Machine]:
    """All rented and free machines of `gpus.yaml`."""
    return [Machine(**row | {"usd_per_hour": tuple(row["usd_per_hour"])}) for row in _file()["machines"]]


def sources() -> dict[str, dict[str, Any]]:
    """Title, address and date of each source that cards and machines name."""
    return _file()["sources"]


def find_card(name: str, memory_bytes: int | None = None) -> Card:
    """The card of that name, any case, with or without "NVIDIA".

    Args:
        name: such as "RTX 3060" or what the driver reports.
        memory_bytes: what the driver reports; it tells cards of one name apart (RTX 3080 with 10 and 12 GiB).

    Raises:
        InputError: no such card; the nearest names are given.
    """
    wanted = name.lower().removeprefix("nvidia").strip()
    named = {spelling.lower(): card for card in cards() for spelling in (card.name, *card.also)}
    without_spaces = {re.sub(r"[\s_-]", "", spelling): card for spelling, card in named.items()}
    found = named.get(wanted) or without_spaces.get(re.sub(r"[\s_-]", "", wanted))
    if found is None:
        near = difflib.get_close_matches(wanted, named, n=3, cutoff=0.4)
        ask = (
            f"did you mean {', '.join(dict.fromkeys(named[n].name for n in near))}?"
            if near
            else f"the cards are listed in {GPUS}"
        )
        raise InputError(f"GPU {name!r} is not in gpus.yaml; {ask}")
    if memory_bytes and found.memory_gib:
        same = [c for c in cards() if c.memory_gib and c.name.lower().startswith(found.name.lower())]
        namesakes = [c for c in same if c.name.lower()[len(found.name) :].strip(" gb0123456789") == ""]
        found = min(namesakes, key=lambda card: abs(card.memory_gib * 2**30 - memory_bytes))
    return found
