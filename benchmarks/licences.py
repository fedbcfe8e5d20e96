"""The licence of everything that `pip install scfm-workbook` brings, as the packages themselves say.

python benchmarks/licences.py > benchmarks/results/licences.md
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

LONGEST = 60  # some packages put the whole text where its name belongs


def closure(name: str) -> dict[str, Distribution]:
    """The packages that a package needs here, directly or not, by name; those of its extras are left out."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        here = waiting.pop()
        for text in distribution(here).requires or []:
            needed = Requirement(text)
            key = re.sub(r"[-_.]+", "-", needed.name).lower()
            if key in found or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            try:
                found[key] = distribution(needed.name)
            except PackageNotFoundError:  # optional here, by a marker that packaging reads otherwise
                continue
            waiting.append(needed.name)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """In the package's own words: its SPDX expression, its classifiers, or its licence field's first line."""
    told = package.metadata
    lines = [line for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    classifiers = [line.rsplit(" :: ", 1)[1] for line in lines]
    field = (told.get("License") or "").strip().splitlines()
    return told.get("License-Expression") or ", ".join(classifiers) or (field or ["not told"])[0][:LONGEST]


def main() -> None:
    direct = {re.split(r"[^\w.-]", text)[0].lower() for text in distribution("scfm-workbook").requires or []}
    print("| package | version | licence |\n|---|---|---|")
    for name, package in closure("scfm-workbook").items():
        shown = f"**{name}**" if name in direct else name
        print(f"| {shown} | {package.version} | {licence(package)} |")


if __name__ == "__main__":
    main()
