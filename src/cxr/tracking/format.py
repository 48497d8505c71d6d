"""Convert a run's log to MLflow's statuses, parameters, metrics and artifact paths."""

from cxr.lineage.records import EXPERIMENT_TAG
from cxr.lineage.run_log import RunLog
from cxr.paths import REPORTS

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
PARAM_LENGTH = 6000  # MLflow rejects longer values


def shown_name(log: RunLog) -> str:
    """A run's name in MLflow, with its experiment, if it belongs to a single one."""
    return f"{log.name} ({log.tags[EXPERIMENT_TAG]})" if EXPERIMENT_TAG in log.tags else log.name


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


def experiments(tags: dict[str, str]) -> list[str]:
    """The experiments that a shared run belongs to."""
    return tags[EXPERIMENT_TAG].split(", ") if EXPERIMENT_TAG in tags else []


def with_experiment(tags: dict[str, str], name: str) -> str:
    """The value of a shared run's tag after adding an experiment."""
    return ", ".join(dict.fromkeys([*experiments(tags), name]))


def artifact_place(path: str) -> str:
    """An output's path among a run's artifacts: the same, without a leading `reports/`."""
    return path.removeprefix(f"{REPORTS}/")
