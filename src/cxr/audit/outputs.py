"""Checks of a stage's outputs against its record: on disk, in DVC's cache, in dvc.lock."""

import shlex
from collections.abc import Iterator
from typing import Any

from cxr.audit.finding import Finding, Where, fails, holds, note, same, some
from cxr.audit.project import Project
from cxr.documents import read_json
from cxr.formatting import count
from cxr.hashing import Digest, md5_of_file
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST
from cxr.params import flatten
from cxr.paths import LOCK_FILE


def on_disk(found: Found, project: Project) -> list[Finding]:
    """Hash every output in the working copy again."""
    findings = []
    for path, digest in found.record.outputs.items():
        if not (project.root / path).exists():
            says, fix = f"{path} is missing", f"dvc checkout {path}"
            findings.append(fails(Where.FILES, says, fix))
        elif project.digest(path).md5 != digest.md5:
            how = _changes(path, digest, project)
            says = f"{path} is not what {found.record.stage} wrote: {how}"
            fix = f"dvc checkout --force {path}"
            if found.locked and found.locked.outputs.get(path) != digest:
                fix = f"git checkout -- {LOCK_FILE} && {fix}"
            findings.append(fails(Where.FILES, says, fix))
    n = sum(digest.nfiles or 1 for digest in found.record.outputs.values())
    return findings or [holds(Where.FILES, f"{count(n, 'file')}, unchanged")]


def in_cache(found: Found, project: Project) -> list[Finding]:
    """Check that DVC's cache has an intact copy of every output."""
    findings, missing, n = [], 0, 0
    for name, md5 in _cached_names(found, project):
        n += 1
        cached = project.repository.object(md5)
        if not cached.exists():
            missing += 1
        elif project.memory.md5(cached) != md5.removesuffix(".dir"):
            says = f"the cached copy of {name} is damaged ({cached})"
            fix = (
                f"rm -f {shlex.quote(str(cached))} && {_refill_command(found)}"
                if _has_independent_copy(name, md5, project)
                else None
            )
            findings.append(fails(Where.CACHE, says, fix))
    if missing:
        says = f"DVC's cache lacks {missing:,} of {count(n, 'file')}"
        findings.append(note(Where.CACHE, says, _refill_command(found)))
    return findings or [holds(Where.CACHE, f"{count(n, 'file')}, intact in DVC's cache")]


def record(found: Found, project: Project) -> list[Finding]:
    """Check that the record is the one in dvc.lock and is consistent in itself."""
    path = records.path_of(found.record.stage)
    file = project.root / path
    fix = f"dvc checkout --force {path}"
    if found.current:
        if not file.exists():
            return [fails(Where.RECORD, f"{path} is missing", fix)]
        if md5_of_file(file) != found.digest.md5:
            other = records.read(file)
            problem = "was edited"
            if other.run_ids != found.record.run_ids:
                problem = f"is the record of another run, {other.run_ids[0][:SHORT_ID]}"
            return [fails(Where.RECORD, f"{path} {problem}", fix)]
        if not found.trusted:
            return [fails(Where.RECORD, f"{path} does not match its md5 in {LOCK_FILE}", fix)]
    facts = found.record.facts
    if facts.fingerprint != found.record.fingerprint:
        return [
            fails(Where.RECORD, f"{path}: the fingerprint does not match the recorded facts", fix)
        ]
    return [holds(Where.RECORD, f"{path}, fingerprint {found.record.fingerprint[:12]}")]


def locked(found: Found, project: Project) -> list[Finding]:
    """Compare the lock file's entry with the record, value by value."""
    entry, made = found.locked, found.record
    if entry is None and not found.current:
        return []  # not found through a lock file
    if entry is None:
        says = f"{LOCK_FILE} has no stage {made.stage}"
        return [fails(Where.LOCK, says, f"dvc commit --force {made.stage}")]
    differences = [
        *_differences(entry.outputs, found.outputs),
        *_differences(entry.dependencies, made.facts.dependencies),
        *_differences(entry.params, made.facts.params),
    ]
    if entry.command != made.facts.command:
        differences.append(
            f"the command is `{entry.command}` but `{made.facts.command}` in the record"
        )
    fix = f"dvc commit --force {made.stage}" if found.current else None
    return [fails(Where.LOCK, f"{LOCK_FILE}: {each}", fix) for each in differences] or [
        holds(Where.LOCK, "matches the record")
    ]


def _cached_names(found: Found, project: Project) -> Iterator[tuple[str, str]]:
    """Name and MD5 of everything a result has in the cache: files, and lists of folders."""
    for path, digest in found.outputs.items():
        if digest.md5.endswith(".dir"):
            yield path, digest.md5
        yield from (project.repository.content(path, digest.md5) or {}).items()


def _has_independent_copy(path: str, md5: str, project: Project) -> bool:
    """Whether the working copy has the content in a file that is not a link to the cache."""
    own, cached = project.root / path, project.repository.object(md5)
    if not own.is_file():
        return own.is_dir() and project.digest(path).md5 == md5
    return not own.samefile(cached) and project.memory.md5(own) == md5


def _refill_command(found: Found) -> str:
    return f"dvc commit --force {found.record.stage}" if found.current else FETCH_PAST


def _changes(path: str, digest: Digest, project: Project) -> str:
    """How an output differs from what the stage wrote."""
    written = project.repository.content(path, digest.md5)
    if digest.nfiles is None or written is None:
        values = _changed_values(path, digest, project)
        return values or f"md5 {project.digest(path).md5} instead of {digest.md5}"
    now = project.md5s(path)
    changes = {
        "was altered": [name for name in written if name in now and now[name] != written[name]],
        "is missing": [name for name in written if name not in now],
        "was added": [name for name in now if name not in written],
    }
    return "; ".join(f"{some(names)} {change}" for change, names in changes.items() if names)


def _changed_values(path: str, digest: Digest, project: Project) -> str:
    """Which values of a JSON output were altered; empty if the cache lacks the original."""
    if not path.endswith(".json"):
        return ""
    try:
        was = flatten(read_json(project.repository.object(digest.md5)))
        now = flatten(read_json(project.root / path))
    except (OSError, ValueError, AttributeError):
        return ""
    return some(
        f"{key} is {now.get(key)!r}, was {was.get(key)!r}"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    )


def _differences(locked: dict[str, Any], made: dict[str, Any]) -> list[str]:
    return [
        f"{name} is {_value(locked.get(name))} but {_value(made.get(name))} in the record"
        for name in {**locked, **made}
        if not same(locked.get(name), made.get(name))
    ]


def _value(value: Any) -> str:
    if isinstance(value, Digest):
        files = f", {count(value.nfiles, 'file')}" if value.nfiles else ""
        return f"md5 {value.md5} ({count(value.size, 'byte')}{files})"
    return "missing" if value is None else repr(value)
