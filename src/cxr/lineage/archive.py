"""Find the record of an output or run among all records that this clone can read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cxr import hashing
from cxr.documents import damaged
from cxr.errors import CxrError
from cxr.hashing import Digest, md5_of_file
from cxr.lineage import records
from cxr.lineage.facts import declarations
from cxr.lineage.records import Record
from cxr.lineage.repository import Lock, LockedStage, Repository
from cxr.paths import RECORDS


@dataclass(frozen=True)
class Found:
    """A record and where it was found."""

    record: Record
    digest: Digest  # of the record's file
    lock: Lock | None  # the lock file that names the record
    current: bool  # its outputs are in the working copy
    trusted: bool = True  # False if dvc.lock names another record and the cache has neither

    @property
    def locked(self) -> LockedStage | None:
        """The lock file's entry of the stage."""
        return self.lock.get(self.record.stage) if self.lock else None

    @property
    def outputs(self) -> dict[str, Digest]:
        """All outputs of the stage, including the record."""
        return {**self.record.outputs, records.path_of(self.record.stage): self.digest}


class Archive:
    """Records of the working copy, and those of earlier runs in DVC's cache."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._folder = repository.root / RECORDS
        self._read: dict[str, Record | None] = {}

    @cached_property
    def current(self) -> dict[str, Found]:
        """The working copy's records by stage."""
        lock, declared = self._repository.lock(), declarations(self._repository.root)
        found = {stage: self._current(stage, lock) for stage in {**lock, **declared}}
        return {stage: one for stage, one in found.items() if one is not None}

    def at(self, lock: Lock) -> dict[str, Found]:
        """The records that a lock file names and the cache has, by stage."""
        return {found.record.stage: found for found in self._named(lock)}

    def of_md5(self, md5: str) -> Found | None:
        """The record with this MD5, if the cache has it."""
        record = self._cached(md5)
        return Found(record, self._digest(md5), None, current=False) if record else None

    def find(self, prefix: str, md5s: Iterable[str] = ()) -> dict[str, Found]:
        """Records by run id, for run ids that start with `prefix`.

        Earlier records are searched only if the working copy has no match: first those with one of
        `md5s`, since to search thousands takes seconds.
        """
        return (
            _with_runs(self.current.values(), prefix)
            or _with_runs(filter(None, map(self.of_md5, md5s)), prefix)
            or _with_runs(self._past_with(prefix), prefix)
        )

    def lost(self, lock: Lock) -> dict[str, str]:
        """Records that a lock file names but are missing or damaged in the cache: stage -> MD5."""
        return {
            name: stage.outputs[records.path_of(name)].md5
            for name, stage in lock.items()
            if records.path_of(name) in stage.outputs
            and self._cached(stage.outputs[records.path_of(name)].md5) is None
        }

    def maker(self, path: str, md5: str, of: Found) -> Found | None:
        """The record of the stage that made an input of another result.

        For a result in the working copy, this is the working copy's own record. Otherwise it must
        have finished before the result started, since the same content may have been made again
        later: the one in the lock file of the result's experiment, or the last of all.
        """

        def made(found: Found) -> bool:
            digest = found.record.outputs.get(path)
            return digest is not None and digest.md5 == md5

        def is_in_time(found: Found) -> bool:
            return found.record.finished <= of.record.started

        current = next(filter(made, self.current.values()), None)
        if current is not None and of.current:
            return current
        for beside in filter(made, self._beside(of)):
            if is_in_time(beside):
                return beside
        past = self._past_with(md5, maker_of=path)
        makers = [*filter(made, past), *([current] if current else [])]
        in_time = [*filter(is_in_time, makers)]
        return max(in_time or makers, key=lambda each: each.record.finished, default=None)

    def _beside(self, found: Found) -> Iterable[Found]:
        """The records in the lock file of the experiment that made a result."""
        if found.lock:
            return self._named(found.lock)
        commit = dict(self._repository.experiments()).get(records.experiment(found.record))
        return self._named(self._repository.lock_at(commit)) if commit else ()

    @cached_property
    def past(self) -> list[Found]:
        """The records of all commits and experiments, and of DVC's run cache."""
        found = map(self.of_md5, sorted(self._past_paths))
        return [one for one in found if one is not None]

    @cached_property
    def _past_paths(self) -> dict[str, str]:
        """Path of each of these records by MD5."""
        return self._repository.past_outputs(RECORDS)

    def _past_with(self, text: str, maker_of: str | None = None) -> list[Found]:
        """Those of `past` whose file contains a text; to parse thousands would take a minute.

        Parameters
        ----------
        maker_of : an output; only records of the stage that makes it.
        """
        declared = declarations(self._repository.root)
        makers = [each for each in declared if maker_of in declared[each].outputs]
        paths = [records.path_of(stage) for stage in makers] or set(self._past_paths.values())
        found = []
        for md5, path in sorted(self._past_paths.items()):
            file = self._repository.object(md5)
            if path in paths and file.exists() and text.encode() in file.read_bytes():
                found.append(self.of_md5(md5))
        return [one for one in found if one is not None]

    def _named(self, lock: Lock) -> Iterator[Found]:
        for stage in lock.values():
            for path, digest in stage.outputs.items():
                if path.startswith(f"{RECORDS}/"):
                    record = self._cached(digest.md5)
                    if record is not None:
                        yield Found(record, self._digest(digest.md5), lock, current=False)

    def _current(self, stage: str, lock: Lock) -> Found | None:
        """The record on disk, or the one that dvc.lock names if it differs and is in the cache."""
        path = self._folder / f"{stage}.json"
        entry = lock.get(stage)
        named = entry.outputs.get(records.path_of(stage)) if entry else None
        cached = self._cached(named.md5) if named else None
        if not path.is_file():
            if named and cached:
                return Found(cached, self._digest(named.md5), lock, current=True)
            return None
        on_disk, digest = records.read(path), hashing.digest(path)
        if named and named.md5 != digest.md5 and cached:
            return Found(cached, self._digest(named.md5), lock, current=True)
        if on_disk.stage != stage:
            raise damaged(path, f"it is the record of {on_disk.stage}")
        if named and named.md5 != digest.md5 and self._cached(digest.md5) is None:
            return Found(on_disk, digest, lock, current=True, trusted=False)
        return Found(on_disk, digest, lock, current=True)

    def _digest(self, md5: str) -> Digest:
        return hashing.digest(self._repository.object(md5))

    def _cached(self, md5: str) -> Record | None:
        if md5 not in self._read:
            try:
                path = self._repository.object(md5)
                whole = path.is_file() and md5_of_file(path) == md5
                self._read[md5] = records.read(path) if whole else None
            except CxrError:  # not a record, or of an unsupported schema
                self._read[md5] = None
        return self._read[md5]


def _with_runs(candidates: Iterable[Found], prefix: str) -> dict[str, Found]:
    """Records by run id, for run ids that start with `prefix`."""
    return {
        run_id: each
        for each in reversed(list(candidates))  # the first record with a run wins
        for run_id in each.record.run_ids
        if run_id.startswith(prefix)
    }
