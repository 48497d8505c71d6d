"""Sweeps on a Ray cluster of several nodes, with a stage that takes moments."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
import ray_cluster
import toy
from pipeline import Pipeline
from ray_cluster import ADDRESS, Cluster, Node

from cxr.documents import read_json
from cxr.lineage.repository import Repository
from cxr.sweep import results

REASON = ray_cluster.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

AS_NUMPY_9 = "numpy-9.9.9.dist-info"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, list[Node]]]:
    """Two nodes with one CPU each."""
    with ray_cluster.cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster, [cluster.add_node(), cluster.add_node()]


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    return toy.create(tmp_path / "p")


def start(
    cluster: Cluster, project: Pipeline, *arguments: str, on: str = ADDRESS
) -> subprocess.Popen[str]:
    """Start a sweep on the cluster: seconds, seeds, rates."""
    return subprocess.Popen(
        [*cluster.inside, *toy.command(project, on, "0", *arguments)], text=True,
        env=toy.environment(project) | cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(
    cluster: Cluster, project: Pipeline, *arguments: str, on: str = ADDRESS
) -> subprocess.CompletedProcess[str]:
    with start(cluster, project, *arguments, on=on) as process:
        printed, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, printed, errors)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(project: Pipeline) -> list[str]:
    return sorted(name for name, _ in Repository(project.folder).experiments())


def count(node: Node, note: str) -> int:
    """How often the experiments of a node noted this."""
    return sum(lines.count(note) for lines in toy.notes(node.folder).values())


def test_two_nodes_give_the_results_of_this_machine(
    nodes: tuple[Cluster, list[Node]], project: Pipeline, tmp_path: Path
) -> None:
    cluster, (first, second) = nodes
    done = run(cluster, project, "0", "2", "0.1", "-0.2", "0.3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert names(project) == ["toy-0_1-s0", "toy-0_1-s1", "toy-0_3-s0", "toy-0_3-s1"]
    assert count(first, "done") >= 1 and count(second, "done") >= 1
    assert count(first, "done") + count(second, "done") == 4
    here = toy.create(tmp_path / "here")
    command = toy.command(here, "local", "2", "0", "2", "0.1", "-0.2", "0.3")
    subprocess.run(command, env=toy.environment(here), capture_output=True, check=False)
    assert project.json("reports/sweeps/toy.json") == here.json("reports/sweeps/toy.json")
    project.dvc("exp", "apply", "toy-0_3-s1")
    assert project.json("reports/metrics.json")["models"]["cnn"]["val"]["macro_auroc"] == 0.31
    seen = read_json(project.folder / "reports/seen.json")
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["CXR_JOB"].startswith("ray ")
    log = (project.folder / results.log_of("toy", "toy--0_2-s0")).read_text()
    assert "evaluate: the rate is negative" in log


def test_ctrl_c_stops_every_node_within_ten_seconds_and_the_same_command_resumes(
    nodes: tuple[Cluster, list[Node]], project: Pipeline
) -> None:
    cluster, both = nodes
    before = sum(count(node, "interrupted") for node in both)
    with start(cluster, project, "4", "1", "0.11", "0.12", "0.13") as process:
        wait_until(lambda: len(names(project)) >= 1 and len(_running(both, "toy-0_1")) >= 1)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        printed, errors = process.communicate()
    assert time.monotonic() - sent < 10
    assert process.returncode == 130, errors
    assert printed.splitlines()[-1] == "sweep: stopped; run the same command again to resume"
    assert sum(count(node, "interrupted") for node in both) > before
    done = names(project)
    assert len(done) < 3
    again = run(cluster, project, "4", "1", "0.11", "0.12", "0.13")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count(" done: ") == 3 - len(done)


def test_a_killed_worker_and_a_killed_sweep_lose_nothing(
    nodes: tuple[Cluster, list[Node]], project: Pipeline
) -> None:
    cluster, both = nodes
    with start(cluster, project, "12", "1", "0.21", "0.22") as process:
        wait_until(lambda: len(_running(both, "toy-0_2")) == 2)
        os.kill(ray_cluster.workers(both[1].folder)[0], signal.SIGKILL)
        wait_until(lambda: len(_running(both, "toy-0_2")) == 2 and count(both[1], "interrupted"))
        process.kill()
        printed, _ = process.communicate()
    assert printed.count("is lost (") == 1
    assert names(project) == []
    again = run(cluster, project, "12", "1", "0.21", "0.22")
    assert again.returncode == 0, again.stdout + again.stderr
    assert names(project) == ["toy-0_21-s0", "toy-0_22-s0"]


def test_a_request_that_cannot_be_met_is_refused_with_what_there_is(
    nodes: tuple[Cluster, list[Node]], project: Pipeline
) -> None:
    cluster, _ = nodes
    for on, error in {
        "127.0.0.1:1": "no Ray cluster answers ([Errno 111] Connection refused)",
        "nowhere": "is none of local, auto and HOST:PORT",
        f"{ADDRESS} cpus=3": "no node has 3 CPUs and 0 GPUs for an experiment; the cluster has ",
        f"{ADDRESS} gpus=0.5": "no node has 1 CPU and 0.5 GPUs for an experiment; the cluster has ",
    }.items():
        done = run(cluster, project, "0", "1", "0.1", on=on)
        assert done.returncode == 2, done.stdout + done.stderr
        assert error in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert names(project) == []


def test_nodes_that_differ_or_lack_the_cache_and_a_node_that_is_lost(
    project: Pipeline, tmp_path: Path
) -> None:
    """One cluster for three things, since each node takes seconds to start."""
    (tmp_path / "other" / AS_NUMPY_9).mkdir(parents=True)
    (tmp_path / "other" / AS_NUMPY_9 / "METADATA").write_text("Name: numpy\nVersion: 9.9.9\n")
    cache = Repository(project.folder).cache
    cache.mkdir(parents=True)
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(cache)]
    with ray_cluster.cluster(tmp_path / "cluster") as cluster:
        head = cluster.add_node(cpus=1, inside=hidden)
        other = cluster.add_node(env={"PYTHONPATH": str(tmp_path / "other")})
        refused = run(cluster, project, "0", "1", "0.1")
        assert refused.returncode == 2
        assert f"can't see DVC's cache {cache}; share that folder" in refused.stderr
        project.dvc("remote", "add", "--local", "--default", "store", str(tmp_path / "remote"))

        done = run(cluster, project, "0", "1", "0.1", "0.2")
        assert done.returncode == 0, done.stdout + done.stderr
        numpy = metadata.version("numpy")
        assert f"is not used: its numpy is 9.9.9, not {numpy}" in done.stdout
        assert count(other, "started") == 0 and count(head, "done") == 2
        project.dvc("exp", "apply", "toy-0_2-s0")  # with files that came from the remote
        assert project.json("reports/metrics.json")["models"]["cnn"]["val"]["macro_auroc"] == 0.2

        third = cluster.add_node()
        with start(cluster, project, "6", "1", "0.3", "0.4", "0.5") as process:
            wait_until(lambda: count(third, "started") == 1)
            third.kill()
            printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, printed + errors
        assert "runs again" in printed
        assert count(third, "done") == 0 and count(head, "done") == 5

        with start(cluster, project, "30", "1", "0.6") as process:
            wait_until(lambda: count(head, "started") == 6)
            head.kill()
            printed, errors = process.communicate(timeout=60)
        assert process.returncode == 2, printed + errors
        assert errors.startswith("cxr: every node of the cluster is lost; start it again, and run")
        assert len(errors.splitlines()) == 1


def test_a_wrong_token_is_refused(project: Pipeline, tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(f"{name}-token-of-more-than-32-characters")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "right")}
    with ray_cluster.cluster(tmp_path / "cluster") as cluster:
        cluster.add_node(env=token)
        cluster.env = token | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
        wrong = run(cluster, project, "0", "1", "0.1")
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
        assert "token" in wrong.stderr
        assert "wrong-token" not in wrong.stderr
        assert len(wrong.stderr.splitlines()) == 1
        cluster.env = token
        assert run(cluster, project, "0", "1", "0.1").returncode == 0


def _running(both: list[Node], prefix: str) -> list[str]:
    """The experiments whose last note on any node is that they started."""
    return [
        name
        for node in both
        for name, lines in toy.notes(node.folder).items()
        if name.startswith(prefix) and lines[-1] == "started"
    ]
