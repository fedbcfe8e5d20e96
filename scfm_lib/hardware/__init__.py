"""What is in this machine, with and without torch, and which graphics cards there are in the world."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "system": "machine usable_cores driver_cards",
        "device": "choose_device choose_precision",
        "threads": "use_all_cores",
        "gpus": "cards find_card machines",
    },
)
