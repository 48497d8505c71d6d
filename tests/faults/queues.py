"""Eight queued DVC experiments, two at a time, while another process reads the store."""

import collections
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from pipeline import create

from faults import crowd

EXPERIMENTS, WORKERS = 8, 2


@dataclass(frozen=True)
class Outcome:
    """What the experiments, their MLflow runs and the audit came to."""

    succeeded: int
    errors: list[str]  # of the reader
    runs: dict[str, int]  # number by stage, over all experiments
    unfinished: int  # runs
    audit_status: int

    @property
    def as_expected(self) -> bool:
        """Each experiment logged one training, five evaluations and three Grad-CAM runs."""
        expected = {"train-squeezenet": 1, "evaluate": 5, "gradcam": 3}
        return self == Outcome(
            EXPERIMENTS, [], {stage: n * EXPERIMENTS for stage, n in expected.items()}, 0, 0
        )


def run_experiments(folder: Path) -> Outcome:
    """Queue and run eight learning rates of one model."""
    pipeline = create(folder)
    pipeline.repro()
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "made")
    for n in range(EXPERIMENTS):
        lr = f"train.squeezenet.lr=0.00{n + 1}1"
        pipeline.dvc("exp", "run", "--queue", "-n", f"lr-{n}", "-S", lr)
    reader = crowd.start(crowd.READER, folder, "60")
    status = pipeline.run_queue(WORKERS)
    errors = crowd.wait_for_errors([reader])
    store = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in store.search_experiments()]
    runs = [run for run in store.search_runs(ids) if "cxr.experiment" in run.data.tags]
    return Outcome(
        status.count("Success"),
        errors,
        dict(collections.Counter(run.data.tags["cxr.stage"] for run in runs)),
        sum(run.info.status != "FINISHED" for run in runs),
        pipeline.run("cxr", "audit").returncode,
    )
