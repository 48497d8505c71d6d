"""Read what DVC and git store of a project: lock files, cached content, revisions."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dvc.config import Config, ConfigError
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from cxr import git
from cxr.documents import (
    MOST_JSON_BYTES,
    MOST_YAML_BYTES,
    defect,
    parse_json,
    parse_yaml,
    read_within,
    validated,
)
from cxr.errors import CxrError
from cxr.hashing import MD5, Digest, Md5
from cxr.params import flatten
from cxr.paths import LOCK_FILE, PARAMS_FILE, ProjectPath

EXPERIMENTS = "refs/exps"
# `dvc fetch` does not fetch content that only an experiment has.
FETCH_PAST = "dvc fetch --all-commits && dvc exp pull --all-commits origin"
NO_BLOB = "0" * 40  # git's hash of a missing file
EXPERIMENTS_AT_WORK = ("exec", "celery", "apply")  # DVC's internal refs below refs/exps


@dataclass(frozen=True)
class LockedStage:
    """A stage in dvc.lock."""

    command: str
    dependencies: dict[str, Digest]
    params: dict[str, Any]  # dotted names
    outputs: dict[str, Digest]


Lock = dict[str, LockedStage]


class Repository:
    """One clone of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @cached_property
    def cache(self) -> Path:
        """The folder of DVC's cache, from its configuration."""
        try:
            folder = Config(str(self.root / ".dvc"))["cache"].get("dir")
        except ConfigError as error:
            raise CxrError(
                f"DVC's configuration can't be read: {error}; fix .dvc/config or .dvc/config.local"
            ) from None
        return Path(folder) if folder else self.root / ".dvc" / "cache"

    def lock(self) -> Lock:
        """The current dvc.lock; empty if the file does not exist."""
        path = self.root / LOCK_FILE
        try:
            return _lock(read_within(path, MOST_YAML_BYTES))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            problem = defect(path, f"is damaged ({error})")
            raise CxrError(f"{path} {problem}, or delete it; then run `dvc repro`") from None

    def lock_at(self, commit: str) -> Lock:
        """dvc.lock of a commit."""
        text = self.text_at(commit, LOCK_FILE)
        try:
            return _lock(text) if text else {}
        except ValueError as error:
            raise CxrError(
                f"{LOCK_FILE} of commit {commit[:10]} is damaged ({error}); use another commit"
            ) from None

    def text_at(self, commit: str, path: str) -> str | None:
        """Text of a file in a commit; None if the commit lacks the file."""
        # Without ./ git reads the path relative to the top of the repository.
        return git.ask(self.root, "show", f"{commit}:./{path}")

    def experiments(self) -> list[tuple[str, str]]:
        """Name and commit of each DVC experiment; names can repeat."""
        listing = git.ask(
            self.root, "for-each-ref", "--format=%(objectname) %(refname)", EXPERIMENTS
        )
        found = []
        for line in (listing or "").splitlines():
            commit, ref = line.split(" ", 1)
            parts = ref.removeprefix(f"{EXPERIMENTS}/").split("/", 2)
            # refs/exps/<2 digits>/<the other 38 digits>/<name>
            if len(parts) == 3 and parts[0] not in EXPERIMENTS_AT_WORK:
                found.append((parts[2], commit))
        return found

    def commit(self, name: str) -> str | None:
        """The commit of an experiment or a git revision."""
        commits = [commit for each, commit in self.experiments() if each == name]
        if len(commits) > 1:
            raise CxrError(
                f"{name} is the name of {len(commits)} experiments; give a commit instead"
            )
        if commits:
            return commits[0]
        if name.startswith("-"):
            return None
        found = git.ask(self.root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return found.strip() if found else None

    def has_commit(self, commit: str) -> bool:
        return git.ask(self.root, "cat-file", "-e", f"{commit}^{{commit}}") is not None

    def fetching_commits(self) -> str:
        """The command that fetches commits which this clone lacks."""
        is_shallow = git.ask(self.root, "rev-parse", "--is-shallow-repository") == "true\n"
        return "git fetch --unshallow" if is_shallow else "git fetch --all"

    def object(self, md5: str) -> Path:
        """Path in the cache of a file, or of the list of a folder's files."""
        if not re.fullmatch(MD5, md5):  # the path could leave the cache
            raise CxrError(f"{md5!r} is not an MD5")
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def content(self, path: str, md5: str) -> dict[str, str] | None:
        """MD5 of each file of an output, by path; None if the cache lacks a folder's list."""
        if not md5.endswith(".dir"):
            return {path: md5}
        path_of_list = self.object(md5)
        try:
            if path_of_list.stat().st_size > MOST_JSON_BYTES:
                return None
            listing = path_of_list.read_bytes()
            if hashlib.md5(listing, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
                return None
            entries = validated(_LIST, parse_json(listing))
        except (OSError, ValueError):
            return None
        return {f"{path}/{each['relpath']}": each["md5"] for each in entries}

    def past_outputs(self, folder: str) -> dict[str, str]:
        """Path of every file below a folder that was ever an output, by MD5.

        They are listed in each dvc.lock in a commit, branch or experiment, and in DVC's run cache,
        which also has results that were never committed.
        """
        listing = git.ask(
            self.root, "log", "--all", "-m", "--format=", "--raw", "--no-abbrev", "--", LOCK_FILE
        )
        blobs = {line.split()[3] for line in (listing or "").splitlines() if line} - {NO_BLOB}
        texts = [git.run(self.root, "cat-file", "--batch", stdin="\n".join(blobs))] if blobs else []
        for file in (self.cache / "runs").glob("*/*/*"):
            if file.is_file() and file.stat().st_size <= MOST_YAML_BYTES:
                texts.append(file.read_text(errors="replace"))
        # Parsing a hundred lock files as YAML would take seconds.
        entry = re.compile(rf"path: ({folder}/\S+)\n\s+hash: md5\n\s+md5: ([0-9a-f]{{32}})\s")
        return {md5: path for text in texts for path, md5 in entry.findall(text)}


class _Item(BaseModel):
    """A dependency or an output in dvc.lock."""

    path: ProjectPath
    md5: Md5
    size: int
    nfiles: int | None = None


class _Stage(BaseModel):
    """A stage in dvc.lock."""

    cmd: str
    deps: list[_Item] = []
    params: dict[str, dict[str, Any]] = {}
    outs: list[_Item] = []


class _LockFile(BaseModel):
    stages: dict[str, _Stage]


class _Listed(TypedDict):
    """A file in DVC's list of a folder."""

    relpath: ProjectPath
    md5: Md5


_LOCK_FILE = TypeAdapter(_LockFile)
_LIST = TypeAdapter(list[_Listed])


def _lock(text: bytes | str) -> Lock:
    return {
        name: LockedStage(
            command=stage.cmd,
            dependencies=_digests(stage.deps),
            params=flatten(stage.params.get(PARAMS_FILE, {})),
            outputs=_digests(stage.outs),
        )
        for name, stage in validated(_LOCK_FILE, parse_yaml(text)).stages.items()
    }


def _digests(items: list[_Item]) -> dict[str, Digest]:
    return {each.path: Digest(each.md5, each.size, each.nfiles) for each in items}
