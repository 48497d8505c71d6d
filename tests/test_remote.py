"""Results pushed to a DVC remote by one clone hold in another clone that pulls them."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pipeline import Pipeline

pytestmark = pytest.mark.slow

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "lab"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an S3 server with one bucket on this machine; yield its URL."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def clone_of(pipeline: Pipeline, folder: Path) -> Pipeline:
    pipeline.git("clone", "-q", str(pipeline.folder), str(folder))
    return Pipeline(folder)


def check_that_results_hold_after_pull(clone: Pipeline, original: Pipeline) -> None:
    clone.dvc("pull")
    assert clone.json("reports/metrics.json") == original.json("reports/metrics.json")
    assert clone.repro() == []
    synced = clone.run("cxr", "sync", "--json")
    assert synced.returncode == 0, synced.stderr
    # Each stage has a run, and each model and baseline of evaluate.
    assert len(json.loads(synced.stdout)["runs"]) == 11 + (3 + 3)
    audited = clone.run("cxr", "audit")
    assert audited.returncode == 0, audited.stdout


def test_results_hold_after_pull_from_a_folder(kept: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(kept).copy(tmp_path / "made")
    pipeline.dvc("remote", "add", "--force", "--default", "lab", str(tmp_path / "remote"))
    pipeline.dvc("push")
    pipeline.git("commit", "-qam", "share")
    check_that_results_hold_after_pull(clone_of(pipeline, tmp_path / "other"), pipeline)


def test_results_hold_after_pull_from_s3(kept: Path, tmp_path: Path, s3: str) -> None:
    pipeline = Pipeline(kept).copy(tmp_path / "made")
    pipeline.dvc("remote", "add", "--force", "--default", "lab", f"s3://{BUCKET}/cxr")
    pipeline.dvc("remote", "modify", "lab", "endpointurl", s3)
    pipeline.dvc("push")
    pipeline.git("commit", "-qam", "share")
    check_that_results_hold_after_pull(clone_of(pipeline, tmp_path / "other"), pipeline)
    listed = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)
    assert listed["KeyCount"] > 20
