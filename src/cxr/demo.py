"""The whole pipeline on the phantom in a clone of its own, so that the tree stays as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cxr.errors import CxrError
from cxr.params import PARAMS_FILE

FOLDER = ".demo"

# What the demo changes in params.yaml: small enough for two cores and a few minutes.
CHANGES: dict[str, Any] = {
    "download.source": "phantom",
    "download.phantom.train": 3000,
    "download.phantom.val": 500,
    "download.phantom.test": 1000,
    "train.protocol.epochs": 6,
    "train.squeezenet.weights": "none",
    "train.squeezenet.image_size": 112,
    "gradcam.indices": [5, 6, 8, 13],
}


def prepare(project: Path) -> Path:
    """Lay down or refresh `.demo/`: the tree as it stands, with its own dvc.lock, cache and store.

    Returns
    -------
    The demo's folder. What an earlier demo made there is kept, so that a second one has little to
    do.
    """
    if shutil.which("git") is None or not (project / ".git").exists():
        raise CxrError(f"{project} is no git clone; clone the repository with git, then run again")
    demo = project / FOLDER
    if (demo / ".git").exists():
        _git(demo, "fetch", "--quiet", "origin", "HEAD")
        _git(demo, "reset", "--quiet", "--hard", "FETCH_HEAD")
    else:
        _git(project, "clone", "--quiet", str(project), str(demo))
        (demo / "dvc.lock").unlink(missing_ok=True)
    _copy_uncommitted(project, demo)
    change_params(demo / PARAMS_FILE, CHANGES)
    return demo


def reproduce(demo: Path) -> int:
    """`dvc repro` in the demo; its exit status."""
    python = Path(sys.executable)
    env = os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(demo / "src"),
    }
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run([python, "-m", "dvc", "repro"], cwd=demo, env=env, check=False)
    return done.returncode


def change_params(path: Path, changes: dict[str, Any]) -> None:
    """Set dotted keys in a params.yaml, keeping its comments."""
    yaml = YAML()
    yaml.width = 4096
    content = yaml.load(path)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    yaml.dump(content, path)


def _copy_uncommitted(project: Path, demo: Path) -> None:
    """What differs from the commit: edited and new files come along, deleted ones go."""
    listed = _git(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    here = {name for name in listed.split("\0") if name and (project / name).is_file()}
    there = {name for name in _git(demo, "ls-files", "-z").split("\0") if name}
    for name in here - {"dvc.lock"}:
        source, target = project / name, demo / name
        if not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for name in there - here:
        (demo / name).unlink(missing_ok=True)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        line = (done.stderr.strip().splitlines() or ["unknown cause"])[-1]
        raise CxrError(f"git {arguments[0]} failed in {folder}: {line}")
    return done.stdout
