"""The whole pipeline on the phantom in a clone of its own, so that the tree stays as it is."""

import shutil
from pathlib import Path
from typing import Any

from cxr import git, params
from cxr.errors import CxrError
from cxr.lineage import LOCK_FILE
from cxr.params import PARAMS_FILE

FOLDER = ".demo"

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
    "gradcam.probed": 8,
}


def prepare(project: Path) -> Path:
    """Lay down or refresh `.demo/`: the tree as it stands, with its own dvc.lock, cache and store.

    Returns
    -------
    The demo's folder. What an earlier demo made there is kept, so that a second one has little to
    do.
    """
    if not (project / ".git").exists():
        raise CxrError(f"{project} is no git clone; clone the repository with git, then run again")
    demo, lock = project / FOLDER, project / FOLDER / LOCK_FILE
    if (demo / ".git").exists():
        git.run(demo, "fetch", "--quiet", str(project), "HEAD")  # which may have moved since
        made = lock.read_bytes() if lock.exists() else None
        git.run(demo, "reset", "--quiet", "--hard", "FETCH_HEAD")
    else:
        git.run(project, "clone", "--quiet", str(project), str(demo))
        made = None
    lock.unlink(missing_ok=True)
    if made is not None:
        lock.write_bytes(made)
    _copy_uncommitted(project, demo)
    params.change(demo / PARAMS_FILE, CHANGES)
    return demo


def _copy_uncommitted(project: Path, demo: Path) -> None:
    """What differs from the commit: edited and new files come along, deleted ones go."""
    listed = git.run(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    here = {name for name in listed.split("\0") if name and (project / name).is_file()}
    there = {name for name in git.run(demo, "ls-files", "-z").split("\0") if name}
    for name in here - {LOCK_FILE}:
        source, target = project / name, demo / name
        if not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for name in there - here:
        (demo / name).unlink(missing_ok=True)
