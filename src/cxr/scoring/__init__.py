"""Scoring of predictions made outside this project."""
