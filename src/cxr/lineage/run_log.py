"""Everything logged to an MLflow run, as a stage collects and records it."""

import json
import uuid
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field

from cxr.paths import ProjectPath

RunId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class Slide:
    """An output that MLflow shows as one step of a slider."""

    path: ProjectPath
    key: str  # the slider's name
    step: int


@dataclass(frozen=True)
class Registration:
    """A model to register in MLflow, and its ranking score."""

    files: list[ProjectPath]
    score: float  # validation macro AUROC; the best one of the same data is the champion
    data: str  # md5 of the data


@dataclass
class RunLog:
    """Everything logged to one MLflow run; stored in the record, so that it can be logged again."""

    name: str
    model: str | None
    run_id: RunId = ""
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, str]] = field(default_factory=list)  # name, digest, context
    history: list[dict[str, float]] = field(default_factory=list)  # one mapping per epoch
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: list[ProjectPath] = field(default_factory=list)  # paths of outputs
    slides: list[Slide] = field(default_factory=list)
    registration: Registration | None = None
    shared: bool = False  # one run for every execution with the same content

    def id_by_content(self) -> str:
        """A run id that two logs share if they have the same content."""
        content = asdict(self) | {"run_id": ""}
        return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True)).hex
