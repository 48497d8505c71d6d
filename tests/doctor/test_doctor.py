"""Each check of `cxr doctor` is made to find what it looks for."""

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
OFFLINE = {"data source", "weights"}  # what a machine without a network may find


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """What the checks read of a project, in a git repository with a commit."""
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


def of(check: Callable[[Clone], Finding], clone: Clone, verdict: str) -> Finding:
    """A check's answer, which must have this verdict; something to do exactly where it may be."""
    answer = check(clone)
    assert answer.verdict == verdict, answer
    if verdict == MISSING:
        assert answer.fix
    if verdict == OK:
        assert not answer.fix
    return answer


def found(clone: Clone, check: str) -> Finding:
    """A check's finding as it is printed."""
    return doctor._finding(check, Clone(clone.root))


def test_python_of_before(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    of(machine.python, clone, OK)
    monkeypatch.setattr(machine.sys, "version_info", (3, 9, 2))
    answer = of(machine.python, clone, MISSING)
    assert answer.found.startswith("3.9.2 ") and "3.11 or newer" in answer.found


def test_least_python_is_the_projects() -> None:
    least = ".".join(map(str, machine.MIN_PYTHON))
    assert f'requires-python = ">={least}"' in (ROOT / "pyproject.toml").read_text()


def test_python_without_venv(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert "venv" in of(machine.python, clone, MISSING).found
    (clone.root / ".venv").mkdir()
    of(machine.python, clone, OK)


def test_a_version_that_differs_is_named(clone: Clone) -> None:
    here = metadata.version("numpy")
    change(clone, "requirements.lock", f"numpy=={here} ", "numpy==0.0.1 ")
    answer = of(machine.packages, clone, NOTE)
    assert f"numpy is {here}, not 0.0.1" in answer.found
    assert answer.fix == "make setup"
    (clone.root / ".venv").mkdir()
    (clone.root / ".venv" / ".ready").touch()
    assert machine.packages(clone).fix == "make --always-make setup"


def test_a_package_that_the_code_imports_is_missing(clone: Clone) -> None:
    change(clone, "pyproject.toml", '"torch>=', '"no.such_package>=')
    change(clone, "requirements.lock", "torch==", "no-such-package==")
    assert "no-such-package" in of(machine.packages, clone, MISSING).found


def test_a_package_of_another_machine_is_no_trouble(clone: Clone) -> None:
    before = machine.packages(clone)
    with open(clone.root / "requirements.lock", "a") as file:
        file.write("no-such-package==1.0 ; sys_platform == 'win32' \\\n")
    assert machine.packages(clone) == before


def test_no_package_at_all(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    answer = of(machine.packages, clone, MISSING)
    assert (answer.found, answer.fix) == ("not installed", "make setup")


@pytest.mark.parametrize(("free", "verdict"), [(1e9, MISSING), (7e9, MISSING), (9e9, OK)])
def test_disk_as_the_readme_says(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, free: float, verdict: str
) -> None:
    """`make setup` and ChestMNIST at 28 px need 8 GB."""
    monkeypatch.setattr(machine.sys, "prefix", machine.sys.base_prefix)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert f"{free / 1e9:.1f} GB free" in of(machine.disk, clone, verdict).found


def test_memory(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory_limit", lambda: float("inf"))
    monkeypatch.setattr(machine, "MIN_MEMORY", 1.0)
    of(machine.memory, clone, OK)
    monkeypatch.setattr(machine, "MIN_MEMORY", 1e18)
    of(machine.memory, clone, MISSING)


def test_a_container_has_less_memory(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory_limit", lambda: 1.5e9)
    assert "1.5 GB of 1.5 GB" in of(machine.memory, clone, MISSING).found


def test_more_threads_than_cores(clone: Clone) -> None:
    change(clone, "params.yaml", "threads: 2 ", "threads: 999 ")
    answer = of(machine.cores, Clone(clone.root), NOTE)
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
def test_a_gpu_and_whether_torch_can_use_it(
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
    answer = of(machine.gpu, clone, verdict)
    assert answer.found.startswith("NVIDIA H100; ") and says in answer.found


def test_torch_is_asked_what_training_asks() -> None:
    done = subprocess.run([sys.executable, "-c", machine.ASK_TORCH], capture_output=True, text=True)
    assert done.stdout.strip() in ("True", "False"), done.stderr


def test_a_driver_that_fails(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    smi.chmod(0o755)
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(smi))
    assert "NVIDIA-SMI has failed" in of(machine.gpu, clone, NOTE).found


def test_a_user_without_a_passwd_entry(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any id; by the libraries' own questions."""
    of(machine.user, clone, OK)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    answer = of(machine.user, clone, MISSING)
    assert answer.fix == "export HOME=/tmp USER=cxr"
    monkeypatch.setenv("HOME", "/")
    assert of(machine.user, clone, MISSING).fix == "export USER=cxr"
    monkeypatch.setenv("USER", "x")
    of(machine.user, clone, OK)


def test_git(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "at commit" in of(project.git_history, clone, OK).found
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "not a git repository" in of(project.git_history, Clone(empty), MISSING).found
    subprocess.run(["git", "init", "-q"], cwd=empty, check=True)
    assert "has no commit yet" in of(project.git_history, Clone(empty), MISSING).found
    monkeypatch.setattr(project.shutil, "which", lambda name: None)
    assert "not installed" in of(project.git_history, clone, MISSING).found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed: 0", "seed: zero", "seed is 'zero'"),
        ("seed: 0", "seed: [0", "is not valid YAML"),
        ("threads:", "thread:", "did you mean `threads`?"),
    ],
)
def test_parameters(clone: Clone, old: str, new: str, says: str) -> None:
    of(project.parameters, clone, OK)
    change(clone, "params.yaml", old, new)
    answer = of(project.parameters, clone, MISSING)
    assert says in f"{answer.found}; {answer.fix}"


def test_pipeline(clone: Clone) -> None:
    assert "8 stages" in of(project.pipeline, clone, OK).found
    (clone.root / "dvc.lock").write_text("schema: '2.0'\nstages: 5\n")
    answer = found(clone, "pipeline")
    assert "dvc.lock is damaged" in answer.found and "or delete it" in answer.fix
    (clone.root / "dvc.yaml").write_text("stages: [1]\n")
    assert "is not a valid pipeline" in found(clone, "pipeline").found


def test_windows_line_endings_and_a_fix_that_keeps_edits(clone: Clone) -> None:
    dvc_yaml = clone.root / "dvc.yaml"
    committed = dvc_yaml.read_bytes()
    dvc_yaml.write_bytes(committed.replace(b"\n", b"\r\n"))
    (clone.root / "src").mkdir()
    (clone.root / "stages").mkdir()
    answer = of(project.pipeline, clone, MISSING)
    assert "dvc.yaml: Windows line endings, unlike in the commit;" in answer.found
    subprocess.run(["bash", "-c", answer.fix], cwd=clone.root, check=True)
    assert dvc_yaml.read_bytes() == committed
    of(project.pipeline, clone, OK)


def test_own_files(clone: Clone, tmp_path: Path) -> None:
    of(project.own_files, clone, OK)
    file = tmp_path / "images.npz"
    change(clone, "params.yaml", "path: null ", f"path: {file} ")
    of(project.own_files, Clone(clone.root), OK)  # `source` asks for no file
    change(clone, "params.yaml", "source: medmnist ", "source: file ")
    answer = found(clone, "own files")
    assert answer.found.startswith(f"download.path: {file} does not exist")
    change(clone, "params.yaml", f"path: {file} ", "path: ~nosuchuser/x.npz ")
    assert "~nosuchuser" in found(clone, "own files").found
    change(clone, "params.yaml", "path: ~nosuchuser/x.npz ", f"path: {file} ")
    file.touch()
    assert str(file) in of(project.own_files, Clone(clone.root), OK).found


def test_cache(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(clone.root / ".dvc/cache") == of(project.cache, clone, OK).found
    monkeypatch.setattr(project.os, "access", lambda path, mode: False)
    assert "can't be written" in of(project.cache, clone, MISSING).found
    (clone.root / ".dvc" / "config").write_text("[core\n")
    answer = found(clone, "cache")
    assert "can't be read" in answer.found and "config.local" in answer.fix


@pytest.mark.parametrize("name", ["/x/bin/dvc", "stages/train.py"])
def test_who_is_at_work(clone: Clone, name: str) -> None:
    of(project.locks, clone, OK)
    with sleeping(name, clone.root.parent), sleeping("another", clone.root):
        of(project.locks, clone, OK)
    with sleeping(name, clone.root) as process:
        answer = of(project.locks, clone, NOTE)
    assert f"process {process.pid} (" in answer.found and name in answer.found


def test_a_file_system_without_locks(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's own remedy."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    answer = of(project.locks, clone, MISSING)
    lock = clone.root / ".dvc/tmp/lock"
    assert answer.fix == f"dvc config --local core.hardlink_lock true && rm -f {lock}"
    (clone.root / ".dvc" / "config.local").write_text("[core]\n    hardlink_lock = true\n")
    assert "cxr sweep" in of(project.locks, clone, NOTE).found
    with sleeping("dvc", clone.root):
        assert "running in this clone" in of(project.locks, clone, NOTE).found


def test_a_queue_with_failures(clone: Clone) -> None:
    of(project.queue, clone, OK)
    stash(clone, project.QUEUED)
    assert of(project.queue, clone, NOTE).fix == "dvc queue start"
    stash(clone, project.FAILED)
    answer = of(project.queue, clone, NOTE)
    assert answer.found == "failed experiments: 1, queued or running: 1"


def test_the_queues_names_are_dvcs() -> None:
    from dvc.repo.experiments.refs import CELERY_FAILED_STASH, CELERY_STASH

    assert (project.QUEUED, project.FAILED) == (CELERY_STASH, CELERY_FAILED_STASH)


def test_a_refused_connection(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}/x"
    monkeypatch.setattr("cxr.data.source.URLS", {28: nowhere})
    monkeypatch.setattr(services, "WEIGHTS_URL", nowhere)
    monkeypatch.setenv("TORCH_HOME", str(clone.root / "none"))
    for check in (services.data_source, services.weights):
        answer = of(check, clone, MISSING)
        assert "127.0.0.1" in answer.found and "Connection refused" in answer.found


def test_what_is_here_needs_no_network(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}/x"
    monkeypatch.setattr("cxr.data.source.URLS", {28: nowhere})
    monkeypatch.setattr(services, "WEIGHTS_URL", nowhere)
    (clone.root / "data" / "raw").mkdir(parents=True)
    (clone.root / "data" / "raw" / "chest.npz").touch()
    assert "not needed because data/raw exists" in of(services.data_source, clone, NOTE).found
    (clone.root / "data" / "features").mkdir()
    assert "not needed" in of(services.weights, clone, NOTE).found


def test_another_source_needs_no_network(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr.data.source.URLS", {28: f"http://127.0.0.1:{closed_port()}/x"})
    change(clone, "params.yaml", "source: medmnist ", "source: phantom ")
    found = of(services.data_source, Clone(clone.root), NOTE).found
    assert "not needed because download.source is phantom" in found


def test_a_server_that_never_answers(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        monkeypatch.setattr("cxr.data.source.URLS", {28: url})
        assert "127.0.0.1" in of(services.data_source, clone, MISSING).found


def test_the_weights_are_torchvisions() -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    assert SqueezeNet1_1_Weights.IMAGENET1K_V1.url == services.WEIGHTS_URL


def test_the_store_that_is_not_there_yet(clone: Clone) -> None:
    assert "the first stage creates" in of(services.store, clone, OK).found


def test_a_store(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(clone.root / "mlflow.db") as base:
        base.execute("CREATE TABLE runs (run_uuid TEXT)")
    base.close()
    of(services.store, clone, OK)
    monkeypatch.setattr(services.os, "access", lambda path, mode: False)
    answer = of(services.store, clone, MISSING)
    assert answer.fix.startswith(f"chmod u+w {clone.root / 'mlflow.db'}")


def test_a_folder_as_mlflows_store(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("./mlruns", "/srv/mlruns", "file:///srv/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        answer = found(clone, "mlflow")
        assert folder in answer.found and "sqlite:///FILE" in answer.fix


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_store(clone: Clone, content: bytes) -> None:
    (clone.root / "mlflow.db").write_bytes(content)
    answer = found(clone, "mlflow")
    assert answer.verdict == MISSING and "cxr sync" in answer.fix


def test_a_server_that_is_gone(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answer = found(clone, "mlflow")
    assert uri in answer.found and "no server answers there" in answer.found
    assert "unset MLFLOW_TRACKING_URI" in answer.fix


class Guarded(BaseHTTPRequestHandler):
    """Answers whoever sends name and password."""

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.send_response(200 if sent == f"Basic {b64encode(b'me:secret').decode()}" else 401)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_that_asks_for_a_password(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}"
        )
        of(services.store, clone, OK)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
            assert "401" in found(clone, "mlflow").found
        told = run(clone, "doctor", "--json").stdout + run(clone, "doctor").stdout
        server.shutdown()
    assert told.count(f"http://me:***@127.0.0.1:{server.server_port}") == 2
    assert "secret" not in told


def test_a_database_whose_driver_is_not_installed(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+nodriver://u:secret@127.0.0.1:1/x")
    error = ModuleNotFoundError("No module named 'nodriver'")
    monkeypatch.setattr(sqlalchemy, "create_engine", raising(error))
    answer = found(clone, "mlflow")
    assert "No module named 'nodriver'" in answer.found and "driver" in answer.fix


def test_a_database_that_refuses_and_one_that_answers(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """sqlalchemy's own sqlite, whose address stands for a server's."""
    uri = "postgresql://u:secret@db.example.org/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    engine = sqlalchemy.create_engine
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda asked: engine("sqlite:////no/where/x"))
    answer = found(clone, "mlflow")
    assert "unable to open database file" in answer.found
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda asked: engine("sqlite://"))
    of(services.store, clone, OK)
    finding.print_findings([answer])
    assert "secret" not in capsys.readouterr().out


def test_a_port_in_use(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(services, "UI_PORT", taken.getsockname()[1])
        of(services.port, clone, NOTE)
    of(services.port, clone, OK)


def test_json_and_status(clone: Clone) -> None:
    done = run(clone, "doctor", "--json")
    told = json.loads(done.stdout)
    checks = {each["check"]: each for each in told["checks"]}
    assert list(checks) == list(doctor.CHECKS)
    for each in checks.values():
        assert each.keys() == {"check", "verdict", "found", "try"}
        assert each["verdict"] in (OK, NOTE, MISSING)
    worst = {each["verdict"] for each in checks.values()}
    assert told["verdict"] == next(v for v in (MISSING, NOTE, OK) if v in worst)
    assert done.returncode == int(MISSING in worst)
    assert {name for name, each in checks.items() if each["verdict"] == MISSING} <= OFFLINE


def test_a_line_a_check(clone: Clone) -> None:
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


def test_it_works_with_hardly_anything(tmp_path: Path) -> None:
    """No package, no git, no parameters: a finding each, and no traceback."""
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
def test_a_terminal_that_knows_few_characters(clone: Clone, command: list[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        cwd=clone.root, env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert not done.stderr
    assert "\\u2713 python " in done.stdout


def test_a_check_that_breaks_stops_no_other(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(clone: Clone) -> Finding:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setitem(doctor.CHECKS, "disk", broken)
    found = {each.check: each for each in doctor.examine(clone.root)}
    assert found["disk"].found == "not checked: RuntimeError: nobody thought of this"
    assert len(found) == len(doctor.CHECKS)


def test_names_fit_their_column() -> None:
    assert max(map(len, doctor.CHECKS)) < finding.WIDTH


def run(clone: Clone, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "cxr", *arguments],
        cwd=clone.root, capture_output=True, text=True,
    )  # fmt: skip


@contextmanager
def sleeping(name: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with these words in its command."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, name]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs: before that its command is this one's
        yield process


def raising(error: Exception) -> Callable[..., None]:
    def raises(*_: object) -> None:
        raise error

    return raises


def stash(clone: Clone, ref: str) -> None:
    """An entry of a stash, as DVC keeps its queue."""
    subprocess.run(
        ["git", "update-ref", "--create-reflog", "-m", "task", ref, "HEAD"],
        cwd=clone.root, check=True,
        env=os.environ | {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"},
    )  # fmt: skip
