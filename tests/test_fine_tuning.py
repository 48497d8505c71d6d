"""Training from the weights of a trained model: recorded, audited, compared and replayed."""

import shutil

import pytest
from pipeline import TINY, Pipeline, create

pytestmark = pytest.mark.slow

CHANGES = TINY | {"download.phantom.val": 300}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A CNN trained from random weights, and again from a copy of these weights."""
    clone = create(tmp_path_factory.mktemp("fine-tuning"), CHANGES)
    clone.dvc("repro", "train-cnn")
    shutil.copytree(clone.folder / "models/cnn", clone.folder.parent / "start")
    (clone.folder.parent / "first").write_text(clone.run_id("train-cnn"))
    clone.dvc("exp", "run", "train-cnn", "--name", "tuned", "-S", "train.cnn.init=../start")
    return clone


def test_the_record_names_the_weights_that_it_started_from(project: Pipeline) -> None:
    facts = project.json("records/train-cnn.json")["facts"]
    assert facts["params"]["train.cnn.init"] == "../start"
    start = project.folder.parent / "start"
    assert set(facts["foreign"]) == {str(start / "model.json"), str(start / "weights.safetensors")}
    assert project.json("models/cnn/model.json")["params"]["train"]["cnn"]["init"] == "../start"


def test_the_audit_follows_the_start(project: Pipeline) -> None:
    done = project.run("cxr", "audit", "models/cnn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "start/weights.safetensors, md5" in done.stdout


def test_the_diff_names_the_start(project: Pipeline) -> None:
    first = (project.folder.parent / "first").read_text()
    done = project.run("cxr", "diff", first, project.run_id("train-cnn"))
    assert "train.cnn.init" in done.stdout and "../start" in done.stdout


def test_a_replay_repeats_the_training_bit_for_bit(project: Pipeline) -> None:
    run = project.run_id("train-cnn")
    done = project.run("cxr", "replay", run)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_start_fails_the_audit_and_the_replay(project: Pipeline) -> None:
    weights = project.folder.parent / "start/weights.safetensors"
    content = weights.read_bytes()
    run = project.run_id("train-cnn")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        done = project.run("cxr", "audit", "models/cnn")
        assert done.returncode == 1
        assert "weights.safetensors has changed since this result was made" in done.stdout
        replayed = project.run("cxr", "replay", run)
        assert replayed.returncode != 0
        assert "weights.safetensors" in replayed.stdout + replayed.stderr
    finally:
        weights.write_bytes(content)


def test_a_start_that_does_not_fit_is_refused_in_one_line(project: Pipeline) -> None:
    done = project.run("dvc", "exp", "run", "train-vit", "-S", "train.vit.init=../start")
    assert done.returncode != 0
    printed = (done.stdout + done.stderr).splitlines()
    (line,) = [line for line in printed if "train.vit.init" in line and "fit" in line]
    assert line.endswith(
        "start does not fit: it is a cnn, not a vit; name a model of the same kind"
    )
