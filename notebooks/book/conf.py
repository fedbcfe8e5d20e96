"""How `make book` turns README, lessons and their stored outputs into a site, by Sphinx and MyST-NB.

Jupyter Book 1 does the same. Nothing is run. The first page is the project's README; the lessons follow in their order.
"""

from pathlib import Path
from typing import Any

project = "scfm-workbook"
author = "the scfm-workbook authors"
extensions = ["myst_nb"]
root_doc = "README"
pages = ["README", "notebooks/0*", "notebooks/solutions/0*", "HARDWARE", "data/README", "benchmarks/README"]
pages += ["notebooks/README", "CONTRIBUTING"]
include_patterns = [f"{page}.{kind}" for page in pages for kind in ("md", "ipynb")]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links to a heading, as GitHub has them
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets and live pictures: their still twin is shown

html_theme = "sphinx_book_theme"  # with search, and a switch for the dark mode
html_title = "scfm-workbook"
html_show_copyright = False
html_theme_options = {"home_page_in_toc": True}
CONTENTS = """
```{toctree}
:hidden:
:caption: Lessons
:glob:

notebooks/0*
```

```{toctree}
:hidden:
:caption: Solutions
:glob:

notebooks/solutions/0*
```

```{toctree}
:hidden:
:caption: Beside them

notebooks/README
data/README
HARDWARE
benchmarks/README
CONTRIBUTING
```
"""


def setup(app: Any) -> None:
    """The table of contents goes below the README, which on GitHub needs none."""

    def with_contents(app: Any, page: str, source: list[str]) -> None:
        if page == root_doc:
            source[0] += CONTENTS

    def with_index(app: Any, error: Exception | None) -> None:
        if error is None:  # servers show index.html
            there = (
                f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={root_doc}.html">'
            )
            (Path(app.outdir) / "index.html").write_text(there, encoding="utf-8")

    app.connect("source-read", with_contents)
    app.connect("build-finished", with_index)
