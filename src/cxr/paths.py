"""Paths used by more than one module, relative to the project root."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

PARAMS_FILE = "params.yaml"
PIPELINE_FILE = "dvc.yaml"
LOCK_FILE = "dvc.lock"

RAW = "data/raw"
PROCESSED = "data/processed"
STATISTICS = "data/statistics.json"
OOD = "data/ood.json"
FEATURES = "data/features"
MODELS = "models"
PREDICTIONS = "predictions"
DECISIONS = "decisions"
ATTRIBUTIONS = "attributions"
RECORDS = "records"
REPORTS = "reports"
DATA_REPORT = f"{REPORTS}/data.json"
SAMPLES = f"{REPORTS}/data/samples.png"
METRICS = f"{REPORTS}/metrics.json"
SUMMARY = f"{REPORTS}/summary.json"
CURVES = f"{REPORTS}/curves"
EVALUATION = f"{REPORTS}/evaluation"
MAPS_REPORT = f"{REPORTS}/gradcam.json"
SHEETS = f"{REPORTS}/gradcam"
SIDE_BY_SIDE = f"{SHEETS}/side-by-side"


def is_inside(path: str) -> bool:
    """Whether a path is relative, normalized and stays below its starting folder."""
    # A backslash separates folders on Windows; unprintable characters can hide separators.
    parts = PurePosixPath(path).parts
    plain = path.isprintable() and "\\" not in path and path == "/".join(parts)
    # POSIX has two roots, / and //.
    return plain and bool(parts) and not path.startswith("/") and ".." not in parts


def _inside(path: str) -> str:
    if not is_inside(path):
        raise ValueError(f"the path {path!r} leads out of the project")
    return path


ProjectPath = Annotated[str, AfterValidator(_inside)]
