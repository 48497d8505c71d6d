"""Sweeps on a Ray cluster of several nodes, with a stage that takes moments.

The tests share one cluster, since each node takes seconds to start; the last ones break it.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import ray_cluster
import toy
from faults import sweeps
from pipeline import Pipeline
from ray_cluster import ADDRESS, Cluster, Node

from cxr.documents import read_json
from cxr.lineage.repository import Repository
from cxr.sweep import results

REASON = ray_cluster.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

AS_NUMPY_9 = "numpy-9.9.9.dist-info"
ENDLESS = "60"  # seconds of a stage that does not end during a test


@dataclass(frozen=True)
class Nodes:
    """Two nodes with one CPU each; the second has a small disk and does not see one cache."""

    cluster: Cluster
    first: Node
    second: Node
    hidden: Path  # the cache

    def count(self, note: str, prefix: str = "toy") -> int:
        """How often experiments noted this, on both nodes."""
        return sum(count(node, note, prefix) for node in (self.first, self.second))


def count(node: Node, note: str, prefix: str = "toy") -> int:
    noted = toy.notes(node.folder).items()
    return sum(lines.count(note) for name, lines in noted if name.startswith(prefix))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("cluster")
    hidden = folder / "hidden"
    with sweeps.small_disk(folder / "node-2"), ray_cluster.cluster(folder) as cluster:
        first = cluster.add_node()
        yield Nodes(cluster, first, cluster.add_node(inside=sweeps.without(hidden)), hidden)


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    """Its cache is seen by both nodes."""
    return toy.create(tmp_path / "p")


@pytest.fixture
def apart(project: Pipeline, nodes: Nodes) -> Pipeline:
    """Its cache is hidden from the second node."""
    project.dvc("cache", "dir", "--local", str(nodes.hidden))
    return project


def start(cluster: Cluster, project: Pipeline, *arguments: str, on: str = ADDRESS,
          **env: str) -> subprocess.Popen[str]:  # fmt: skip
    """Start a sweep on the cluster: seconds, seeds, rates."""
    return subprocess.Popen(
        [*cluster.inside, *toy.command(project, on, "0", *arguments)], text=True,
        env=toy.environment(project) | cluster.env | env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def run(
    nodes: Nodes, project: Pipeline, *arguments: str, on: str = ADDRESS, **env: str
) -> subprocess.CompletedProcess[str]:
    with start(nodes.cluster, project, *arguments, on=on, **env) as process:
        printed, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, printed, errors)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(project: Pipeline) -> list[str]:
    return sorted(name for name, _ in Repository(project.folder).experiments())


def test_two_nodes_give_the_results_of_this_machine(
    nodes: Nodes, project: Pipeline, tmp_path: Path
) -> None:
    done = run(nodes, project, "0", "2", "0.11", "-0.12")
    assert done.returncode == 1, done.stdout + done.stderr
    assert names(project) == ["toy-0_11-s0", "toy-0_11-s1"]
    assert count(nodes.first, "started") >= 1 and count(nodes.second, "started") >= 1
    assert nodes.count("done") == 2
    here = toy.create(tmp_path / "here")
    command = toy.command(here, "local", "2", "0", "2", "0.11", "-0.12")
    subprocess.run(command, env=toy.environment(here), capture_output=True, check=False)
    assert project.json("reports/sweeps/toy.json") == here.json("reports/sweeps/toy.json")
    project.dvc("exp", "apply", "toy-0_11-s1")
    assert project.json("reports/metrics.json")["models"]["cnn"]["val"]["macro_auroc"] == 0.12
    seen = read_json(project.folder / "reports/seen.json")
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["CXR_JOB"].startswith("ray ")
    log = (project.folder / results.log_of("toy", "toy--0_12-s0")).read_text()
    assert "evaluate: the rate is negative" in log


def test_ctrl_c_stops_every_node_within_ten_seconds_and_the_same_command_resumes(
    nodes: Nodes, project: Pipeline
) -> None:
    with start(nodes.cluster, project, ENDLESS, "1", "0.21", "0.22", "0.23") as process:
        wait_until(lambda: nodes.count("started", "toy-0_2") == 2)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        printed, errors = process.communicate()
    assert time.monotonic() - sent < 10
    assert process.returncode == 130, errors
    assert printed.splitlines()[-1] == "sweep: stopped; run the same command again to resume"
    assert nodes.count("interrupted", "toy-0_2") == 2
    again = run(nodes, project, "0", "1", "0.21", "0.22", "0.23")
    assert again.returncode == 0, again.stdout + again.stderr
    assert names(project) == ["toy-0_21-s0", "toy-0_22-s0", "toy-0_23-s0"]


def test_a_killed_worker_and_a_killed_sweep_lose_nothing(nodes: Nodes, project: Pipeline) -> None:
    with start(nodes.cluster, project, ENDLESS, "1", "0.31", "0.32") as process:
        wait_until(lambda: nodes.count("started", "toy-0_3") == 2)
        nodes.second.kill_worker()
        wait_until(lambda: nodes.count("started", "toy-0_3") == 3)
        process.kill()
        printed, _ = process.communicate()
    assert printed.count("is lost (") == 1
    assert nodes.count("interrupted", "toy-0_3") >= 1  # what the killed worker had left running
    assert names(project) == []
    again = run(nodes, project, "0", "1", "0.31", "0.32")
    assert again.returncode == 0, again.stdout + again.stderr
    assert names(project) == ["toy-0_31-s0", "toy-0_32-s0"]


def test_a_wrong_token_and_a_request_that_no_node_can_meet_are_refused(
    nodes: Nodes, project: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("wrong-token-of-more-than-32-characters")
    wrong = run(nodes, project, "0", "1", "0.1", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert f"--on {ADDRESS}: the cluster refuses the token" in wrong.stderr
    assert "wrong-token" not in wrong.stderr
    too_many = run(nodes, project, "0", "1", "0.1", on=f"{ADDRESS} cpus=3")
    assert "no node has 3 CPUs and 0 GPUs for an experiment; the cluster has " in too_many.stderr
    for done in (wrong, too_many):
        assert done.returncode == 2, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert names(project) == []


def test_a_node_that_does_not_see_the_cache_needs_a_remote_and_outlasts_its_outage(
    nodes: Nodes, apart: Pipeline
) -> None:
    refused = run(nodes, apart, "0", "1", "0.4")
    assert refused.returncode == 2
    assert f"can't see DVC's cache {nodes.hidden}; share that folder" in refused.stderr
    remote = sweeps.set_remote(apart)
    with start(nodes.cluster, apart, "2", "1", "0.41", "0.42") as process:
        wait_until(lambda: count(nodes.second, "started", "toy-0_4") == 1)
        sweeps.lose(remote, 5)
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, printed + errors
    assert count(nodes.second, "done", "toy-0_4") == 1
    (there,) = toy.notes(nodes.second.folder).keys() & {"toy-0_41-s0", "toy-0_42-s0"}
    apart.dvc("exp", "apply", there)  # with files that came from the remote
    auroc = {"toy-0_41-s0": 0.41, "toy-0_42-s0": 0.42}[there]
    assert apart.json("reports/metrics.json")["models"]["cnn"]["val"]["macro_auroc"] == auroc


def test_a_node_that_differs_is_named_and_one_with_a_full_disk_is_left(
    nodes: Nodes, project: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / AS_NUMPY_9).mkdir()
    (tmp_path / AS_NUMPY_9 / "METADATA").write_text("Name: numpy\nVersion: 9.9.9\n")
    other = nodes.cluster.add_node(env={"PYTHONPATH": str(tmp_path)})
    with start(nodes.cluster, project, "2", "1", "0.51", "0.52") as process:
        wait_until(lambda: count(nodes.second, "started", "toy-0_5") == 1)
        sweeps.fill_disk(nodes.second)
        printed, errors = process.communicate(timeout=120)
    (nodes.second.folder / "full").unlink()
    assert process.returncode == 0, printed + errors
    numpy = metadata.version("numpy")
    assert f"is not used: its numpy is 9.9.9, not {numpy}" in printed
    assert "is lost (no space left on device)" in printed
    assert names(project) == ["toy-0_51-s0", "toy-0_52-s0"]
    assert count(nodes.first, "done", "toy-0_5") == 2
    assert count(other, "started") == 0
    other.kill()


def test_a_lost_node_moves_its_experiment_and_a_lost_head_ends_in_one_line(
    nodes: Nodes, project: Pipeline
) -> None:
    with start(nodes.cluster, project, "2", "1", "0.61", "0.62") as process:
        wait_until(lambda: count(nodes.second, "started", "toy-0_6") == 1)
        nodes.second.kill()
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, printed + errors
    assert "runs again" in printed
    assert count(nodes.first, "done", "toy-0_6") == 2

    with start(nodes.cluster, project, ENDLESS, "1", "0.7") as process:
        wait_until(lambda: count(nodes.first, "started", "toy-0_7") == 1)
        nodes.first.kill()
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 2, printed + errors
    assert errors.startswith("cxr: every node of the cluster is lost; start it again, and run")
    assert len(errors.splitlines()) == 1
