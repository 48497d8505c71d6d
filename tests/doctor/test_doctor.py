"""Each check of `cxr doctor` reports the problem that it looks for."""

import errno
import fcntl
import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy

from cxr import doctor
from cxr.doctor import finding, machine, project, services
from cxr.doctor.context import Clone
from cxr.doctor.finding import MISSING, NOTE, OK, Finding

ROOT = Path(__file__).parents[2]
OFFLINE = {"data source", "weights"}  # checks that may fail without a network


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A git repository with a commit and the files that the checks read."""
    folder = tmp_path / "clone"
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    names = ("params.yaml", "dvc.yaml", "requirements.lock", "pyproject.toml", ".dvc/config")
    for name in names:
        shutil.copy2(ROOT / name, folder / name)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return Clone(folder)


def change(clone: Clone, name: str, old: str, new: str) -> None:
    path = clone.root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def run_check(check: Callable[[Clone], Finding], clone: Clone, verdict: str) -> Finding:
    """Run a check, which must return this verdict; a problem has a fix, and OK has none."""
    answer = check(clone)
    assert answer.verdict == verdict, answer
    if verdict == MISSING:
        assert answer.fix
    if verdict == OK:
        assert not answer.fix
    return answer


def finding_of(clone: Clone, check: str) -> Finding:
    """A check's finding as it is printed, also if the check raises."""
    return doctor._finding(check, Clone(clone.root))


