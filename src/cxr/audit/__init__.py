"""Audits results, compares two of them, replays runs and syncs MLflow."""
