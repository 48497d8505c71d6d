"""The whole pipeline on the phantom in a git repository of its own; the project is unchanged."""

import shutil
from pathlib import Path
from typing import Any

from cxr import git, params
from cxr.errors import CxrError
from cxr.lineage.facts import code_files
from cxr.paths import LOCK_FILE, PARAMS_FILE

FOLDER = ".demo"
# Author of the commits in that repository, so that the user's git settings need not name one.
COMMITTER = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "cxr demo"), ("EMAIL", "demo@localhost"))
}

# What the demo changes in params.yaml: small enough for two cores and a few minutes.
CHANGES: dict[str, Any] = {
    "download.source": "phantom",
    "download.path": None,
    "download.phantom.train": 3000,
    "download.phantom.val": 500,
    "download.phantom.test": 1000,
    "train.protocol.epochs": 6,
    "train.squeezenet.weights": "none",
    "train.squeezenet.image_size": 112,
    "gradcam.indices": [5, 6, 8, 13],
    "gradcam.max_findings": 8,
}


def prepare(project: Path) -> Path:
    """Lay down or refresh `.demo/`: the tree as it stands, with its own dvc.lock, cache and store.

    It is a git repository of its own with a copy of the project's files, not a clone, since the
    project may be a small folder of a large repository.

    Returns
    -------
    The demo's folder. What an earlier demo made there is kept, so that a second one has little to
    do.
    """
    demo = project / FOLDER
    lay(project, demo)
    params.change(demo / PARAMS_FILE, CHANGES)
    return demo


def lay(project: Path, copy: Path) -> None:
    """Copy the project's files, edited and new ones too, into a git repository; commit them."""
    if git.ask(project, "rev-parse", "--git-dir") is None:
        raise CxrError(
            f"{project} is not a git clone; clone the repository with git, then run again"
        )
    git.run(project, "init", "--quiet", str(copy))
    _commit(copy, _copy(project, copy))


def _copy(project: Path, copy: Path) -> set[str]:
    """Copy files that differ, delete those that the project lacks; return the paths of both."""
    listed = git.run(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    here = {name for name in listed.split("\0") if name and (project / name).is_file()}
    here |= code_files(project).keys()  # a parent's .gitignore may exclude some
    there = {name for name in git.run(copy, "ls-files", "-z").split("\0") if name}
    here, there = here - {LOCK_FILE}, there - {LOCK_FILE}
    for name in there - here:
        (copy / name).unlink(missing_ok=True)
    for name in here:
        source, target = project / name, copy / name
        if not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return here | there


def _commit(copy: Path, names: set[str]) -> None:
    """Commit the files if they have changed, without the user's hooks and signing key."""
    changes = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    git.run(copy, *changes, stdin="\0".join(names))
    tree = git.run(copy, "write-tree").strip()
    if git.ask(copy, "rev-parse", "--verify", "HEAD^{tree}") == f"{tree}\n":
        return
    parent = ("-p", "HEAD") if git.ask(copy, "rev-parse", "--verify", "HEAD") else ()
    message = "Copy the project's files\n"
    commit = git.run(copy, "commit-tree", *parent, tree, env=COMMITTER, stdin=message)
    git.run(copy, "update-ref", "HEAD", commit.strip())
