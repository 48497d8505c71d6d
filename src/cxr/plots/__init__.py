"""Arrays to figures: the only room that imports matplotlib."""