def test_an_old_python_is_a_problem(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    run_check(machine.python, clone, OK)
    monkeypatch.setattr(machine.sys, "version_info", (3, 9, 2))
    answer = run_check(machine.python, clone, MISSING)
    assert answer.found.startswith("3.9.2 ") and "3.11 or newer" in answer.found


def test_the_minimum_python_is_that_of_pyproject_toml() -> None:
    minimum = ".".join(map(str, machine.MIN_PYTHON))
    assert f'requires-python = ">={minimum}"' in (ROOT / "pyproject.toml").read_text()


def test_python_without_the_venv_module_is_a_problem(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert "venv" in run_check(machine.python, clone, MISSING).found
    (clone.root / ".venv").mkdir()
    run_check(machine.python, clone, OK)


def test_a_package_whose_version_differs_from_the_lock_file_is_named(clone: Clone) -> None:
    here = metadata.version("numpy")
    change(clone, "requirements.lock", f"numpy=={here} ", "numpy==0.0.1 ")
    answer = run_check(machine.packages, clone, NOTE)
    assert f"numpy is {here}, not 0.0.1" in answer.found
    assert answer.fix == "make setup"
    (clone.root / ".venv").mkdir()
    (clone.root / ".venv" / ".ready").touch()
    assert machine.packages(clone).fix == "make --always-make setup"


def test_a_missing_package_that_the_code_imports_is_a_problem(clone: Clone) -> None:
    change(clone, "pyproject.toml", '"torch>=', '"no.such_package>=')
    change(clone, "requirements.lock", "torch==", "no-such-package==")
    assert "no-such-package" in run_check(machine.packages, clone, MISSING).found


def test_a_package_for_another_platform_is_ignored(clone: Clone) -> None:
    before = machine.packages(clone)
    with open(clone.root / "requirements.lock", "a") as file:
        file.write("no-such-package==1.0 ; sys_platform == 'win32' \\\n")
    assert machine.packages(clone) == before


def test_without_any_package_the_fix_is_make_setup(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    answer = run_check(machine.packages, clone, MISSING)
    assert (answer.found, answer.fix) == ("not installed", "make setup")


@pytest.mark.parametrize(("free", "verdict"), [(1e9, MISSING), (7e9, MISSING), (9e9, OK)])
def test_free_disk_space_is_compared_with_the_readme(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, free: float, verdict: str
) -> None:
    """`make setup` and ChestMNIST at 28 px need 8 GB."""
    monkeypatch.setattr(machine.sys, "prefix", machine.sys.base_prefix)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert f"{free / 1e9:.1f} GB free" in run_check(machine.disk, clone, verdict).found


def test_too_little_memory_is_a_problem(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory_limit", lambda: float("inf"))
    monkeypatch.setattr(machine, "MIN_MEMORY", 1.0)
    run_check(machine.memory, clone, OK)
    monkeypatch.setattr(machine, "MIN_MEMORY", 1e18)
    run_check(machine.memory, clone, MISSING)


def test_the_memory_limit_of_a_container_counts(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_memory_limit", lambda: 1.5e9)
    assert "1.5 GB of 1.5 GB" in run_check(machine.memory, clone, MISSING).found


def test_more_threads_than_cores_is_a_note(clone: Clone) -> None:
    change(clone, "params.yaml", "threads: 2 ", "threads: 999 ")
    answer = run_check(machine.cores, Clone(clone.root), NOTE)
    assert "threads: 999" in answer.found
    assert f"threads={len(os.sched_getaffinity(0))} " in answer.fix


@pytest.mark.parametrize(
    ("torch", "verdict", "says"),
    [
        ("print(True)", OK, "torch can use it"),
        ("print(False)", NOTE, "torch.cuda.is_available() is False"),
        ("import no_such_torch", NOTE, "No module named 'no_such_torch'"),
    ],
)
def test_whether_torch_can_use_the_gpu_is_reported(
    clone: Clone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch: str,
    verdict: str,
    says: str,
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\n[ "$1" = --query-gpu=name ] && echo "NVIDIA H100"\n')
    smi.chmod(0o755)
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(smi))
    monkeypatch.setattr(machine, "ASK_TORCH", torch)
    answer = run_check(machine.gpu, clone, verdict)
    assert answer.found.startswith("NVIDIA H100; ") and says in answer.found


def test_the_question_to_torch_runs() -> None:
    done = subprocess.run([sys.executable, "-c", machine.ASK_TORCH], capture_output=True, text=True)
    assert done.stdout.strip() in ("True", "False"), done.stderr


def test_a_failing_driver_is_a_note(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    smi.chmod(0o755)
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(smi))
    assert "NVIDIA-SMI has failed" in run_check(machine.gpu, clone, NOTE).found


def test_a_user_without_a_passwd_entry_needs_home_and_user(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with an arbitrary user id, asked as the libraries do."""
    run_check(machine.user, clone, OK)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    answer = run_check(machine.user, clone, MISSING)
    assert answer.fix == "export HOME=/tmp USER=cxr"
    monkeypatch.setenv("HOME", "/")
    assert run_check(machine.user, clone, MISSING).fix == "export USER=cxr"
    monkeypatch.setenv("USER", "x")
    run_check(machine.user, clone, OK)


def test_missing_git_repository_or_commit_is_a_problem(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "at commit" in run_check(project.git_history, clone, OK).found
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "not a git repository" in run_check(project.git_history, Clone(empty), MISSING).found
    subprocess.run(["git", "init", "-q"], cwd=empty, check=True)
    assert "has no commit yet" in run_check(project.git_history, Clone(empty), MISSING).found
    monkeypatch.setattr(project.shutil, "which", lambda name: None)
    assert "not installed" in run_check(project.git_history, clone, MISSING).found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed: 0", "seed: zero", "seed is 'zero'"),
        ("seed: 0", "seed: [0", "is not valid YAML"),
        ("threads:", "thread:", "did you mean `threads`?"),
    ],
)
def test_a_problem_in_params_yaml_is_reported(clone: Clone, old: str, new: str, says: str) -> None:
    run_check(project.parameters, clone, OK)
    change(clone, "params.yaml", old, new)
    answer = run_check(project.parameters, clone, MISSING)
    assert says in f"{answer.found}; {answer.fix}"


def test_a_damaged_dvc_lock_or_dvc_yaml_is_reported(clone: Clone) -> None:
    assert "11 stages" in run_check(project.pipeline, clone, OK).found
    (clone.root / "dvc.lock").write_text("schema: '2.0'\nstages: 5\n")
    answer = finding_of(clone, "pipeline")
    assert "dvc.lock is damaged" in answer.found and "or delete it" in answer.fix
    (clone.root / "dvc.yaml").write_text("stages: [1]\n")
    assert "is not a valid pipeline" in finding_of(clone, "pipeline").found


def test_the_fix_for_windows_line_endings_keeps_edits(clone: Clone) -> None:
    dvc_yaml = clone.root / "dvc.yaml"
    committed = dvc_yaml.read_bytes()
    dvc_yaml.write_bytes(committed.replace(b"\n", b"\r\n"))
    (clone.root / "src").mkdir()
    (clone.root / "stages").mkdir()
    answer = run_check(project.pipeline, clone, MISSING)
    assert "dvc.yaml: Windows line endings, unlike in the commit;" in answer.found
    subprocess.run(["bash", "-c", answer.fix], cwd=clone.root, check=True)
    assert dvc_yaml.read_bytes() == committed
    run_check(project.pipeline, clone, OK)


def test_external_files_named_in_params_yaml_must_exist(clone: Clone, tmp_path: Path) -> None:
    run_check(project.own_files, clone, OK)
    file = tmp_path / "images.npz"
    change(clone, "params.yaml", "path: null ", f"path: {file} ")
    run_check(project.own_files, Clone(clone.root), OK)  # `source` does not read a file
    change(clone, "params.yaml", "source: medmnist ", "source: file ")
    answer = finding_of(clone, "own files")
    assert answer.found.startswith(f"download.path: {file} does not exist")
    change(clone, "params.yaml", f"path: {file} ", "path: ~nosuchuser/x.npz ")
    assert "~nosuchuser" in finding_of(clone, "own files").found
    change(clone, "params.yaml", "path: ~nosuchuser/x.npz ", f"path: {file} ")
    file.touch()
    assert str(file) in run_check(project.own_files, Clone(clone.root), OK).found
    boxes = "{nih: {path: none.csv}, rsna: {path: none.csv}}"
    change(clone, "params.yaml", "boxes: {} ", f"boxes: {boxes} ")
    answer = finding_of(clone, "own files")
    assert answer.found.startswith(f"gradcam.boxes.nih.path: {clone.root / 'none.csv'} does not")
    (clone.root / "none.csv").touch()
    found = run_check(project.own_files, Clone(clone.root), OK).found
    assert "gradcam.boxes.nih.path is" in found and "gradcam.boxes.rsna.path is" in found


def test_a_read_only_cache_or_damaged_configuration_is_a_problem(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(clone.root / ".dvc/cache") == run_check(project.cache, clone, OK).found
    monkeypatch.setattr(project.os, "access", lambda path, mode: False)
    assert "can't be written" in run_check(project.cache, clone, MISSING).found
    (clone.root / ".dvc" / "config").write_text("[core\n")
    answer = finding_of(clone, "cache")
    assert "can't be read" in answer.found and "config.local" in answer.fix


@pytest.mark.parametrize("name", ["/x/bin/dvc", "stages/train.py"])
def test_running_stages_and_dvc_commands_are_listed(clone: Clone, name: str) -> None:
    run_check(project.locks, clone, OK)
    with sleeping(name, clone.root.parent), sleeping("another", clone.root):
        run_check(project.locks, clone, OK)
    with sleeping(name, clone.root) as process:
        answer = run_check(project.locks, clone, NOTE)
    assert f"process {process.pid} (" in answer.found and name in answer.found


def test_without_file_locks_the_fix_is_dvcs_hardlink_lock(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    answer = run_check(project.locks, clone, MISSING)
    lock = clone.root / ".dvc/tmp/lock"
    assert answer.fix == f"dvc config --local core.hardlink_lock true && rm -f {lock}"
    (clone.root / ".dvc" / "config.local").write_text("[core]\n    hardlink_lock = true\n")
    assert "cxr sweep" in run_check(project.locks, clone, NOTE).found
    with sleeping("dvc", clone.root):
        assert "running in this clone" in run_check(project.locks, clone, NOTE).found


def test_queued_and_failed_experiments_are_counted(clone: Clone) -> None:
    run_check(project.queue, clone, OK)
    stash(clone, project.QUEUED)
    assert run_check(project.queue, clone, NOTE).fix == "dvc queue start"
    stash(clone, project.FAILED)
    answer = run_check(project.queue, clone, NOTE)
    assert answer.found == "failed experiments: 1, queued or running: 1"


def test_the_refs_of_the_queue_are_those_of_dvc() -> None:
    from dvc.repo.experiments.refs import CELERY_FAILED_STASH, CELERY_STASH

    assert (project.QUEUED, project.FAILED) == (CELERY_STASH, CELERY_FAILED_STASH)


def test_a_refused_connection_is_a_problem(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}/x"
    monkeypatch.setattr("cxr.data.source.URLS", {28: nowhere})
    monkeypatch.setattr(services, "WEIGHTS_URL", nowhere)
    monkeypatch.setenv("TORCH_HOME", str(clone.root / "none"))
    for check in (services.data_source, services.weights):
        answer = run_check(check, clone, MISSING)
        assert "127.0.0.1" in answer.found and "Connection refused" in answer.found


def test_downloaded_data_needs_no_network(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}/x"
    monkeypatch.setattr("cxr.data.source.URLS", {28: nowhere})
    monkeypatch.setattr(services, "WEIGHTS_URL", nowhere)
    (clone.root / "data" / "raw").mkdir(parents=True)
    (clone.root / "data" / "raw" / "chest.npz").touch()
    assert (
        "not needed because data/raw exists" in run_check(services.data_source, clone, NOTE).found
    )
    (clone.root / "data" / "features").mkdir()
    assert "not needed" in run_check(services.weights, clone, NOTE).found


def test_a_source_other_than_medmnist_needs_no_network(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr.data.source.URLS", {28: f"http://127.0.0.1:{closed_port()}/x"})
    change(clone, "params.yaml", "source: medmnist ", "source: phantom ")
    found = run_check(services.data_source, Clone(clone.root), NOTE).found
    assert "not needed because download.source is phantom" in found


def test_a_server_that_does_not_respond_times_out(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        monkeypatch.setattr("cxr.data.source.URLS", {28: url})
        assert "127.0.0.1" in run_check(services.data_source, clone, MISSING).found


def test_the_url_of_the_weights_is_that_of_torchvision() -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    assert SqueezeNet1_1_Weights.IMAGENET1K_V1.url == services.WEIGHTS_URL


def test_a_store_that_does_not_exist_yet_is_ok(clone: Clone) -> None:
    assert "the first stage creates" in run_check(services.store, clone, OK).found


def test_a_store_must_be_writable(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(clone.root / "mlflow.db") as base:
        base.execute("CREATE TABLE runs (run_uuid TEXT)")
    base.close()
    run_check(services.store, clone, OK)
    monkeypatch.setattr(services.os, "access", lambda path, mode: False)
    answer = run_check(services.store, clone, MISSING)
    assert answer.fix.startswith(f"chmod u+w {clone.root / 'mlflow.db'}")


def test_a_folder_as_mlflows_store_is_refused(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("./mlruns", "/srv/mlruns", "file:///srv/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        answer = finding_of(clone, "mlflow")
        assert folder in answer.found and "sqlite:///FILE" in answer.fix


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_store_is_a_problem(clone: Clone, content: bytes) -> None:
    (clone.root / "mlflow.db").write_bytes(content)
    answer = finding_of(clone, "mlflow")
    assert answer.verdict == MISSING and "cxr sync" in answer.fix


def test_an_unreachable_mlflow_server_is_a_problem(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answer = finding_of(clone, "mlflow")
    assert uri in answer.found and "no server answers there" in answer.found
    assert "unset MLFLOW_TRACKING_URI" in answer.fix


class Guarded(BaseHTTPRequestHandler):
    """Answers requests with the right user name and password."""

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.send_response(200 if sent == f"Basic {b64encode(b'me:secret').decode()}" else 401)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_password_in_the_url_is_used_but_not_printed(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}"
        )
        run_check(services.store, clone, OK)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
            assert "401" in finding_of(clone, "mlflow").found
        printed = run(clone, "doctor", "--json").stdout + run(clone, "doctor").stdout
        server.shutdown()
    assert printed.count(f"http://me:***@127.0.0.1:{server.server_port}") == 2
    assert "secret" not in printed


def test_a_missing_database_driver_is_a_problem(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+nodriver://u:secret@127.0.0.1:1/x")
    error = ModuleNotFoundError("No module named 'nodriver'")
    monkeypatch.setattr(sqlalchemy, "create_engine", raising(error))
    answer = finding_of(clone, "mlflow")
    assert "No module named 'nodriver'" in answer.found and "driver" in answer.fix


def test_a_database_must_accept_a_connection(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With sqlite in place of a database server."""
    uri = "postgresql://u:secret@db.example.org/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    engine = sqlalchemy.create_engine
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda asked: engine("sqlite:////no/where/x"))
    answer = finding_of(clone, "mlflow")
    assert "unable to open database file" in answer.found
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda asked: engine("sqlite://"))
    run_check(services.store, clone, OK)
    finding.print_findings([answer])
    assert "secret" not in capsys.readouterr().out


def test_a_port_in_use_is_a_note(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(services, "UI_PORT", taken.getsockname()[1])
        run_check(services.port, clone, NOTE)
    run_check(services.port, clone, OK)


def test_json_has_every_check_and_the_status_is_1_for_a_problem(clone: Clone) -> None:
    done = run(clone, "doctor", "--json")
    report = json.loads(done.stdout)
    checks = {each["check"]: each for each in report["checks"]}
    assert list(checks) == list(doctor.CHECKS)
    for each in checks.values():
        assert each.keys() == {"check", "verdict", "found", "try"}
        assert each["verdict"] in (OK, NOTE, MISSING)
    worst = {each["verdict"] for each in checks.values()}
    assert report["verdict"] == next(v for v in (MISSING, NOTE, OK) if v in worst)
    assert done.returncode == int(MISSING in worst)
    assert {name for name, each in checks.items() if each["verdict"] == MISSING} <= OFFLINE


def test_each_check_prints_one_line(clone: Clone) -> None:
    change(clone, "params.yaml", "seed: 0", "seed: zero")
    done = run(clone, "doctor")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    marked = [line for line in lines if line[0] in "✓!✗"]
    assert len(marked) == len(doctor.CHECKS)
    (line,) = [line for line in marked if "seed is 'zero'" in line]
    assert line.startswith("✗ params ")
    after = lines[lines.index(line) + 1]
    assert after.strip() == "try: edit params.yaml, or git checkout -- params.yaml"
    assert lines[-1].endswith("to fix")
    quiet = run(clone, "--quiet", "doctor")
    assert "✓" not in quiet.stdout and "✗ params" in quiet.stdout


def test_it_works_without_packages_git_and_parameters(tmp_path: Path) -> None:
    """Each check prints a finding, and there is no traceback."""
    (tmp_path / "dvc.yaml").write_text("stages: [")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); sys.argv = ['doctor']\n"
         "import runpy; runpy.run_module('cxr.doctor', run_name='__main__')"],
        cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert not done.stderr
    assert sum(line[0] in "✓!✗" for line in done.stdout.splitlines()) == len(doctor.CHECKS)
    assert "not checked: package " in done.stdout
    assert "✗ git " in done.stdout


@pytest.mark.parametrize("command", [["cxr", "doctor"], ["python", "-m", "cxr.doctor"]])
def test_marks_are_escaped_on_an_ascii_terminal(clone: Clone, command: list[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        cwd=clone.root, env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert not done.stderr
    assert "\\u2713 python " in done.stdout


def test_an_exception_in_one_check_does_not_stop_the_others(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(clone: Clone) -> Finding:
        raise RuntimeError("unexpected")

    monkeypatch.setitem(doctor.CHECKS, "disk", broken)
    found = {each.check: each for each in doctor.examine(clone.root)}
    assert found["disk"].found == "not checked: RuntimeError: unexpected"
    assert len(found) == len(doctor.CHECKS)


def test_names_of_checks_fit_their_column() -> None:
    assert max(map(len, doctor.CHECKS)) < finding.WIDTH


def run(clone: Clone, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "cxr", *arguments],
        cwd=clone.root, capture_output=True, text=True,
    )  # fmt: skip


@contextmanager
def sleeping(name: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with this name in its command line."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, name]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # until then its command line is that of this process
        yield process


def raising(error: Exception) -> Callable[..., None]:
    def raises(*_: object) -> None:
        raise error

    return raises


def stash(clone: Clone, ref: str) -> None:
    """Add an entry to a git stash, in which DVC stores its queue."""
    subprocess.run(
        ["git", "update-ref", "--create-reflog", "-m", "task", ref, "HEAD"],
        cwd=clone.root, check=True,
        env=os.environ | {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"},
    )  # fmt: skip
