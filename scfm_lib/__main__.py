"""`python -m scfm_lib` is `scfm`."""

from .cli import main

main()
