"""Records: what made a stage's outputs, written down by the stage itself and kept with them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.lineage import Digest, Facts, RunLog

SCHEMA = 3
FOLDER = "records"
SHORT_ID = 8  # digits of a run id that people are shown

STAGE_TAG = "cxr.stage"
RECORD_TAG = "cxr.record"
ATTEMPT_TAG = "cxr.attempt"  # of all tries that go on with one another
PROCESS_TAG = "cxr.process"
FAILURE_TAG = "cxr.failure"
ORIGINAL_TAG = "cxr.original_run_id"
DESCRIPTION_TAG = "mlflow.note.content"

MEND = "`dvc checkout --force` brings back the one that dvc.lock names"


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


def read(path: Path) -> Record:
    """Read and check a record; CxrError with one line where it is none."""
    try:
        content = json.loads(path.read_bytes())
        schema = content.get("schema")
        if schema != SCHEMA:
            raise CxrError(f"{path} has schema {schema!r} instead of {SCHEMA}; run `dvc repro`")
        return _RECORD.validate_python(content)
    except FileNotFoundError:
        raise CxrError(f"{path} is missing; {MEND}") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CxrError(
            f"{path} is no record ({where}: {error.errors()[0]['msg']}); {MEND}"
        ) from None
    except (ValueError, AttributeError):
        raise CxrError(f"{path} is no record (not the JSON of one); {MEND}") from None


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
        ("data", f"{record.data.name} ({record.data.source})"),
        *((f"from `{path}`", f"md5 `{md5}`") for path, md5 in facts.inputs.items()),
        *((f"from `{path}`", f"md5 `{md5}`") for path, md5 in facts.foreign.items()),
        ("code", f"commit `{facts.code['commit']}`" + (f", {edited} edited" if edited else "")),
        (
            "environment",
            f"Python {facts.environment['python']}, torch {packages['torch']}, "
            f"{facts.environment['device']}, {facts.environment['threads']} threads",
        ),
        *((f"made `{path}`", f"md5 `{digest.md5}`") for path, digest in record.outputs.items()),
    ]
    lines = [f"**{record.stage}**: what made it, and whether that still holds:", ""]
    lines += [f"    cxr audit {run_id[:SHORT_ID]}", "", "| | |", "|---|---|"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows])


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)
