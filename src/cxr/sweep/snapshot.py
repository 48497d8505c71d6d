"""The working copy as a git commit, and clones of it.

Neither the user's index, working copy, refs and stash nor the repository's objects are changed.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cxr import git

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
    pack: bytes  # both commits and their files, without history


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
        tree = git.run(root, "write-tree", env=env).strip()
        commit = git.run(root, "commit-tree", "-p", head, "-m", "snapshot", tree, env=env).strip()
        objects_of_both = git.run(root, "rev-list", "--objects", "--no-walk", head, commit, env=env)
        pack = git.run(root, "pack-objects", "-q", "--stdout", env=env, stdin=objects_of_both)
    prefix = git.run(root, "rev-parse", "--show-prefix").strip()
    return Snapshot(head, commit, prefix, pack.encode(errors="surrogateescape"))


def check_out(snapshot: Snapshot, folder: Path) -> Path:
    """Clone the snapshot, or reset an earlier clone to it; returns the project's folder in it.

    HEAD is the user's commit. Files that git ignores stay: outputs that DVC need not copy again.
    """
    if not (folder / ".git/HEAD").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git.run(folder, "init", "-q")
    if git.ask(folder, "cat-file", "-e", snapshot.commit) is None:
        pack = snapshot.pack.decode(errors="surrogateescape")
        git.run(folder, "unpack-objects", "-q", stdin=pack)
        with open(folder / ".git/shallow", "a") as file:  # git must not look for its parents
            file.write(f"{snapshot.head}\n")
    refs = git.run(folder, "for-each-ref", "--format=delete %(refname)", "refs/exps")
    git.run(folder, "update-ref", "--stdin", stdin=refs)
    git.run(folder, "update-ref", "--no-deref", "HEAD", snapshot.head)
    git.run(folder, "read-tree", "--reset", "-u", snapshot.commit)
    git.run(folder, "clean", "-fdq")
    return folder / snapshot.prefix
