"""This clone: git, parameters, pipeline, DVC's cache, locks and queue, the user's own files."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from cxr.doctor.context import Place, command_of
from cxr.doctor.finding import Answer, missing, note, ok, some
from cxr.errors import CxrError

SCRATCH = ".scratch"
QUEUED, FAILED = "refs/exps/celery/stash", "refs/exps/celery/failed"  # as DVC names them
MOST_SHOWN = 60  # characters of a command
# Parameters that can name a file of the user's, and the words that name none.
OWN_FILES = {
    "download.path": (),
    "train.squeezenet.weights": ("imagenet", "none"),
    "gradcam.boxes": (),
}


def git_history(place: Place) -> Answer:
    from cxr import git

    if shutil.which("git") is None:
        return missing("git is not installed", "apt-get install git")
    version = (git.ask(place.root, "--version") or "git").strip()
    if git.ask(place.root, "rev-parse", "--git-dir") is None:
        return missing(
            f"{place.root} is no git repository, which DVC needs",
            "git clone the project, or git init && git add -A && git commit -m start",
        )
    commit = git.ask(place.root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return missing(
            "a repository without a commit, which experiments start from",
            "git add -A && git commit -m start",
        )
    if git.ask(place.root, "cat-file", "-e", "HEAD:./dvc.yaml") is None:
        return missing(
            f"commit {commit[:10]} has no dvc.yaml in {place.root}",
            "git add -A && git commit -m start; if that adds nothing, a .gitignore in a parent "
            "folder excludes this one",
        )
    return ok(f"{version}, at commit {commit[:10]}")


def parameters(place: Place) -> Answer:
    from cxr.params import PARAMS_FILE, load

    try:
        params = load(place.root / PARAMS_FILE)
    except CxrError as error:
        return _refused(error, f"edit {PARAMS_FILE}, or git checkout -- {PARAMS_FILE}")
    return ok(f"{PARAMS_FILE} is valid; data from {params.download.source}")


def pipeline(place: Place) -> Answer:
    """dvc.yaml, and dvc.lock where there is one."""
    from cxr.lineage.facts import TO_LF, blobs_at, declarations, with_crlf
    from cxr.lineage.repository import Repository

    try:
        n_stages = len(declarations(place.root))
    except CxrError as error:
        return _refused(error)
    try:
        lock = Repository(place.root).lock()
    except CxrError as error:
        return _refused(error)
    if crlf := with_crlf(place.root, blobs_at(place.root, "HEAD")):
        return missing(
            f"Windows line endings, unlike the commit, in {some(crlf)}; every stage that reads "
            "them would run again",
            TO_LF,
        )
    return ok(f"dvc.yaml has {n_stages} stages, dvc.lock results of {len(lock)}")


def own_files(place: Place) -> Answer:
    """The user's own files that the parameters name."""
    from cxr.params import named_file

    found = []
    for name, words in OWN_FILES.items():
        value = place.param(name, "")
        if not value or value in words:
            continue
        if name == "download.path" and place.param("download.source", "") != "file":
            continue
        try:
            file = named_file(name, value, place.root)
        except CxrError as error:
            return missing(str(error), f"set {name} anew")
        if not os.access(file, os.R_OK):
            return missing(f"{name}: {file} can't be read", f"chmod u+r {shlex.quote(str(file))}")
        found.append(f"{name} is {file}")
    return ok("; ".join(found) or "the parameters name none")


def cache(place: Place) -> Answer:
    """Where DVC keeps what was made; whether it can be written, and how files get out of it."""
    from dvc.config import Config, ConfigError

    try:
        settings = Config(str(place.root / ".dvc"))["cache"]
    except ConfigError as error:
        return missing(
            f"DVC's settings can't be read: {error}", "fix .dvc/config or .dvc/config.local"
        )
    folder = Path(settings.get("dir") or place.root / ".dvc" / "cache")
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return missing(f"{nearest} can't be written", "dvc cache dir FOLDER names another cache")
    links = settings.get("type") or ["reflink", "copy"]  # DVC's own choice
    kinds = [links] if isinstance(links, str) else list(links)
    found = f"{folder}, files by {' or '.join(kinds)}"
    if os.geteuid() == 0 and {"hardlink", "symlink"} & set(kinds):
        return note(
            f"{found}; root can write through a link, which damages the cache",
            "dvc config cache.type reflink,copy, or work as another user",
        )
    return ok(found)


