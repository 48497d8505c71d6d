"""Arrays to figures; the only package that imports matplotlib."""
