"""Errors of the disk or a path are reported in one line; other errors are bugs."""

import errno
import os
import resource
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from pipeline import ROOT

from cxr import cli
from cxr.errors import CxrError, is_refused_by_disk, one_line, shown
from cxr.pipeline.scratch import Scratch


def system_error(code: int, *name: str) -> OSError:
    return OSError(code, os.strerror(code), *name)


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO],
)
def test_disk_errors_are_recognized(code: int) -> None:
    assert is_refused_by_disk(system_error(code)) and is_refused_by_disk(system_error(code, "x"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(),
        OSError("No space left on device"),
        OSError("x: 5 requested and 3 written"),
        OSError("encoder error -2 when writing image file"),
        system_error(errno.ENOENT, "x"),
        system_error(errno.ECONNREFUSED),
        requests.ConnectionError(errno.EIO, "x"),
        ssl.SSLError(errno.EPERM, "certificate verify failed"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device")]),
    ],
    ids=repr,
)
def test_other_oserrors_of_libraries_are_not_disk_errors(error: OSError) -> None:
    assert not is_refused_by_disk(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_real_disk_errors_are_recognized() -> None:
    with pytest.raises(OSError) as ours, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert is_refused_by_disk(ours.value)
    with pytest.raises(OSError) as numpys, open("/dev/full", "wb") as file:
        np.arange(10**6).tofile(file)
    assert is_refused_by_disk(numpys.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  a cause\n[SQL: SELECT 1]\n"), "a cause"),
        (MemoryError(), "MemoryError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_an_exception_is_shown_as_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_errors_of_pillow_are_not_disk_errors(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    with pytest.raises(OSError) as cut:
        Image.open(tmp_path / "a.png").load()
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(OSError) as text:
        Image.open(tmp_path / "b.png")
    assert not is_refused_by_disk(cut.value) and not is_refused_by_disk(text.value)


def call(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(standalone_mode: bool) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    cli.main()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (system_error(errno.ENOSPC), "cxr: while writing: No space left on device"),
        (system_error(errno.ENAMETOOLONG, "xxx"), "cxr: xxx: File name too long"),
        (system_error(errno.ENOENT, "x.csv"), "cxr: x.csv: No such file or directory"),
    ],
)
def test_a_command_reports_a_disk_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, error)
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated"),
        requests.ConnectionError("no route"),
        system_error(errno.ENOENT),
        system_error(errno.ECONNRESET),
    ],
    ids=repr,
)
def test_a_bug_in_a_command_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    with pytest.raises(type(error)) as raised:
        call(monkeypatch, error)
    assert raised.value is error


def test_a_disk_full_while_publishing_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """shutil.copytree would raise shutil.Error instead."""
    (tmp_path / "s/outputs/data/deep").mkdir(parents=True)
    (tmp_path / "s/outputs/data/deep/a.npy").write_text("a")
    workspace = tmp_path / "w"
    workspace.mkdir()
    scratch = Scratch("download", tmp_path / "s", "attempt")
    scratch.publish(("data",), workspace)
    assert (workspace / "data/deep/a.npy").read_text() == "a"

    def refuse(*_: object) -> None:
        raise system_error(errno.ENOSPC)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(OSError) as raised:
        scratch.publish(("data",), workspace)
    assert is_refused_by_disk(raised.value) and not isinstance(raised.value, CxrError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at postgresql://u:secret@host/db: no", "at postgresql://u:***@host/db: no"),
        ("'http://u:s%40e@host:5000'", "'http://u:***@host:5000'"),
        ("mysql+pymysql://u:se@cr/et@host/x", "mysql+pymysql://u:***@host/x"),
        ("redis://:secret@host", "redis://:***@host"),
        ("a HTTP://U:secret@h and ftp://v:secret@i", "a HTTP://U:***@h and ftp://v:***@i"),
        ("http://host:5000/#/models", "http://host:5000/#/models"),
        ("models:/cxr-data@champion, http://h and me@mail", None),
    ],
)
def test_messages_contain_no_password(text: str, expected: str | None) -> None:
    assert shown(text) == (expected or text)
    assert str(CxrError(text)) == (expected or text)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libc10.so: cannot allocate memory in static TLS block"),
        system_error(errno.ENOMEM, "x"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=repr,
)
def test_out_of_memory_is_reported_in_one_line_with_status_2(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cxr"])
    monkeypatch.delenv("DVC_STAGE", raising=False)
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(type(error), error, None)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("cxr: out of memory") and line.count("\n") == 1
    assert str(error) in line and "ulimit -v" in line


def test_other_errors_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    sys.excepthook(ImportError, ImportError("No module named 'x'"), None)
    assert capsys.readouterr().err == "ImportError: No module named 'x'\n"


ADDRESS_SPACE = 1_000_000_000  # bytes; torch's libraries need more


@pytest.mark.parametrize(
    "command",
    [
        ["stages/evaluate.py"],
        ["stages/features.py"],
        ["stages/maps.py", "cnn"],
        ["stages/train.py", "cnn"],
        ["-c", "from cxr.cli import main; main()", "predict", "x.png", "--model", "cnn"],
    ],
    ids=lambda command: command[0] + command[-1],
)
def test_too_little_address_space_is_reported_in_one_line(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE,) * 2),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "out of memory: lib" in done.stderr


# A user id without a passwd entry, as in a container, with permission to read every file.
NOBODY = [
    "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]  # fmt: skip
CXR = ["-c", "from cxr.cli import main; main()"]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be another user"
)
@pytest.mark.parametrize(
    ("command", "env", "fix"),
    [
        (["stages/download.py"], {}, "export HOME=/tmp USER=cxr"),
        (["stages/train.py", "cnn"], {"USER": "x"}, "export HOME=/tmp"),
        ([*CXR, "repro"], {}, "export HOME=/tmp USER=cxr"),
        ([*CXR, "repro"], {"HOME": "/"}, "export USER=cxr"),
        ([*CXR, "sweep", "-S", "train.cnn.lr=0.1"], {"HOME": "/"}, "export USER=cxr"),
        ([*CXR, "audit", "reports/metrics.json"], {}, "export HOME=/tmp USER=cxr"),
    ],
)
def test_a_user_without_a_passwd_entry_gets_the_variables_to_set(
    command: list[str], env: dict[str, str], fix: str
) -> None:
    done = subprocess.run(
        [*NOBODY, sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env=env | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "user 12345 has no passwd entry" in line and line.endswith(f"run `{fix}`")
