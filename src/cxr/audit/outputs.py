"""What a stage made, held against its record: on disk, in DVC's cache, in dvc.lock."""

import shlex
from collections.abc import Iterator
from typing import Any

from cxr.audit.finding import Finding, Where, fails, holds, note, same, some
from cxr.audit.project import Project
from cxr.documents import read_json
from cxr.hashing import Digest, md5_of_file
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST
from cxr.params import flatten
from cxr.paths import LOCK_FILE


def on_disk(found: Found, project: Project) -> list[Finding]:
    """Every output of the working copy, hashed again."""
    findings = []
    for path, digest in found.record.outputs.items():
        if not (project.root / path).exists():
            says, mend = f"{path} is missing", f"dvc checkout {path}"
            findings.append(fails(Where.FILES, says, mend))
        elif project.digest(path).md5 != digest.md5:
            how = _how(path, digest, project)
            says = f"{path} is not what {found.record.stage} wrote: {how}"
            mend = f"dvc checkout --force {path}"
            if found.locked and found.locked.outputs.get(path) != digest:
                mend = f"git checkout -- {LOCK_FILE} && {mend}"
            findings.append(fails(Where.FILES, says, mend))
    n = sum(digest.nfiles or 1 for digest in found.record.outputs.values())
    return findings or [holds(Where.FILES, f"{n} files are as {found.record.stage} wrote them")]


def in_cache(found: Found, project: Project) -> list[Finding]:
    """Every output's copy in DVC's cache: there, and whole."""
    findings, missing, n = [], 0, 0
    for name, md5 in _cached_names(found, project):
        n += 1
        place = project.repository.object(md5)
        if not place.exists():
            missing += 1
        elif project.memory.md5(place) != md5.removesuffix(".dir"):
            says = f"the cached copy of {name} is damaged ({place})"
            mend = (
                f"rm -f {shlex.quote(str(place))} && {_refill(found)}"
                if _has_own(name, md5, project)
                else None
            )
            findings.append(fails(Where.CACHE, says, mend))
    if missing:
        says = f"DVC's cache lacks {missing} of {n} files"
        findings.append(note(Where.CACHE, says, _refill(found)))
    return findings or [holds(Where.CACHE, f"DVC's cache has all {n} files, whole")]


def record(found: Found, project: Project) -> list[Finding]:
    """The record itself: the one that dvc.lock names, and one whose parts agree."""
    path = records.path_of(found.record.stage)
    place = project.root / path
    mend = f"dvc checkout --force {path}"
    if found.current:
        if not place.exists():
            return [fails(Where.RECORD, f"{path} is missing", mend)]
        if md5_of_file(place) != found.digest.md5:
            other = records.read(place)
            whose = "was edited"
            if other.run_ids != found.record.run_ids:
                whose = f"is the record of another run, {other.run_ids[0][:SHORT_ID]},"
            return [fails(Where.RECORD, f"{path} {whose} and is not the one of this result", mend)]
        if not found.trusted:
            return [fails(Where.RECORD, f"{path} is not the one that {LOCK_FILE} names", mend)]
    facts = found.record.facts
    if facts.fingerprint != found.record.fingerprint:
        return [fails(Where.RECORD, f"{path}: its fingerprint is not that of its facts", mend)]
    return [holds(Where.RECORD, f"{path}, fingerprint {found.record.fingerprint[:12]}")]


def locked(found: Found, project: Project) -> list[Finding]:
    """The lock file's entry, value for value."""
    entry, made = found.locked, found.record
    if entry is None and not found.current:
        return []  # found by another way than a lock file
    if entry is None:
        says = f"{LOCK_FILE} has no stage {made.stage}"
        return [fails(Where.LOCK, says, f"dvc commit --force {made.stage}")]
    differences = [
        *_differences(entry.outputs, found.outputs),
        *_differences(entry.dependencies, made.facts.dependencies),
        *_differences(entry.params, made.facts.params),
    ]
    if entry.command != made.facts.command:
        differences.append(f"the command is `{entry.command}`, it was `{made.facts.command}`")
    mend = f"dvc commit --force {made.stage}" if found.current else None
    return [fails(Where.LOCK, f"{LOCK_FILE}: {each}", mend) for each in differences] or [
        holds(Where.LOCK, f"{LOCK_FILE} says the same")
    ]


def _cached_names(found: Found, project: Project) -> Iterator[tuple[str, str]]:
    """Name and MD5 of all that the cache keeps of a result: files, and the lists of folders."""
    for path, digest in found.outputs.items():
        if digest.md5.endswith(".dir"):
            yield path, digest.md5
        yield from (project.repository.content(path, digest.md5) or {}).items()


def _has_own(path: str, md5: str, project: Project) -> bool:
    """Whether the working copy has the content apart from the cache, which it may be linked to."""
    here, cached = project.root / path, project.repository.object(md5)
    if not here.is_file():
        return here.is_dir() and project.digest(path).md5 == md5
    return not here.samefile(cached) and project.memory.md5(here) == md5


def _refill(found: Found) -> str:
    return f"dvc commit --force {found.record.stage}" if found.current else FETCH_PAST


def _how(path: str, digest: Digest, project: Project) -> str:
    """In which way an output differs from what was written."""
    written = project.repository.content(path, digest.md5)
    if digest.nfiles is None or written is None:
        values = _values(path, digest, project)
        return values or f"md5 {project.digest(path).md5} instead of {digest.md5}"
    now = project.md5s(path)
    ways = {
        "was altered": [name for name in written if name in now and now[name] != written[name]],
        "is missing": [name for name in written if name not in now],
        "was added": [name for name in now if name not in written],
    }
    return "; ".join(f"{some(names)} {way}" for way, names in ways.items() if names)


def _values(path: str, digest: Digest, project: Project) -> str:
    """Which values of a JSON output were altered, where the cache has the original."""
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
        f"{name} is {_value(locked.get(name))}, the record says {_value(made.get(name))}"
        for name in {**locked, **made}
        if not same(locked.get(name), made.get(name))
    ]


def _value(value: Any) -> str:
    if isinstance(value, Digest):
        files = f", {value.nfiles} files" if value.nfiles else ""
        return f"md5 {value.md5} ({value.size} bytes{files})"
    return "missing" if value is None else repr(value)
