"""Figures, the report of an evaluation, and a model as a folder for others."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "colours": "BLUE ORANGE GREEN PINK SKY RED COLOURS METHOD_COLOURS METHOD_NAMES",
        "plots": "confusion_figure loss_figure maps_figure scores_figure umap_figure",
        "report": "result_text table_text verdict write_report",
        "hub": "save_pretrained",
    },
)
