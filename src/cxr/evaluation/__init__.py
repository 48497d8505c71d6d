"""Metrics with intervals, calibration, thresholds, comparisons, trivial baselines."""
