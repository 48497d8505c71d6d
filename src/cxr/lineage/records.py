"""Records of what a stage's outputs were made from, written by the stage as another output."""

import html
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cxr.data.splits import Origin
from cxr.documents import read_output, validated
from cxr.errors import CxrError, shown
from cxr.hashing import Digest
from cxr.lineage.facts import Facts
from cxr.lineage.run_log import RunLog
from cxr.paths import RECORDS, ProjectPath

SCHEMA = 3
SHORT_ID = 8  # digits of a run id in messages
JOB_VARIABLE = "CXR_JOB"  # environment variable with the id of a cluster's job
WORKSPACE = "workspace"  # DVC's name for results outside of experiments

STAGE_TAG, MODEL_TAG = "cxr.stage", "cxr.model"
RECORD_TAG = "cxr.record"
ATTEMPT_TAG = "cxr.attempt"  # shared by all runs of a stage that resume one another
PROCESS_TAG = "cxr.process"
FAILURE_TAG = "cxr.failure"
ORIGINAL_TAG = "cxr.original_run_id"
EXPERIMENT_TAG = "cxr.experiment"  # of a shared run: all experiments, separated by commas
DESCRIPTION_TAG = "mlflow.note.content"
READ_TAG, MADE_TAG = "cxr.md5.", "cxr.made."  # plus a path: MD5 of an input or output

# In UTC, ISO 8601.
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+!|~]")
PLAIN = re.compile(r"[\w./ @=:+-]+")  # safe as Markdown code, also in a table


@dataclass(frozen=True)
class Record:
    """One execution of one stage."""

    schema: int
    stage: str
    fingerprint: str
    data: Origin
    facts: Facts
    outputs: dict[ProjectPath, Digest]  # except the record itself
    runs: Annotated[list[RunLog], Field(min_length=1)]
    started: Time
    finished: Time
    host: str
    dvc_experiment: str | None
    dvc_baseline: str | None
    job: str | None = None  # of Slurm or Ray
    gpu: str | None = None  # its UUID; the facts have the model

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(log.run_id for log in self.runs)


def path_of(stage: str) -> str:
    """Path of a stage's record: an output of the stage, on which no stage depends."""
    return f"{RECORDS}/{stage}.json"


def read(path: Path) -> Record:
    """Read and check a record; CxrError with one line if it is invalid."""

    def parse(content: Any) -> Record:
        schema = content.get("schema")
        if schema != SCHEMA:
            raise CxrError(
                f"{path} has schema {schema!r} instead of {SCHEMA}; run `dvc repro --force`"
            )
        return validated(_RECORD, content)

    return read_output(path, parse)


def tags(record: Record, log: RunLog, md5: str) -> dict[str, str]:
    """MLflow tags of a run whose record is written: the record's MD5, and a description."""
    own = {RECORD_TAG: md5, DESCRIPTION_TAG: card(record, log.run_id)}
    return own | {EXPERIMENT_TAG: experiment(record)} if log.shared else own


def experiment(record: Record) -> str:
    """The name of the record's experiment, as `dvc exp show` lists it."""
    return record.dvc_experiment or WORKSPACE


def card(record: Record, run_id: str) -> str:
    """The run's lineage as Markdown, shown on its page in MLflow."""
    facts = record.facts
    edited = len(facts.code["edited"])
    packages = facts.environment["packages"]
    rows = [
        ("data", f"{_text(record.data.name)} ({record.data.source})"),
        *((f"input {_code(path)}", f"md5 `{md5}`") for path, md5 in facts.inputs.items()),
        *((f"input {_code(path)}", f"md5 `{md5}`") for path, md5 in facts.foreign.items()),
        ("code", f"commit `{facts.code['commit']}`" + (f", {edited} edited" if edited else "")),
        (
            "environment",
            _text(
                f"Python {facts.environment['python']}, torch {packages['torch']}, "
                f"{facts.environment['device']}, {facts.environment['threads']} threads"
            ),
        ),
        ("machine", _text(", ".join(filter(None, (record.host, record.job, record.gpu))))),
        *(
            (f"output {_code(path)}", f"md5 `{digest.md5}`")
            for path, digest in record.outputs.items()
        ),
    ]
    lines = [f"**{record.stage}**: what this run was made from. To check that it still holds:", ""]
    lines += [f"    cxr audit {run_id[:SHORT_ID]}", "", "| | |", "|---|---|"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows])


def _code(text: str) -> str:
    """A name as Markdown code, or escaped if it would end the code span or table cell."""
    return f"`{text}`" if PLAIN.fullmatch(text) else _text(text)


def _text(text: str) -> str:
    """Escape text for Markdown: one line, without HTML."""
    return MARKDOWN.sub(r"\\\g<0>", html.escape(shown(text), quote=False))


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)
