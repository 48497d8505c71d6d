"""Eight queued experiments, two at a time, while somebody reads the store."""

import collections
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from pipeline import create

from faults import crowd

EXPERIMENTS, WORKERS = 8, 2


@dataclass(frozen=True)
class Outcome:
    """What became of the experiments and their runs."""

    succeeded: int
    errors: list[str]  # of the reader
    runs: dict[str, int]  # of all experiments together, by stage
    unfinished: int
    status_of_audit: int

    @property
    def holds(self) -> bool:
        """Each experiment has its training, its five evaluations and its three maps; once."""
        expected = {"train-squeezenet": 1, "evaluate": 5, "gradcam": 3}
        return self == Outcome(
            EXPERIMENTS, [], {stage: n * EXPERIMENTS for stage, n in expected.items()}, 0, 0
        )


def queued(folder: Path) -> Outcome:
    """Eight learning rates of one model."""
    pipeline = create(folder)
    pipeline.repro()
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "made")
    for n in range(EXPERIMENTS):
        rate = f"train.squeezenet.lr=0.00{n + 1}1"
        pipeline.dvc("exp", "run", "--queue", "-n", f"rate-{n}", "-S", rate)
    reader = crowd.start(crowd.READER, folder, "60")
    status = pipeline.run_queue(WORKERS)
    errors = crowd.ended([reader])
    store = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    runs = [r for r in store.search_runs(ids) if "cxr.experiment" in r.data.tags]
    return Outcome(
        status.count("Success"),
        errors,
        dict(collections.Counter(run.data.tags["cxr.stage"] for run in runs)),
        sum(run.info.status != "FINISHED" for run in runs),
        pipeline.run("cxr", "audit").returncode,
    )
