"""A run's log as MLflow shows it: its status, parameters, metrics and artifacts."""

from cxr.lineage.run_log import RunLog
from cxr.paths import REPORTS

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
PARAM_LENGTH = 6000  # MLflow refuses longer values


def shown_params(log: RunLog) -> dict[str, str]:
    """A run's parameters as MLflow keeps them."""
    return {key: str(value)[:PARAM_LENGTH] for key, value in log.params.items()}


def shown_metrics(log: RunLog) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point of a run's metrics: its curves, and its final numbers."""
    points: dict[str, list[tuple[int, float]]] = {}
    for values in log.history:
        for name, value in values.items():
            if name != "epoch":
                points.setdefault(name, []).append((int(values["epoch"]), float(value)))
    for name, value in log.metrics.items():
        points.setdefault(name, []).append((0, float(value)))
    return points


def artifact_place(path: str) -> str:
    """Where an output stands among a run's artifacts: its own folders below `reports/`."""
    return path.removeprefix(f"{REPORTS}/")
