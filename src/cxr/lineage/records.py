"""Records: what made a stage's outputs, written down by the stage itself and kept with them."""

import html
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cxr.data.splits import Origin
from cxr.documents import read_made
from cxr.errors import CxrError, shown
from cxr.hashing import Digest
from cxr.lineage.facts import DECIDING_PACKAGES, Facts
from cxr.lineage.run_log import RunLog

SCHEMA = 3
FOLDER = "records"

STAGE_TAG = "cxr.stage"
RECORD_TAG = "cxr.record"
ATTEMPT_TAG = "cxr.attempt"  # of all tries that go on with one another
PROCESS_TAG = "cxr.process"
FAILURE_TAG = "cxr.failure"
ORIGINAL_TAG = "cxr.original_run_id"
DESCRIPTION_TAG = "mlflow.note.content"
READ_TAG, MADE_TAG = "cxr.md5.", "cxr.made."  # and a path: the MD5 of an input, of an output

STAGE = re.compile(r"[\w-]+(@[\w.-]+)?")  # as DVC names stages
FILE_MD5 = re.compile("[0-9a-f]{32}")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")  # of a file, or of a folder's list
RUN_ID = re.compile("[0-9a-f]{32}")
SHA = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # of git
FINGERPRINT = re.compile("[0-9a-f]{64}")
# As dvc.yaml has it: what `cxr replay` runs, without a shell.
COMMAND = re.compile(r"(?:PYTHONPATH=src )?python stages/[\w/-]+\.py(?: [\w.-]+)*")
MOST_THREADS = 1024  # as in params.yaml
MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+!|~]")
PLAIN = re.compile(r"[\w./ @=:+-]+")  # as Markdown's code, also in a table


@dataclass(frozen=True)
class Record:
    """One execution of one stage."""

    schema: int
    stage: str
    fingerprint: str
    data: Origin
    facts: Facts
    outputs: dict[str, Digest]  # without the record itself
    runs: list[RunLog]
    started: str  # UTC, ISO 8601
    finished: str
    host: str
    dvc_experiment: str | None
    dvc_baseline: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(log.run_id for log in self.runs)


def path_of(stage: str) -> str:
    """Where a stage's record stands: an output of the stage, which no stage depends on."""
    return f"{FOLDER}/{stage}.json"


def is_inside(path: str) -> bool:
    """Whether a path stays below the folder that it starts from: relative, in its shortest form."""
    # A backslash separates folders on other systems, and what does not print can hide them.
    parts = PurePosixPath(path).parts
    plain = path.isprintable() and "\\" not in path and path == "/".join(parts)
    # POSIX knows two roots, / and //.
    return plain and bool(parts) and not path.startswith("/") and ".." not in parts


def read(path: Path) -> Record:
    """Read and check a record; CxrError with one line where it is none."""

    def parse(content: Any) -> Record:
        schema = content.get("schema")
        if schema != SCHEMA:
            raise CxrError(
                f"{path} has schema {schema!r} instead of {SCHEMA}; run `dvc repro --force`"
            )
        try:
            record = _RECORD.validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        for what, value in _wrong(record):
            raise ValueError(f"{what}: {value!r}")
        return record

    return read_made(path, parse)


def tags(record: Record, log: RunLog, md5: str) -> dict[str, str]:
    """What MLflow is told of a run once its record is written: its MD5, and a card."""
    return {
        RECORD_TAG: md5,
        DESCRIPTION_TAG: card(record, log.run_id),
    }


