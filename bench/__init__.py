"""Benchmarks of the expensive parts, relative to a straightforward implementation."""
