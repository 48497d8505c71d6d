"""Convert a run's log to MLflow's statuses, parameters, metrics and artifact paths."""

from cxr.lineage.run_log import RunLog
from cxr.paths import REPORTS

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
PARAM_LENGTH = 6000  # MLflow rejects longer values


def shown_params(log: RunLog) -> dict[str, str]:
    """A run's parameters as MLflow stores them."""
    return {key: str(value)[:PARAM_LENGTH] for key, value in log.params.items()}


def shown_metrics(log: RunLog) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point of a run's metrics: curves and final values."""
    points: dict[str, list[tuple[int, float]]] = {}
    for values in log.history:
        for name, value in values.items():
            if name != "epoch":
                points.setdefault(name, []).append((int(values["epoch"]), float(value)))
    for name, value in log.metrics.items():
        points.setdefault(name, []).append((0, float(value)))
    return points


def artifact_place(path: str) -> str:
    """An output's path among a run's artifacts: the same, without a leading `reports/`."""
    return path.removeprefix(f"{REPORTS}/")
