"""Eight queued DVC experiments, two at a time, while another process reads the store."""

import collections
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from pipeline import create

from cxr.lineage.records import EXPERIMENT_TAG, WORKSPACE
from faults import crowd

EXPERIMENTS, WORKERS = 8, 2


@dataclass(frozen=True)
class Outcome:
    """What the experiments, their MLflow runs and the audit came to."""

    succeeded: int
    errors: list[str]  # of the reader
    runs: dict[str, int]  # number by name, over all experiments
    memberships: dict[str, int]  # number of experiments in the tags of those runs
    unfinished: int  # runs
    audit_status: int

    @property
    def as_expected(self) -> bool:
        """Each experiment logged what depends on it, and shares the other models' evaluations."""
        own = ("train-squeezenet", "evaluate", "evaluate-squeezenet", "maps-squeezenet", "gradcam")
        others = ("cnn", "vit", "attributes-only", "all-negative", "prevalence")
        runs = dict.fromkeys(own, EXPERIMENTS)
        shared = {f"evaluate-{name}": 1 for name in others}
        memberships = dict.fromkeys((*runs, *shared), EXPERIMENTS)
        return self == Outcome(EXPERIMENTS, [], runs | shared, memberships, 0, 0)


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
    runs, memberships = collections.Counter[str](), collections.Counter[str]()
    unfinished = 0
    for run in store.search_runs(ids):
        named = run.data.tags.get(EXPERIMENT_TAG, WORKSPACE).split(", ")
        if n_experiments := sum(name != WORKSPACE for name in named):
            name = run.info.run_name.partition(" (")[0]
            runs[name] += 1
            memberships[name] += n_experiments
            unfinished += run.info.status != "FINISHED"
    return Outcome(
        status.count("Success"),
        errors,
        dict(runs),
        dict(memberships),
        unfinished,
        pipeline.run("cxr", "audit").returncode,
    )
