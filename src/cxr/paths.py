"""Paths in the project that more than one file names, relative to its root."""

PIPELINE_FILE = "dvc.yaml"
LOCK_FILE = "dvc.lock"


RAW = "data/raw"
PROCESSED = "data/processed"
STATISTICS = "data/statistics.json"
FEATURES = "data/features"
