"""`cxr` at a terminal, in a pipe and in a shell: help, colours, --quiet, completion."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pipeline import COMMITTER, Pipeline

from cxr import cli, progress
from cxr.cli import completion

ROOT = Path(__file__).parents[2]
CXR = str(Path(sys.executable).parent / "cxr")
WIDTH = 80
COMMANDS = sorted(each.name or each.callback.__name__ for each in cli.app.registered_commands)
WITH_JSON = (
    "audit", "diff", "doctor", "predict", "replay", "report", "repro", "score", "sweep", "sync",
    "table",
)  # fmt: skip
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BOX = re.compile("[\u2500-\u257f]")


def piped(*arguments: str, folder: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CXR, *arguments], cwd=folder, env=os.environ | env, capture_output=True, text=True
    )


def at_a_terminal(*command: str, **variables: str) -> str:
    """The output of a command on a terminal of 80 columns."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    unset = ("NO_COLOR", "COLUMNS", "CXR_QUIET")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= {"TERM": "xterm-256color"} | variables
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(master, 4096):
            output += chunk
    except OSError:  # the command has closed the terminal
        pass
    os.close(master)
    process.wait()
    return output.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_a_pipe_is_plain_text_with_an_example(command: str) -> None:
    done = piped(command, "--help", COLUMNS=str(WIDTH))
    assert done.returncode == 0
    assert f"Example: cxr {command}" in done.stdout or f"&& cxr {command}" in done.stdout
    assert "\x1b" not in done.stdout
    assert not BOX.search(done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)])
def test_help_at_a_terminal_fits_its_width(arguments: tuple[str, ...]) -> None:
    output = at_a_terminal(CXR, *arguments, "--help")
    assert "\x1b[" in output and BOX.search(output)
    lines = ESCAPES.sub("", output).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any("Example: cxr" in line or "&& cxr" in line for line in lines)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_with_no_color_or_a_dumb_terminal(env: dict[str, str]) -> None:
    assert "\x1b" not in at_a_terminal(CXR, "--help", **env)
    code = "from cxr.cli.terminal import console; console.print('[bold red]x[/] y')"
    assert at_a_terminal(sys.executable, "-c", code, **env) == "x y\r\n"
    assert "\x1b" in at_a_terminal(sys.executable, "-c", code)


def test_help_lists_every_command_by_panel() -> None:
    assert {each.rich_help_panel for each in cli.app.registered_commands} <= set(completion.PANELS)
    lines = piped("--help").stdout.splitlines()
    titles = [
        line.removesuffix(":") for line in lines if line.removesuffix(":") in completion.PANELS
    ]
    assert titles == list(completion.PANELS)
    listed = [line.split()[0] for line in lines if re.match(r"  \w+ ", line)]
    assert sorted(name for name in listed if name in COMMANDS) == COMMANDS
    assert not any(line.endswith("...") for line in lines[1:]), "truncated"


def test_every_command_with_json_is_tested_here() -> None:
    with_json = [command for command in COMMANDS if "--json" in piped(command, "--help").stdout]
    assert with_json == list(WITH_JSON)


def complete(clone: Path, *words: str) -> list[str]:
    """Bash's completions of the last word, with the script that `--show-completion` prints."""
    script = f"""
        eval "$(_CXR_COMPLETE=source_bash cxr)"
        COMP_WORDS=({" ".join(f"'{word}'" for word in ("cxr", *words))})
        COMP_CWORD={len(words)}
        _cxr_completion cxr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = os.environ | {"PATH": f"{Path(CXR).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=env, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A minimal clone for completion: two models, a run, an experiment and a branch."""
    for model in ("cnn", "squeezenet"):
        (tmp_path / "models" / model).mkdir(parents=True)
        (tmp_path / "models" / model / "model.json").touch()
    (tmp_path / "records").mkdir()
    run = {"run_id": "abcd1234" + "0" * 24, "name": "train-cnn"}
    (tmp_path / "records" / "train-cnn.json").write_text(json.dumps({"runs": [run]}))
    (tmp_path / "records" / "broken.json").write_text("{")
    (tmp_path / "a folder").mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    env = os.environ | COMMITTER
    for command in (
        ["init", "-q", "-b", "trunk"], ["add", "dvc.yaml"], ["commit", "-qm", "start"],
        ["update-ref", f"refs/exps/ab/{'c' * 38}/wide-vit", "HEAD"],
        ["update-ref", "refs/exps/celery/stash", "HEAD"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=tmp_path, env=env, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pred"], ["predict"]),
        (["predict", "--model", "s"], ["squeezenet"]),
        (["predict", "--model", ""], ["cnn", "squeezenet"]),
        (["repro", "train-"], ["train-cnn", "train-squeezenet", "train-vit"]),
        (["replay", "ab"], ["abcd1234"]),
        (["diff", ""], ["abcd1234", "wide-vit", "trunk"]),
        (["audit", "mod"], ["models/"]),
        (["audit", "ab"], ["abcd1234"]),
    ],
)  # fmt: skip
def test_bash_completes(clone: Path, words: list[str], expected: list[str]) -> None:
    assert sorted(complete(clone, *words)) == sorted(expected)


def test_completion_outside_of_a_clone_is_empty(tmp_path: Path) -> None:
    for words in (["repro", ""], ["predict", "--model", ""], ["diff", "x"]):
        assert complete(tmp_path, *words) == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_is_printed(shell: str) -> None:
    done = piped(_CXR_COMPLETE=f"source_{shell}")
    assert f"_CXR_COMPLETE=complete_{shell}" in done.stdout