def locks(place: Place) -> Answer:
    """Whether files can be locked, who is at work here, and locks that outlive who held them.

    The system frees a lock on a file with the process that held it; what DVC writes down itself
    it may wait for, though nobody is there.
    """
    from cxr.locks import has_locks

    tmp = place.root / ".dvc" / "tmp"
    if not (can_lock := has_locks(place.root)) and not _locks_by_links(place.root):
        return missing(
            "the file system has no file locks, and DVC waits for one in vain",
            f"dvc config --local core.hardlink_lock true && rm -f {tmp / 'lock'}",
        )
    busy, are_left = [], False
    try:
        readers_and_writers = _in_rwlock(tmp / "rwlock")
    except (ValueError, TypeError, KeyError, AttributeError):
        return missing(f"{tmp / 'rwlock'} is damaged, and DVC refuses it", f"rm {tmp / 'rwlock'}")
    for pid in sorted(readers_and_writers):
        command = command_of(pid)
        if command is None:
            are_left = True
        elif "dvc" in command:
            busy.append((pid, command))
        else:  # its number is another program's now
            return missing(
                f"{tmp / 'rwlock'} waits for process {pid}, which is no DVC: {_end(command)}",
                f"rm {tmp / 'rwlock'}",
            )
    for file in [tmp / "lock", *sorted((place.root / SCRATCH).glob("*.lock*"))]:
        pid, is_whole_lock = _named_in(file)
        command = command_of(pid) if pid else None
        if command is not None and ("dvc" in command or "stages/" in command):
            busy.append((pid, command))
        elif is_whole_lock:
            return missing(f"{file} was left by process {pid}, which is gone", f"rm {file}")
    if not can_lock and (tmp / "lock").exists() and not _named_in(tmp / "lock")[1]:
        return missing(f"{tmp / 'lock'} is left from another kind of lock", f"rm {tmp / 'lock'}")
    if busy:
        them = ", ".join(f"process {pid} ({_end(command)})" for pid, command in dict(busy).items())
        return note(f"at work here: {them}", "wait for it, or end it with `kill`")
    if are_left:
        return note("DVC's list names processes that are gone; the next `dvc repro` clears it")
    if not can_lock:
        return note(
            "the file system has no file locks; all but `cxr sweep` works by links instead",
            "a clone on another disk for `cxr sweep`",
        )
    return ok("none is held")


def queue(place: Place) -> Answer:
    """DVC's queued experiments; read from git, since asking DVC takes a second."""
    n_failed, n_queued = (_entries(place.root, ref) for ref in (FAILED, QUEUED))
    if n_failed:
        return note(
            f"{n_failed} failed experiments, {n_queued} waiting",
            "dvc queue logs NAME says why; dvc queue remove --failed clears them",
        )
    if n_queued:
        return note(f"{n_queued} experiments wait or run", "dvc queue start")
    return ok("empty")


def _refused(error: CxrError, otherwise: str = "") -> Answer:
    """The problem and the fix of an error's sentence; `otherwise` is the fix where it has none."""
    problem, _, fix = str(error).partition("; ")
    return missing(problem, fix or otherwise)


def _end(command: str) -> str:
    """Of a long command, where it says what it does."""
    return command if len(command) <= MOST_SHOWN else f"…{command[-MOST_SHOWN:]}"


def _locks_by_links(root: Path) -> bool:
    """Whether DVC is set to do without file locks."""
    from dvc.config import Config

    return bool(Config(str(root / ".dvc"))["core"].get("hardlink_lock"))


def _in_rwlock(file: Path) -> set[int]:
    """The processes that DVC's list of readers and writers names."""
    try:
        held: dict[str, dict[str, Any]] = json.loads(file.read_text())
    except FileNotFoundError:
        return set()
    entries = [*held.get("write", {}).values()]
    entries += [each for readers in held.get("read", {}).values() for each in readers]
    return {int(each["pid"]) for each in entries if each}


def _named_in(file: Path) -> tuple[int, bool]:
    """The process that a lock's file names, 0 for none; whether the file by itself is the lock.

    With `core.hardlink_lock` DVC's own is: claim|host|process|number.
    """
    try:
        text = file.read_text()
        words = text.split("|")
        return int(words[-2] if len(words) > 2 else text.split()[0]), len(words) > 2
    except (OSError, ValueError, IndexError):
        return 0, False


def _entries(root: Path, ref: str) -> int:
    """How many a stash of git holds."""
    from cxr import git

    return len((git.ask(root, "reflog", "show", "--format=%H", ref) or "").split())
