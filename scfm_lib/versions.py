"""Which versions made a result; stored beside every one."""

import platform
from importlib import metadata

PACKAGES = ("torch", "numpy", "scipy", "scanpy", "anndata", "scikit-learn", "scvi-tools")


def versions() -> dict[str, str]:
    """Versions of Python, this library and the packages a result depends on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in ("scfm-workbook", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
