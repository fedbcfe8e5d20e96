"""What training would take, before it starts: parameters, memory, time, cost, and what would save some."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "workload": "parameters training_flops typical_store workload",
        "memory": "memory",
        "estimate": "estimate best_fit",
        "advice": "check",
        "text": "check_text estimate_text fit_text",
    },
)
