"""What an audit compares, each read once: lock file, cache, params.yaml, code, git, MLflow."""

from functools import cached_property
from pathlib import Path
from typing import Any

from cxr import hashing
from cxr.documents import read_yaml
from cxr.hashing import Digest, files_below, md5_of_folder
from cxr.lineage import facts
from cxr.lineage.archive import Archive, Found
from cxr.lineage.facts import Declaration, code_files, declarations, inside
from cxr.lineage.hash_cache import HashMemory
from cxr.lineage.repository import Lock, Repository
from cxr.paths import PARAMS_FILE
from cxr.pipeline import scratch
from cxr.tracking.store import Store


class Project:
    """One clone of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.repository = Repository(self.root)
        self.archive = Archive(self.repository)
        self._blobs: dict[str, dict[str, str] | None] = {}
        self.memory = HashMemory(self.root / scratch.FOLDER / "md5s.json")

    @cached_property
    def store(self) -> Store | None:
        """MLflow's store; None if its database is missing."""
        return Store.open(self.root)

    @cached_property
    def lock(self) -> Lock:
        return self.repository.lock()

    @cached_property
    def params(self) -> dict[str, Any]:
        return read_yaml(self.root / PARAMS_FILE)

    @cached_property
    def declared(self) -> dict[str, Declaration]:
        return declarations(self.root)

    @cached_property
    def code(self) -> dict[str, str]:
        """Blob hash of each source file on disk."""
        return code_files(self.root)

    @cached_property
    def committed(self) -> dict[str, str]:
        """Blob hash of each source file at HEAD."""
        return facts.blobs_at(self.root, "HEAD")

    def blobs_at(self, commit: str) -> dict[str, str] | None:
        """Blob hash of each source file in a commit; None if this clone lacks the commit."""
        if commit not in self._blobs:
            is_known = self.repository.has_commit(commit)
            self._blobs[commit] = facts.blobs_at(self.root, commit) if is_known else None
        return self._blobs[commit]

    def digest(self, path: str) -> Digest:
        """Digest of a file or folder on disk."""
        return hashing.digest(self.root / path, self.memory.md5)

    def md5s(self, path: str) -> dict[str, str]:
        """MD5 of each file of an output on disk, by path."""
        output = self.root / path
        if output.is_file():
            return {path: self.memory.md5(output)}
        files = files_below(output)
        return {f"{path}/{name}": self.memory.md5(file) for name, file in files.items()}

    def content(self, found: Found, path: str) -> dict[str, str] | None:
        """MD5 of each file of an output or input as recorded, by path; None if no copy is left."""
        md5 = _made_or_read(found)[path]
        listed = self.repository.content(path, md5)
        if listed is None and found.current and (self.root / path).is_dir():
            on_disk = self.md5s(path)
            names = {name.removeprefix(f"{path}/"): value for name, value in on_disk.items()}
            if md5_of_folder(names) == md5:
                return on_disk
        return listed

    def md5_of(self, found: Found, path: str) -> str | None:
        """MD5 of one file as the stage wrote or read it; None if no copy is left."""
        for output in _made_or_read(found):
            if inside(path, (output,)):
                return (self.content(found, output) or {}).get(path)
        return None

    def find(self, path: str, md5: str) -> Path | None:
        """A file with this MD5, in the working copy or the cache."""
        for file in (self.root / path, self.repository.object(md5)):
            if file.is_file() and self.memory.md5(file) == md5:
                return file
        return None


def _made_or_read(found: Found) -> dict[str, str]:
    """MD5 of a stage's outputs, and of its inputs from other stages, by path."""
    made = {path: digest.md5 for path, digest in found.record.outputs.items()}
    return found.record.facts.inputs | made