def test_quiet_hides_progress_and_notes_but_logs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for quiet in (False, True):
        if quiet:
            monkeypatch.setenv(progress.QUIET, "1")
        with progress.logged_to(tmp_path / "log.txt"):
            progress.say("said")
            progress.note("noted")
        out, err = capfd.readouterr()
        assert (out, err) == (("", "") if quiet else ("said\n", "noted\n"))
    assert (tmp_path / "log.txt").read_text().count("said") == 2


BAR = """
from cxr import progress
with progress.{of} as step:
    step({arguments})
print("done")
"""


@pytest.mark.parametrize(
    ("of", "arguments", "shows"),
    [("bar('work')", "3, 12", "3/12"), ("steps('work', 12)", "", "1/12")],
)
def test_progress_bars_are_drawn_only_at_terminals_without_quiet(
    of: str, arguments: str, shows: str
) -> None:
    code = BAR.format(of=of, arguments=arguments)
    output = ESCAPES.sub("", at_a_terminal(sys.executable, "-c", code))
    assert "work" in output and shows in output
    assert max(map(len, re.split("[\r\n]+", output))) <= WIDTH
    assert at_a_terminal(sys.executable, "-c", code, CXR_QUIET="1") == "done\r\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_progress_bar_of_a_command_with_output_is_on_stderr() -> None:
    code = BAR.format(of="bar('work', progress.stderr_console)", arguments="3, 12")
    output = at_a_terminal("sh", "-c", '"$0" -c "$1" | tr d D', sys.executable, code)
    assert "3/12" in ESCAPES.sub("", output)
    assert output.endswith("Done\r\n")


def test_the_progress_bar_of_a_training_covers_all_epochs() -> None:
    from stages import train

    run = SimpleNamespace(
        log=SimpleNamespace(history=[{}, {}]),
        params=SimpleNamespace(train=SimpleNamespace(protocol=SimpleNamespace(epochs=20))),
    )
    calls: list[tuple[int, int]] = []
    advance = train.training_progress(run, lambda done, total: calls.append((done, total)))
    advance(5, 613)
    run.log.history.append({})
    advance(1, 613)
    assert calls == [(2 * 613 + 5, 20 * 613), (3 * 613 + 1, 20 * 613)]


def test_ui_prints_the_pages_of_a_tracking_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not start a second server, which could not read such a store."""
    from cxr.cli import share
    from cxr.tracking.store import Store
    from cxr.tracking.view import View

    store = SimpleNamespace(views=lambda: [View("phantom-28", "its models", "#/experiments/7")])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.lab:5000/")
    monkeypatch.setattr(share, "with_runs", lambda of_demo: tmp_path)
    monkeypatch.setattr(Store, "open", lambda folder: store)
    monkeypatch.setattr(os, "execv", lambda program, command: pytest.fail(f"ran {command}"))
    share.ui()
    lines = capsys.readouterr().out.splitlines()
    address = "http://me:***@mlflow.lab:5000/#/experiments"
    assert lines[0].startswith(address)
    assert lines[1:] == ["phantom-28, its models:", f"  {address}/7"]


@pytest.fixture(scope="module")
def made(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A finished pipeline, with predictions and an X-ray of a user."""
    pipeline = Pipeline(kept).copy(tmp_path_factory.mktemp("manners") / "p")
    rng = np.random.default_rng(0)
    np.savez(
        pipeline.folder / "theirs.npz",
        test_probs=rng.random((40, 14)), test_labels=rng.integers(0, 2, (40, 14)),
    )  # fmt: skip
    images = np.load(pipeline.folder / "data" / "processed" / "test_images.npy")
    Image.fromarray(images[0]).resize((64, 64)).save(pipeline.folder / "a.png")
    (pipeline.folder / "scans").mkdir()
    for i in range(8):
        Image.fromarray(images[i]).save(pipeline.folder / "scans" / f"{i}.png")
    rows = "".join(
        f"{i}.png,{i % 2},{split}\n"
        for i, split in enumerate(2 * ["train"] + 2 * ["val"] + 4 * ["test"])
    )
    (pipeline.folder / "labels.csv").write_text(f"file,edema,split\n{rows}")
    return pipeline


def arguments_of(command: str, made: Pipeline) -> list[str]:
    return {
        "diff": ["fast"],
        "predict": ["a.png", "--model", "cnn"],
        "replay": [made.run_id("download")],
        "score": ["theirs.npz", "--resamples", "100"],
        "sweep": ["-S", "train.cnn.lr=1e-3", "--dry-run"],
        "table": ["labels.csv", "--images", "scans"],
    }.get(command, [])


@pytest.mark.slow
@pytest.mark.parametrize("command", WITH_JSON)
def test_json_prints_one_document_and_nothing_else(command: str, made: Pipeline) -> None:
    done = made.run("cxr", command, *arguments_of(command, made), "--json")
    assert isinstance(json.loads(done.stdout), dict), done.stderr
    assert done.returncode == 0 or command == "doctor", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "repro", "replay", "sync"])
def test_quiet_prints_nothing_without_problems(command: str, made: Pipeline) -> None:
    loud = made.run("cxr", command, *arguments_of(command, made))
    assert loud.returncode == 0 and loud.stdout
    done = made.run("cxr", "--quiet", command, *arguments_of(command, made))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_quiet_prints_problems(made: Pipeline, tmp_path: Path) -> None:
    damaged = made.copy(tmp_path / "p")
    (damaged.folder / "reports" / "summary.json").write_text("{}")
    done = damaged.run("cxr", "--quiet", "audit")
    assert done.returncode == 1 and "reports/summary.json" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", WITH_JSON)
def test_output_in_a_pipe_has_no_escapes(command: str, made: Pipeline) -> None:
    done = made.run("cxr", command, *arguments_of(command, made))
    assert done.stdout and "\x1b" not in done.stdout + done.stderr
