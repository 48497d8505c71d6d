"""The working copy as a git commit, clones of it, and DVC experiments that come back from them.

A snapshot changes nothing in the user's repository: index, working copy, refs, stash and objects.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cxr import git
from cxr.lineage.facts import code_files
from cxr.lineage.repository import EXPERIMENTS
from cxr.paths import PARAMS_FILE

DVC_CONFIG = ".dvc/config.local"
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "cxr"), ("EMAIL", "cxr@localhost"), ("DATE", "@0 +0000"))
}


@dataclass(frozen=True)
class Snapshot:
    """The tracked and untracked files of a working copy, without those that git ignores."""

    head: str  # the user's commit, under which DVC lists experiments
    commit: str  # the files; its parent is `head`
    prefix: str  # the project's folder in the repository; empty at the top
    pack: str  # both commits and their files, without history, as `git.run` gives them
    config: bytes  # .dvc/config.local, which git ignores


def take(root: Path) -> Snapshot:
    """Take a snapshot of the working copy; the same files give the same commit."""
    head = git.run(root, "rev-parse", "HEAD").strip()
    index, objects = (
        Path(root, git.run(root, "rev-parse", "--git-path", name).strip()).resolve()
        for name in ("index", "objects")
    )
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "index")
        if index.exists():
            shutil.copy2(index, own)  # with its times, or git would hash every file again
        env = WHO | {
            "GIT_INDEX_FILE": str(own),
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        git.run(root, "add", "--all", env=env)
        code = code_files(root)  # even if git ignores it, as a user's own .gitignore can
        git.run(root, "add", "--force", "--", PARAMS_FILE, *code, env=env)
        tree = git.run(root, "write-tree", env=env).strip()
        commit = git.run(root, "commit-tree", "-p", head, "-m", "snapshot", tree, env=env).strip()
        objects_of_both = git.run(root, "rev-list", "--objects", "--no-walk", head, commit, env=env)
        pack = git.run(root, "pack-objects", "-q", "--stdout", env=env, stdin=objects_of_both)
    prefix = git.run(root, "rev-parse", "--show-prefix").strip()
    config = root / DVC_CONFIG
    return Snapshot(head, commit, prefix, pack, config.read_bytes() if config.exists() else b"")


def check_out(snapshot: Snapshot, folder: Path) -> Path:
    """Clone the snapshot, or reset an earlier clone to it; returns the project's folder in it.

    HEAD is the user's commit. Files that git ignores stay: outputs that DVC need not copy again.
    """
    if not (folder / ".git/HEAD").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git.run(folder, "init", "-q")
    if git.ask(folder, "cat-file", "-e", snapshot.commit) is None:
        git.run(folder, "unpack-objects", "-q", stdin=snapshot.pack)
        with open(folder / ".git/shallow", "a") as file:  # git must not look for its parents
            file.write(f"{snapshot.head}\n")
    refs = git.run(folder, "for-each-ref", "--format=delete %(refname)", "refs/exps")
    git.run(folder, "update-ref", "--stdin", stdin=refs)
    git.run(folder, "update-ref", "--no-deref", "HEAD", snapshot.head)
    git.run(folder, "read-tree", "--reset", "-u", snapshot.commit)
    git.run(folder, "clean", "-fdq")
    project = folder / snapshot.prefix
    (project / DVC_CONFIG).write_bytes(snapshot.config)
    return project


@dataclass(frozen=True)
class Packed:
    """An experiment's commit."""

    ref: str  # as DVC names it
    commit: str
    pack: str  # its objects that the user's repository lacks, as `git.run` gives them


def pack(name: str, head: str, folder: Path) -> Packed:
    """Pack an experiment of a clone, to receive it elsewhere."""
    ref = f"{EXPERIMENTS}/{head[:2]}/{head[2:]}/{name}"
    commit = git.run(folder, "rev-parse", ref).strip()
    wanted = f"{commit}\n^{head}\n"
    objects = git.run(folder, "pack-objects", "-q", "--stdout", "--revs", "--thin", stdin=wanted)
    return Packed(ref, commit, objects)


def unpack(packed: Packed, root: Path) -> None:
    """Add an experiment's commit to the user's repository, without a name."""
    git.run(root, "unpack-objects", "-q", stdin=packed.pack)


def receive(packed: Packed, root: Path) -> None:
    """Add an experiment to the user's repository, where DVC lists it."""
    unpack(packed, root)
    git.run(root, "update-ref", packed.ref, packed.commit)