def card(record: Record, run_id: str) -> str:
    """The run's lineage as Markdown, for the page that MLflow shows of it."""
    facts = record.facts
    edited = len(facts.code["edited"])
    packages = facts.environment["packages"]
    rows = [
        ("data", f"{_text(record.data.name)} ({record.data.source})"),
        *((f"from {_code(path)}", f"md5 `{md5}`") for path, md5 in facts.inputs.items()),
        *((f"from {_code(path)}", f"md5 `{md5}`") for path, md5 in facts.foreign.items()),
        ("code", f"commit `{facts.code['commit']}`" + (f", {edited} edited" if edited else "")),
        (
            "environment",
            _text(
                f"Python {facts.environment['python']}, torch {packages['torch']}, "
                f"{facts.environment['device']}, {facts.environment['threads']} threads"
            ),
        ),
        *(
            (f"made {_code(path)}", f"md5 `{digest.md5}`")
            for path, digest in record.outputs.items()
        ),
    ]
    lines = [f"**{record.stage}**: what made it, and whether that still holds:", ""]
    lines += [f"    cxr audit {run_id[:SHORT_ID]}", "", "| | |", "|---|---|"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows])


def _wrong(record: Record) -> Iterator[tuple[str, object]]:
    """Whatever in a record could lead out of the project or is not of its kind.

    Paths of a record are written to, its ids stand in queries, and git is given its commit.
    """
    facts, code = record.facts, record.facts.code
    logs = record.runs
    paths = [*record.outputs, *facts.dependencies, *facts.inputs]
    paths += [*code["files"], *code["deciding"], *code["edited"]]
    paths += [path for log in logs for path in log.artifacts]
    paths += [slide.path for log in logs for slide in log.slides]
    paths += [path for log in logs if log.registration for path in log.registration.files]
    digests = [*record.outputs.values(), *facts.dependencies.values()]
    md5s = [digest.md5 for digest in digests] + [*facts.inputs.values(), *facts.foreign.values()]
    # A text can stand for a number, and `nan` for none.
    numbers = [
        value for log in logs for row in [log.metrics, *log.history] for value in row.values()
    ]
    numbers += [log.registration.score for log in logs if log.registration]
    sizes = [digest.size for digest in digests] + [digest.nfiles or 0 for digest in digests]
    shas = [*code["files"].values()] + ([code["commit"]] if code["commit"] is not None else [])
    baseline = [] if record.dvc_baseline is None else [record.dvc_baseline]
    yield from (("a path outside of the project", path) for path in paths if not is_inside(path))
    yield from (("an md5", md5) for md5 in md5s if not MD5.fullmatch(md5))
    yield from (("a size", size) for size in sizes if size < 0)
    yield from (("a hash of git", sha) for sha in [*shas, *baseline] if not SHA.fullmatch(sha))
    yield from (("a run id", log.run_id) for log in logs if not RUN_ID.fullmatch(log.run_id))
    yield from (("a number", value) for value in numbers if not math.isfinite(value))
    yield from (("a step", slide.step) for log in logs for slide in log.slides if slide.step < 0)
    yield from (("an epoch", 0) for log in logs if not all("epoch" in row for row in log.history))
    yield from (("a time", each) for each in (record.started, record.finished) if not _time(each))
    for name in (record.stage, facts.stage):
        if not STAGE.fullmatch(name):
            yield "a stage", name
    if not logs:
        yield "runs", logs
    if set(code["deciding"]) - code["files"].keys():
        yield "deciding code without a hash", sorted(set(code["deciding"]) - code["files"].keys())
    if not FINGERPRINT.fullmatch(record.fingerprint):
        yield "a fingerprint", record.fingerprint
    if not COMMAND.fullmatch(facts.command):
        yield "a command", facts.command
    if missing := set(DECIDING_PACKAGES) - facts.environment["packages"].keys():
        yield "no version of packages", sorted(missing)
    if not 1 <= facts.environment["threads"] <= MOST_THREADS:
        yield "threads", facts.environment["threads"]


def _time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _code(text: str) -> str:
    """A name as Markdown's code, or escaped where it would end that or a cell of a table."""
    return f"`{text}`" if PLAIN.fullmatch(text) else _text(text)


def _text(text: str) -> str:
    """A text that Markdown shows as it is, in one line and with nothing of HTML in it."""
    return MARKDOWN.sub(r"\\\g<0>", html.escape(shown(text), quote=False))


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


SHORT_ID = 8  # digits of a run id that people are shown
