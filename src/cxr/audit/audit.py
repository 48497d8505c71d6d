"""From a result to what made it, up to the source; and whether all that still holds.

Each thing is held against its witnesses: what is on disk, DVC's lock file and cache, the stage's
record, MLflow and git. The one that disagrees with the others is named, and nothing else.
"""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cxr.audit import inputs, mlflow_runs, outputs
from cxr.audit.finding import Finding, Verdict, Where, fails, note, some, worst
from cxr.audit.project import Project
from cxr.errors import CxrError
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.facts import inside
from cxr.lineage.records import STAGE_TAG, Record
from cxr.lineage.repository import FETCH_PAST
from cxr.paths import LOCK_FILE
from cxr.progress import Advance
from cxr.tracking.format import FINISHED

RUN_ID = re.compile("[0-9a-f]{4,32}")


@dataclass
class Node:
    """One execution of a stage: what was found about it, and what it was made from."""

    record: Record
    current: bool  # its outputs are those of the working copy
    findings: list[Finding]
    made_from: dict[str, "Node | None"] = field(default_factory=dict)  # by input path

    @property
    def verdict(self) -> Verdict:
        """Of this execution alone, not of what it was made from."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def is_troubled(self) -> bool:
        """Whether there is more to say than that it holds."""
        return self.verdict is not Verdict.HOLDS


@dataclass(frozen=True)
class Audit:
    """What an audit answers."""

    target: str
    results: list[Node]  # what was asked for
    nodes: list[Node]  # that and all it was made from, each once, the source first
    findings: list[Finding]  # about the project as a whole

    @property
    def verdict(self) -> Verdict:
        """The worst that was found."""
        found = [*self.findings, *(finding for node in self.nodes for finding in node.findings)]
        return worst(finding.verdict for finding in found)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "target": self.target,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "stages": [
                {
                    "stage": node.record.stage,
                    "asked_for": node in self.results,
                    "current": node.current,
                    "verdict": node.verdict,
                    "findings": [asdict(finding) for finding in node.findings],
                    "made_from": {
                        path: maker and maker.record.run_ids
                        for path, maker in node.made_from.items()
                    },
                    "record": node.record.as_json(),
                }
                for node in self.nodes
            ],
        }


class Auditor:
    """Audits one clone; what it has looked at once it does not look at again."""

    def __init__(self, root: Path, advance: Advance = lambda done, total: None) -> None:
        self._project = Project(root)
        self._advance = advance  # told of every execution of a stage that was looked at
        self._nodes: dict[tuple[str, bool], Node] = {}
        self._n_expected = 0

    def everything(self) -> Audit:
        """All results of the working copy, and those of every experiment."""
        project, archive = self._project, self._project.archive
        findings = self._without_record()
        experiments: list[Found] = []
        for name, commit in project.repository.experiments():
            lock = project.repository.lock_at(commit)
            experiments += archive.at(lock).values()
            findings += self._lost(name, archive.lost(lock))
        if not (archive.current or findings or experiments):
            raise CxrError(f"{project.root} holds no results yet; `dvc repro` makes some")
        return self._audit("everything", [*archive.current.values(), *experiments], findings)

    def output(self, path: Path) -> Audit:
        """What made a file or folder of the working copy."""
        project = self._project
        # The last part is not resolved: DVC may have linked it to its cache.
        place = path.parent.resolve() / path.name
        if not place.is_relative_to(project.root):
            raise CxrError(f"{path} lies outside of {project.root}; name a file inside")
        name = place.relative_to(project.root).as_posix()
        makers = [
            each.stage
            for each in project.declared.values()
            if any(inside(name, (output,)) or inside(output, (name,)) for output in each.outputs)
        ]
        if not makers:
            raise CxrError(
                f"{name} is no output of a stage and no run id; data/, models/, predictions/, "
                "decisions/, reports/ and records/ hold what stages make"
            )
        for stage in makers:
            if stage not in project.archive.current:
                raise CxrError(
                    f"{name} has no record ({records.path_of(stage)}); `dvc pull` brings it where "
                    "there is one, `dvc repro` makes it"
                )
        return self._audit(name, [project.archive.current[stage] for stage in makers], [])

    def run(self, text: str) -> Audit:
        """What a run made, by its id or a unique start of one."""
        found, run_id = find_run(text, self._project)
        return self._audit(f"run {run_id}", [found], [])

    def _without_record(self) -> list[Finding]:
        """Stages of dvc.lock whose record is neither on disk nor in the cache."""
        findings, project = [], self._project
        for stage in project.lock.keys() - project.archive.current.keys():
            path = records.path_of(stage)
            if stage not in project.declared:
                says = f"{LOCK_FILE} has a stage {stage} that dvc.yaml does not have"
                findings.append(fails(Where.LOCK, says, f"git checkout -- {LOCK_FILE}"))
            elif path in project.declared[stage].outputs:
                findings.append(fails(Where.RECORD, f"{path} is missing", "dvc pull"))
        return findings

    def _lost(self, experiment: str, lost: dict[str, str]) -> list[Finding]:
        """Records of an experiment that the cache lacks, or has damaged."""
        places = {stage: self._project.repository.object(md5) for stage, md5 in lost.items()}
        damaged = [stage for stage, place in places.items() if place.exists()]
        absent = [stage for stage in lost if stage not in damaged]
        findings = [
            fails(
                Where.CACHE,
                f"the cached record of {stage} in experiment {experiment} is damaged "
                f"({places[stage]})",
            )
            for stage in damaged
        ]
        if absent:
            says = f"the cache lacks the records of {some(absent)} in experiment {experiment}"
            findings.append(note(Where.CACHE, says, f"dvc exp pull origin {experiment}"))
        return findings

    def _audit(self, target: str, asked: list[Found], findings: list[Finding]) -> Audit:
        store = self._project.store
        if store is None:
            says = "MLflow's database is not there; the records hold all it had"
            findings = [*findings, note(Where.MLFLOW, says, mlflow_runs.SYNC)]
        elif store.is_stale_location(self._project.root):
            says = "MLflow looks for its pictures where this folder was before"
            findings = [*findings, note(Where.MLFLOW, says, mlflow_runs.SYNC)]
        known = (*asked, *self._project.archive.current.values())
        self._n_expected = len({found.digest.md5 for found in known})  # at most, of one result
        results = [self._node(found) for found in asked]
        self._project.memory.save()
        return Audit(target, results, list(self._nodes.values()), findings)

    def _node(self, found: Found) -> Node:
        key = (found.digest.md5, found.current)
        if key not in self._nodes:
            made_from: dict[str, Node | None] = {}
            for path, md5 in found.record.facts.inputs.items():
                maker = self._project.archive.maker(path, md5, found)
                if maker and maker.current and not found.current:
                    maker = replace(maker, current=False)
                made_from[path] = self._node(maker) if maker else None
            self._nodes[key] = Node(found.record, found.current, self._look(found), made_from)
            self._advance(len(self._nodes), max(len(self._nodes), self._n_expected))
        return self._nodes[key]

    def _look(self, found: Found) -> list[Finding]:
        project = self._project
        record = outputs.record(found, project)
        if not found.trusted:
            return record
        return [
            *inputs.sources(found, project),
            *inputs.inputs(found, project),
            *inputs.parameters(found, project),
            *inputs.code(found, project),
            *inputs.environment(found),
            *(outputs.on_disk(found, project) if found.current else []),
            *outputs.in_cache(found, project),
            *record,
            *outputs.locked(found, project),
            *mlflow_runs.in_mlflow(found, project),
        ]


def find_run(text: str, project: Project) -> tuple[Found, str]:
    """The record of a run and the run's id in it.

    Parameters
    ----------
    text : its id, a unique start of that, or the same of a run that was rebuilt from it.

    Raises
    ------
    CxrError
        Where no run, more than one, or one without a result is meant.
    """
    if not RUN_ID.fullmatch(text):
        raise CxrError(
            f"{text} is neither a file here nor a run id (its first 4 to 32 hexadecimal digits); "
            "`cxr audit` alone lists all"
        )
    archive, store = project.archive, project.store
    stored = {run.original_id: run for run in (store.starting_with(text) if store else [])}
    known = archive.find(text)
    ids = known.keys() | stored.keys()
    if not ids:
        raise CxrError(
            f"no run {text} in MLflow or in the records; `{FETCH_PAST}` may bring its record"
        )
    if len(ids) > 1:
        raise CxrError(f"{text} is the start of {len(ids)} run ids; give more digits of one")
    run_id = ids.pop()
    run = stored.get(run_id)
    found = known.get(run_id) or archive.find(run_id).get(run_id)
    if found is None and run and (named := archive.of_md5(run.tags.get(records.RECORD_TAG, ""))):
        found = named if run_id in named.record.run_ids else None
    if found is None:
        if run and run.status != FINISHED:
            why = run.tags.get("cxr.failure", "it did not come to its end")
            raise CxrError(
                f"run {run_id} is {run.status} and made no result: {why}; `dvc repro` tries again"
            )
        if run and STAGE_TAG not in run.tags:
            raise CxrError(
                f"run {run_id} was made by no stage of this pipeline; `cxr audit` alone lists "
                "those that were"
            )
        raise CxrError(
            f"the record of run {run_id} is not in DVC's cache; `{FETCH_PAST}` may bring it"
        )
    return found, run_id
