"""What a notebook shows: the preset picker and the live dashboard."""

from ..public_names import public_names

__all__ = public_names(
    __name__,
    {
        "preset_picker": "PresetPicker preset_picker",
        "dashboard": "dashboard follow",
    },
)
