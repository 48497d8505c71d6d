"""Anybody's image files as grey images, with what was assumed to read each of them."""
