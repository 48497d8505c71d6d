"""Invalid `cxr` commands: one line on stderr, exit status 2, no files changed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.text import Text
from valid import LOCK, MD5, ROOT, operating_point, record

from cxr import cli
from cxr.audit.finding import Finding, Verdict, Where
from cxr.cli import printing
from cxr.labels import CHESTMNIST
from cxr.models.inputs import InputSpec

Change = Callable[[Path], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone without results, with a file of predictions."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    rng = np.random.default_rng(0)
    np.savez(folder / "p.npz", test_probs=rng.random((40, 14)), test_labels=np.eye(40, 14))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All files except those of git and the lock that `sync` waits for."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".git", ".scratch"} & set(path.parts)
    }


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["cxr", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def write(path: str, text: str | bytes) -> Change:
    def change(folder: Path) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def nothing(folder: Path) -> None:
    pass


RECORD = json.dumps(record())
UP = LOCK.replace("path: data/raw", "path: ../../x")
BAD: dict[str, tuple[Change, list[str], str]] = {
    "an unknown command": (nothing, ["swoop"], "No such command 'swoop'"),
    "an unknown option": (nothing, ["audit", "--all"], "No such option"),
    "an option in two lines": (nothing, ["audit", "--a\nb\x1b[31m"], r"--a\x0ab\x1b[31m"),
    "two targets": (nothing, ["audit", "a", "b"], "unexpected extra argument"),
    "a port of 0": (nothing, ["ui", "--port", "0"], "--port"),
    "a port of a million": (nothing, ["ui", "--port", "1000000"], "--port"),
    "a port of words": (nothing, ["ui", "--port", "$(id)"], "--port"),
    "no runs to show": (nothing, ["ui"], "has no runs yet"),
    "no demo to show": (nothing, ["ui", "--demo"], "has no runs yet"),
    "no model to serve": (nothing, ["serve"], "has no runs yet"),
    "a lost database to show": (
        write("records/train-cnn.json", RECORD), ["ui"], "mlflow.db is missing; `cxr sync`"),
    "a lost database to serve": (
        write("records/train-cnn.json", RECORD), ["serve"], "mlflow.db is missing; `cxr sync`"),
    "a port to serve of words": (nothing, ["serve", "--port", "$(id)"], "--port"),
    "nothing made": (nothing, ["audit"], "has no results yet"),
    "a file outside": (nothing, ["audit", "../../etc/passwd"], "is not inside a clone"),
    "a file elsewhere": (nothing, ["audit", "/etc/passwd"], "is not inside a clone"),
    "a name of 5000": (nothing, ["audit", "a" * 5000], "nor a run id"),
    "a long name in a folder": (nothing, ["audit", "x/" + "y" * 5000], "is neither an output"),
    "a name that commands": (nothing, ["audit", "\x1b[2J\nok"], r"\x1b[2J\nok"),
    "a name of no bytes of UTF-8": (nothing, ["audit", "a\udcff"], r"a\udcff is neither an output"),
    "an empty name": (nothing, ["audit", ""], "is neither an output"),
    "a query for an id": (
        nothing, ["replay", "' OR 1=1 --"], "neither an existing file nor a run id"),
    "an id of three digits": (nothing, ["replay", "abc"], "neither an existing file nor a run id"),
    "an id of 33 digits": (nothing, ["replay", "a" * 33], "neither an existing file nor a run id"),
    "an unknown id": (nothing, ["replay", "abcd"], "no run abcd"),
    "an option for a revision": (nothing, ["diff", "--", "--output=x"], "--output=x is no"),
    "a path for a revision": (nothing, ["diff", "../../x"], "is not an experiment"),
    "a range of revisions": (nothing, ["diff", "HEAD..HEAD"], "is not an experiment"),
    "nothing to compare": (nothing, ["diff", "workspace"], "has no results yet"),
    "a lock file that leads out": (write("dvc.lock", UP), ["audit"], "leads out of the project"),
    "a lock file of bytes": (write("dvc.lock", b"\xff\xfe\0"), ["audit"], "dvc.lock is damaged"),
    "a record that leads out": (
        write("records/train-cnn.json", RECORD.replace("models/cnn", "../../x")), ["audit"],
        "leads out of the project"),
    "a record of another stage": (
        write("records/train-vit.json", RECORD), ["audit"], "is the record of train-cnn"),
    "a record without end": (
        write("records/train-cnn.json", "[" * 10**6), ["sync"], "is damaged"),
    "a record of a query": (
        write("records/train-cnn.json", RECORD.replace(MD5, "' OR 1=1 -- ")), ["sync"],
        "is damaged"),
    "a pipeline of a list": (write("dvc.yaml", "- a\n"), ["audit"], "must contain a mapping"),
    "a store that is text": (write("mlflow.db", "x" * 5000), ["sync"], "is damaged"),
    "no predictions": (nothing, ["score", "none.npz"], "none.npz does not exist"),
    "predictions that are a folder": (nothing, ["score", "."], "is a folder"),
    "predictions of words": (write("x.npz", "words"), ["score", "x.npz"], "is not an npz file"),
    "predictions named badly": (nothing, ["score", "\x1b[2J.csv"], r"\x1b[2J.csv does not exist"),
    "a split above": (nothing, ["score", "p.npz", "--split", "../x"], "has no `../x_logits`"),
    "a split above, compared": (
        nothing, ["score", "p.npz", "--split", "../x", "--compare"], "has no `../x_logits`"),
    "too few resamples": (nothing, ["score", "p.npz", "--resamples", "1"], "--resamples"),
    "too many resamples": (nothing, ["score", "p.npz", "--resamples", "100001"], "--resamples"),
    "resamples of words": (nothing, ["score", "p.npz", "--resamples", "many"], "--resamples"),
    "a seed below zero": (nothing, ["score", "p.npz", "--seed", "-1"], "--seed"),
    "nothing to compare with": (
        nothing, ["score", "p.npz", "--compare"], "has no results to compare with"),
    "labels that are none": (
        nothing, ["score", "p.npz", "--labels", "params.yaml"], "params.yaml"),
    "no model": (nothing, ["predict", "x.png"], "--model"),
    "a model that is not there": (
        nothing, ["predict", "x.png", "--model", "gru"], "model gru does not exist"),
    "a model above": (
        nothing, ["predict", "x.png", "--model", "../../x"], "model ../../x does not exist"),
    "a model by a bad address": (
        nothing, ["predict", "x.png", "--model", "models:/../../x"], "no MLflow store"),
    "a model of 5000 letters": (nothing, ["predict", "x.png", "--model", "x" * 5000], "too long"),
    "a model of brackets": (
        write("models/cnn/model.json", "[" * 10**5), ["predict", "x.png", "--model", "cnn"],
        "model.json is damaged"),
    "no image": (nothing, ["predict", "--model", "cnn"], "Missing argument"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "arguments", "words"), BAD.values(), ids=BAD)
def test_an_invalid_call_prints_one_line_and_exits_with_status_2(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: Change,
    arguments: list[str],
    words: str,
) -> None:
    change(project)
    before = content(project)
    status = call(monkeypatch, project, *arguments)
    output = capfd.readouterr()
    assert status == 2, output
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("cxr: ") and line.isprintable() and words in line
    assert content(project) == before


def test_an_unreadable_file_is_reported_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(project / "dvc.lock"))

    monkeypatch.setattr("cxr.lineage.repository.read_within", refuse)
    assert call(monkeypatch, project, "audit") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"cxr: {project}/dvc.lock: Permission denied"


def test_help_exits_with_status_0(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, project, "audit", "--help") == 0
    output = capfd.readouterr()
    assert "Usage" in output.out and output.err == ""


def test_a_closed_pipe_causes_no_traceback(project: Path) -> None:
    """For example `cxr score … | head`."""
    command = [sys.executable, "-c", "from cxr.cli import main; main()"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [*command, "--help"], cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert b"Traceback" not in running.stderr.read()


def test_each_malicious_image_gives_one_line_and_the_others_are_predicted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cxr import models, params

    block = params.load(ROOT / "params.yaml").train.block("cnn")
    hyper = models.hyper_parameters("cnn", block)
    spec = InputSpec(28, "bicubic", 28, 1, (0.5,), (0.2,))
    network = models.build("cnn", hyper, 28, 1, 14)
    used = {"train": {"cnn": hyper.model_dump(mode="json")}}
    models.save(models.SavedModel("cnn", network, spec, CHESTMNIST, used), project / "models/cnn")
    write("decisions/cnn.json", json.dumps(operating_point()))(project)
    scans = project / "scans"
    scans.mkdir()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(scans / "good.png")
    (scans / "a\nb\x1b[2J.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x7f\xff\xff\xffIHDR")
    (scans / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\0\1\0OB\0\0\xff\xff\xff\xff")
    (scans / "text.jpg").write_text("words")
    before = content(project)
    arguments = ["predict", "scans", "--model", "cnn", "--cam", "maps", "--csv", "t.csv"]
    assert call(monkeypatch, project, *arguments) == 2
    output = capfd.readouterr()
    lines = output.err.splitlines()
    assert lines[0] == "predict: found 1 DICOM, 2 PNG and 1 unknown"
    assert len(lines) == 4 and all(line.isprintable() for line in lines)
    assert output.out.startswith("scans/good.png: ")
    after = content(project)
    assert {name for name in after if name not in before} == {"maps/good.maps.png", "t.csv"}
    assert {name: after[name] for name in before} == before


HOSTILE = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "[bold red]x[/]",
    "a\rb",
    "\u202egnp",
    "\x9b31m",
    "\udcff",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_escape_sequence_in_a_name_reaches_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printing.console.print(Text(name))
    printing.console.print(
        printing._finding(Finding(Verdict.FAILS, Where.FILES, f"{name}\n✓ holds", f"rm {name}"))
    )
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert len(out.splitlines()) == 2
    if "[bold" in name:
        assert name in out
