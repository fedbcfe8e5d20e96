"""What a notebook shows: the preset picker and the live dashboard."""
