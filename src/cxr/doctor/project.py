"""Checks of this clone: git, parameters, pipeline, external files, DVC's cache, locks and queue."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from cxr.doctor.context import Clone
from cxr.doctor.finding import Finding, missing, note, ok, some

QUEUED, FAILED = "refs/exps/celery/stash", "refs/exps/celery/failed"  # as DVC names them
MOST_SHOWN = 60  # characters of a command line
# Parameters that can name an external file, `*` for any name, and their values that name none.
OWN_FILES = {
    "download.path": (),
    "train.squeezenet.weights": ("imagenet", "none"),
    "evaluate.references.*.path": (),
    "gradcam.boxes.*.path": (),
}


def git_history(clone: Clone) -> Finding:
    from cxr import git

    commit_all = "git add -A && git commit -m start"
    if shutil.which("git") is None:
        return missing("git is not installed", "apt-get install git")
    if git.ask(clone.root, "rev-parse", "--git-dir") is None:
        return missing(
            f"{clone.root} is not a git repository, which DVC needs",
            f"git clone the project, or git init && {commit_all}",
        )
    commit = git.ask(clone.root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return missing("the repository has no commit yet, but experiments need one", commit_all)
    if git.ask(clone.root, "cat-file", "-e", "HEAD:./dvc.yaml") is None:
        return missing(
            f"commit {commit[:10]} has no dvc.yaml in {clone.root}",
            f"{commit_all}; if that adds nothing, a .gitignore in a parent folder excludes this "
            "one",
        )
    return ok(f"at commit {commit[:10]}")


def parameters(clone: Clone) -> Finding:
    from cxr.errors import CxrError
    from cxr.params import load
    from cxr.paths import PARAMS_FILE

    try:
        params = load(clone.root / PARAMS_FILE)
    except CxrError as error:
        problem, _, fix = str(error).partition("; ")
        if not fix or fix.startswith("expected "):
            problem, fix = str(error), f"edit {PARAMS_FILE}, or git checkout -- {PARAMS_FILE}"
        return missing(problem, fix)
    return ok(f"{PARAMS_FILE} is valid; data from {params.download.source}")


def pipeline(clone: Clone) -> Finding:
    """Check dvc.yaml, and dvc.lock if it exists."""
    from cxr.lineage.facts import TO_LF, blobs_at, declarations, with_crlf
    from cxr.lineage.repository import Repository

    n_stages, lock = len(declarations(clone.root)), Repository(clone.root).lock()
    if crlf := with_crlf(clone.root, blobs_at(clone.root, "HEAD")):
        return missing(
            f"{some(crlf)}: Windows line endings, unlike in the commit; every stage that reads "
            "these files would run again",
            TO_LF,
        )
    return ok(f"{n_stages} stages in dvc.yaml, {len(lock)} with results in dvc.lock")


def own_files(clone: Clone) -> Finding:
    """Check the user's own files that params.yaml names."""
    from cxr.params import named_file

    files = []
    for pattern, keywords in OWN_FILES.items():
        for name in clone.params_like(pattern):
            value = clone.param(name, "")
            if not value or value in keywords:
                continue
            reads_path = clone.param("download.source", "") in ("file", "table")
            if name == "download.path" and not reads_path:
                continue
            file = named_file(name, value, clone.root)
            if not os.access(file, os.R_OK):
                return missing(
                    f"{name}: {file} can't be read", f"chmod u+r {shlex.quote(str(file))}"
                )
            files.append(f"{name} is {file}")
    return ok("; ".join(files) or "params.yaml names no files of your own")


def cache(clone: Clone) -> Finding:
    from cxr.lineage.repository import Repository

    folder = Repository(clone.root).cache
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return missing(f"{nearest} can't be written to", "use another folder: dvc cache dir FOLDER")
    return ok(str(folder))


def locks(clone: Clone) -> Finding:
    """Check file locks, and list the stages and DVC commands running in this clone."""
    from dvc.config import Config

    from cxr.locks import has_locks

    can_lock = has_locks(clone.root)
    if not can_lock and not Config(str(clone.root / ".dvc"))["core"].get("hardlink_lock"):
        return missing(
            "the file system does not support file locks; DVC would wait for one forever",
            "dvc config --local core.hardlink_lock true && "
            f"rm -f {shlex.quote(str(clone.root / '.dvc/tmp/lock'))}",
        )
    if busy := _running(clone.root):
        return note(
            f"running in this clone: {some(busy)}", "wait for it, or stop it with `kill PID`"
        )
    if not can_lock:
        return note(
            "the file system does not support file locks; everything but `cxr sweep` works",
            "use a clone on another disk for `cxr sweep`",
        )
    return ok("no stage or DVC command is running in this clone")


def queue(clone: Clone) -> Finding:
    """Check DVC's queue; read from git, since DVC itself takes a second."""
    n_failed, n_queued = (_entries(clone.root, ref) for ref in (FAILED, QUEUED))
    if n_failed:
        return note(
            f"failed experiments: {n_failed}, queued or running: {n_queued}",
            "see why with dvc queue logs NAME; clear them with dvc queue remove --failed",
        )
    if n_queued:
        return note(f"queued or running experiments: {n_queued}", "dvc queue start")
    return ok("empty")


def _running(root: Path) -> list[str]:
    """Processes of DVC and stages whose working directory is in a clone."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text().split("\0")[:-1]
            is_in_clone = (process / "cwd").readlink().is_relative_to(root)
        except (OSError, ValueError):  # it has ended or belongs to another user
            continue
        if is_in_clone and any(Path(each).name == "dvc" or "stages/" in each for each in arguments):
            processes.append(f"process {process.name} ({' '.join(arguments)[-MOST_SHOWN:]})")
    return processes


def _entries(root: Path, ref: str) -> int:
    """The number of entries of a git stash."""
    from cxr import git

    return len((git.ask(root, "reflog", "show", "--format=%H", ref) or "").split())
