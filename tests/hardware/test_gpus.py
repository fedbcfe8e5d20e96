"""gpus.yaml is edited by hand: every figure has a source, every name leads to one card."""

import pytest

import scfm_lib as scfm
from scfm_lib.hardware.gpus import cards, find_card, machines, sources


def test_every_name_leads_to_one_card() -> None:
    names = [spelling.lower() for card in cards() for spelling in (card.name, *card.also)]
    assert len(names) == len(set(names))


def test_every_figure_has_a_source_and_makes_sense() -> None:
    for card in cards():
        assert card.source in sources(), card.name
        assert card.fp32_tflops > 0, card.name
        assert card.half_tflops >= card.fp32_tflops, card.name
        assert card.bandwidth_gb_per_s > 0, card.name
        assert card.kind in {"desktop", "laptop", "workstation", "datacenter", "apple"}, card.name
        assert ("laptop" in card.name.lower()) <= (card.kind == "laptop"), card.name
        if card.compute_capability:  # bf16 in hardware came with Ampere
            assert card.bf16 == (float(card.compute_capability) >= 8), card.name
        else:
            assert card.memory_gib is None, card.name  # Apple's is the system's


def test_every_machine_has_a_known_card_and_a_dated_price() -> None:
    for machine in machines():
        assert machine.source in sources(), machine.name
        assert find_card(machine.card).name == machine.card
        low, high = machine.usd_per_hour
        assert 0 <= low <= high, machine.name
        assert len(machine.priced) == 7, machine.name


@pytest.mark.parametrize(
    ("typed", "memory_gib", "name", "gib"),
    [
        ("RTX 3060", None, "GeForce RTX 3060", 12),
        ("rtx4090", None, "GeForce RTX 4090", 24),
        ("NVIDIA-GeForce-RTX_4090", None, "GeForce RTX 4090", 24),
        ("nvidia geforce rtx 3060 laptop gpu", None, "GeForce RTX 3060 Laptop GPU", 6),
        ("NVIDIA GeForce RTX 3080", 11.9, "GeForce RTX 3080 12GB", 12),
        ("NVIDIA GeForce RTX 3080", 9.8, "GeForce RTX 3080", 10),
        ("NVIDIA GeForce RTX 4060 Ti", 15.7, "GeForce RTX 4060 Ti 16GB", 16),
        ("Tesla T4", 14.6, "Tesla T4", 16),
    ],
)
def test_a_card_is_found_as_people_and_drivers_write_it(
    typed: str, memory_gib: float | None, name: str, gib: float
) -> None:
    card = find_card(typed, int(memory_gib * 2**30) if memory_gib else None)
    assert (card.name, card.memory_gib) == (name, gib)


def test_an_unknown_card_is_one_line_with_the_nearest() -> None:
    with pytest.raises(scfm.InputError, match=r"'RTX 3061' is not in gpus\.yaml; did you mean .*RTX 3060"):
        find_card("RTX 3061")
