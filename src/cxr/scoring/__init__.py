"""Anybody's predictions, scored as the project's own."""
