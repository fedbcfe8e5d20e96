"""Around the training loop: run folders, processes, threads, logging, stopping. Nothing here changes a weight."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "logger": "read_metrics",
    },
)
