"""Run the whole pipeline on the phantom in a separate git repository, `.demo/`."""

import shutil
from pathlib import Path
from typing import Any

from cxr import git, params
from cxr.errors import CxrError
from cxr.lineage.facts import code_files
from cxr.paths import LOCK_FILE, PARAMS_FILE

FOLDER = ".demo"
# Author of the commits in that repository, since the user's git configuration may have none.
COMMITTER = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "cxr demo"), ("EMAIL", "demo@localhost"))
}

# Changes to params.yaml, for a run of a few minutes on two cores.
CHANGES: dict[str, Any] = {
    "download.source": "phantom",
    "download.path": None,
    "download.companion.path": None,
    "download.companion.image_ids": None,
    "download.phantom.train": 3000,
    "download.phantom.val": 500,
    "download.phantom.test": 1000,
    "train.protocol.epochs": 6,
    "train.cnn.init": None,
    "train.vit.init": None,
    "train.squeezenet.weights": "none",
    "train.squeezenet.image_size": 112,
    "gradcam.indices": [5, 6, 8, 13],
    "gradcam.max_findings": 8,
}


def prepare(project: Path) -> Path:
    """Create or update `.demo/`: a copy of the project with its own dvc.lock, cache and store.

    It is a new git repository and not a clone, since the project may be a small folder of a large
    repository.

    Returns
    -------
    The demo's folder. Results of an earlier demo are kept, so that a second one is fast.
    """
    demo = project / FOLDER
    copy_project(project, demo)
    params.change(demo / PARAMS_FILE, CHANGES)
    return demo


def copy_project(project: Path, copy: Path) -> None:
    """Copy the project's files, including edited and new ones, to a git repository and commit."""
    if git.ask(project, "rev-parse", "--git-dir") is None:
        raise CxrError(
            f"{project} is not a git clone; clone the repository with git, then run again"
        )
    git.run(project, "init", "--quiet", str(copy))
    _commit(copy, _copy(project, copy))


def _copy(project: Path, copy: Path) -> set[str]:
    """Copy changed files and delete removed ones; return the paths of both."""
    listed = git.run(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    current = {name for name in listed.split("\0") if name and (project / name).is_file()}
    current |= code_files(project).keys()  # a parent's .gitignore may exclude some
    copied = {name for name in git.run(copy, "ls-files", "-z").split("\0") if name}
    current, copied = current - {LOCK_FILE}, copied - {LOCK_FILE}
    for name in copied - current:
        (copy / name).unlink(missing_ok=True)
    for name in current:
        source, target = project / name, copy / name
        if not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return current | copied


def _commit(copy: Path, names: set[str]) -> None:
    """Commit the files if they have changed, without running hooks or signing."""
    changes = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    git.run(copy, *changes, stdin="\0".join(names))
    tree = git.run(copy, "write-tree").strip()
    if git.ask(copy, "rev-parse", "--verify", "HEAD^{tree}") == f"{tree}\n":
        return
    parent = ("-p", "HEAD") if git.ask(copy, "rev-parse", "--verify", "HEAD") else ()
    message = "Copy the project's files\n"
    commit = git.run(copy, "commit-tree", *parent, tree, env=COMMITTER, stdin=message)
    git.run(copy, "update-ref", "HEAD", commit.strip())
