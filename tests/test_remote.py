"""Results through a remote: what one clone pushes another pulls, and it holds there."""

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
    """An S3 on this machine, with one bucket; its address."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


def other_clone(pipeline: Pipeline, folder: Path) -> Pipeline:
    """What a colleague gets from git alone."""
    pipeline.git("clone", "-q", str(pipeline.folder), str(folder))
    return Pipeline(folder)


def holds_after_pull(clone: Pipeline, made: Pipeline) -> None:
    clone.dvc("pull")
    assert clone.json("reports/metrics.json") == made.json("reports/metrics.json")
    assert clone.repro() == []
    synced = clone.run("cxr", "sync", "--json")
    assert synced.returncode == 0, synced.stderr
    # A run for each stage and model, and one for each baseline.
    assert len(json.loads(synced.stdout)["runs"]) == 6 + (3 + 2) + 3
    audited = clone.run("cxr", "audit")
    assert audited.returncode == 0, audited.stdout


def test_a_folder_as_remote(kept: Path, tmp_path: Path) -> None:
    made = Pipeline(kept).copy(tmp_path / "made")
    made.dvc("remote", "add", "--force", "--default", "lab", str(tmp_path / "remote"))
    made.dvc("push")
    made.git("commit", "-qam", "share")
    holds_after_pull(other_clone(made, tmp_path / "other"), made)


def test_s3_as_remote(kept: Path, tmp_path: Path, s3: str) -> None:
    made = Pipeline(kept).copy(tmp_path / "made")
    made.dvc("remote", "add", "--force", "--default", "lab", f"s3://{BUCKET}/cxr")
    made.dvc("remote", "modify", "lab", "endpointurl", s3)
    made.dvc("push")
    made.git("commit", "-qam", "share")
    holds_after_pull(other_clone(made, tmp_path / "other"), made)
    listed = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket=BUCKET)
    assert listed["KeyCount"] > 20
