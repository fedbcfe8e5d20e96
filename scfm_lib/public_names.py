"""The public names of a package, each loaded from its file when it is first asked for.

So `import scfm_lib` takes milliseconds, and threads can be set before torch is imported.
"""

import importlib
import sys
import types
from typing import Any


def public_names(package: str, files: dict[str, str]) -> list[str]:
    """Gives a package its public names, and returns them for `__all__`.

    Args:
        package: its `__name__`.
        files: for each of its files ("train", "data.read") the public names in it, separated by spaces.
    """
    where = {name: file for file, names in files.items() for name in names.split()}

    class Package(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in where:
                raise AttributeError(f"{package} has no {name!r}; there are {', '.join(where)}")
            return getattr(importlib.import_module(f".{where[name]}", package), name)

        def __setattr__(self, name: str, value: Any) -> None:
            # Importing scfm_lib.train would otherwise put the module in the place of the function scfm.train.
            if not (name in where and isinstance(value, types.ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return list(where)

    sys.modules[package].__class__ = Package
    return list(where)
