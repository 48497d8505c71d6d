"""Metrics with intervals, calibration, thresholds, comparisons and trivial baselines."""
