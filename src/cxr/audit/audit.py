"""Traces a result back to its source data, and checks every step on the way.

Each step is compared across the files on disk, dvc.lock, DVC's cache, the stage's record, MLflow
and git. A finding names the one that disagrees with the others.
"""

import re
from dataclasses import dataclass, field, replace
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

EVALUATE = "evaluate"
RUN_ID = re.compile("[0-9a-f]{4,32}")


@dataclass
class Node:
    """One execution of a stage, with its findings and what it was made from."""

    record: Record
    current: bool  # its outputs are in the working copy
    findings: list[Finding]
    made_from: dict[str, "Node | None"] = field(default_factory=dict)  # by input path

    @property
    def verdict(self) -> Verdict:
        """Verdict of this execution alone, without what it was made from."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def has_problems(self) -> bool:
        """Whether a check failed or left a note."""
        return self.verdict is not Verdict.HOLDS


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    target: str
    results: list[Node]  # the target
    nodes: list[Node]  # the target and all it was made from, each once, the source first
    findings: list[Finding]  # about the project as a whole

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        findings = [*self.findings, *(finding for node in self.nodes for finding in node.findings)]
        return worst(finding.verdict for finding in findings)

    def as_json(self) -> dict[str, Any]:
        """What `cxr audit --json` prints."""
        return {
            "target": self.target,
            "verdict": self.verdict,
            "findings": [finding.as_json() for finding in self.findings],
            "stages": [
                {
                    "stage": node.record.stage,
                    "asked_for": node in self.results,
                    "current": node.current,
                    "verdict": node.verdict,
                    "findings": [finding.as_json() for finding in node.findings],
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
    """Audits one clone; each execution of a stage is checked once."""

    def __init__(self, root: Path, advance: Advance = lambda done, total: None) -> None:
        self._project = Project(root)
        self._advance = advance  # called after each execution of a stage
        self._nodes: dict[tuple[str, bool], Node] = {}
        self._n_expected = 0

    def everything(self) -> Audit:
        """Audit all results of the working copy and of every experiment."""
        project, archive = self._project, self._project.archive
        findings = [*self._without_record(), *self._without_maps()]
        experiments: list[Found] = []
        for name, commit in project.repository.experiments():
            lock = project.repository.lock_at(commit)
            experiments += archive.at(lock).values()
            findings += self._missing_records(name, archive.lost(lock))
        if not (archive.current or findings or experiments):
            raise CxrError(f"{project.root} has no results yet; run `dvc repro`")
        results = [*archive.current.values(), *experiments]
        return self._audit("working copy and experiments", results, findings)

    def output(self, path: Path) -> Audit:
        """Audit a file or folder of the working copy."""
        project = self._project
        # The last part is not resolved: DVC may have linked it to its cache.
        output = path.parent.resolve() / path.name
        if not output.is_relative_to(project.root):
            raise CxrError(f"{path} is outside of {project.root}; name a file inside it")
        name = output.relative_to(project.root).as_posix()
        makers = [
            each.stage
            for each in project.declared.values()
            if any(inside(name, (other,)) or inside(other, (name,)) for other in each.outputs)
        ]
        if not makers:
            raise CxrError(
                f"{name} is neither an output of a stage nor a run id; outputs are in data/, "
                "models/, predictions/, decisions/, attributions/, reports/ and records/"
            )
        for stage in makers:
            if stage not in project.archive.current:
                raise CxrError(
                    f"{name} has no record ({records.path_of(stage)}); run `dvc pull` to fetch it, "
                    "or `dvc repro` to make it"
                )
        return self._audit(name, [project.archive.current[stage] for stage in makers], [])

    def run(self, text: str) -> Audit:
        """Audit what a run made, by its id or a unique prefix of it."""
        found, run_id = find_run(text, self._project)
        return self._audit(f"run {run_id}", [found], [])

    def _without_record(self) -> list[Finding]:
        """Stages of dvc.lock whose record is neither on disk nor in the cache."""
        findings, project = [], self._project
        for stage in project.lock.keys() - project.archive.current.keys():
            path = records.path_of(stage)
            if stage not in project.declared:
                says = f"{LOCK_FILE} has a stage {stage} that dvc.yaml lacks"
                findings.append(fails(Where.LOCK, says, f"git checkout -- {LOCK_FILE}"))
            elif path in project.declared[stage].outputs:
                findings.append(fails(Where.RECORD, f"{path} is missing", "dvc pull"))
        return findings

    def _without_maps(self) -> list[Finding]:
        """Whether there are results without heat maps, as in an experiment of a sweep."""
        made = self._project.archive.current
        explaining = filter(inputs.makes_maps, self._project.declared)
        if EVALUATE not in made or any(stage in made for stage in explaining):
            return []
        return [note(Where.FILES, "these results have no heat maps yet", inputs.REPRO)]

    def _missing_records(self, experiment: str, lost: dict[str, str]) -> list[Finding]:
        """Findings on records of an experiment that are missing or damaged in the cache.

        `lost` maps each stage to the MD5 of its record.
        """
        files = {stage: self._project.repository.object(md5) for stage, md5 in lost.items()}
        damaged = [stage for stage, file in files.items() if file.exists()]
        absent = [stage for stage in lost if stage not in damaged]
        findings = [
            fails(
                Where.CACHE,
                f"the cached record of {stage} in experiment {experiment} is damaged "
                f"({files[stage]})",
            )
            for stage in damaged
        ]
        if absent:
            says = f"the cache lacks records of experiment {experiment}: {some(absent)}"
            findings.append(note(Where.CACHE, says, f"dvc exp pull origin {experiment}"))
        return findings

    def _audit(self, target: str, asked: list[Found], findings: list[Finding]) -> Audit:
        store = self._project.store
        if store is None:
            says = "MLflow's database is missing; it can be rebuilt from the records"
            findings = [*findings, note(Where.MLFLOW, says, mlflow_runs.SYNC)]
        elif store.is_stale_location(self._project.root):
            says = "MLflow still has the artifact paths of this folder before it was moved"
            findings = [*findings, note(Where.MLFLOW, says, mlflow_runs.SYNC)]
        known = (*asked, *self._project.archive.current.values())
        self._n_expected = len(
            {found.digest.md5 for found in known}
        )  # an upper bound for one result
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
            self._nodes[key] = Node(found.record, found.current, self._check(found), made_from)
            self._advance(len(self._nodes), max(len(self._nodes), self._n_expected))
        return self._nodes[key]

    def _check(self, found: Found) -> list[Finding]:
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
    """Find the record of a run, and the run's id in it.

    Parameters
    ----------
    text : the id of the run or of one rebuilt from it, or a unique prefix.

    Raises
    ------
    CxrError
        If no run matches, or several do, or the run has no result or record.
    """
    if not RUN_ID.fullmatch(text):
        raise CxrError(
            f"{text} is neither an existing file nor a run id (4 to 32 hexadecimal digits); run "
            "`cxr audit` to list all runs"
        )
    archive, store = project.archive, project.store
    stored = {run.original_id: run for run in (store.starting_with(text) if store else [])}
    tagged = [run.tags.get(records.RECORD_TAG, "") for run in stored.values()]
    known = archive.find(text, tagged)
    ids = known.keys() | stored.keys()
    if not ids:
        raise CxrError(
            f"no run {text} in MLflow or in the records; `{FETCH_PAST}` may fetch its record"
        )
    if len(ids) > 1:
        raise CxrError(f"{text} matches {len(ids)} run ids; give more digits")
    run_id = ids.pop()
    run = stored.get(run_id)
    found = known.get(run_id) or archive.find(run_id, tagged).get(run_id)
    if found is None:
        if run and run.status != FINISHED:
            why = run.tags.get("cxr.failure", "it did not finish")
            raise CxrError(
                f"run {run_id} is {run.status} and has no result: {why}; run `dvc repro` to retry"
            )
        if run and STAGE_TAG not in run.tags:
            raise CxrError(
                f"run {run_id} was not made by a stage of this pipeline; run `cxr audit` to list "
                "those that were"
            )
        raise CxrError(
            f"the record of run {run_id} is not in DVC's cache; `{FETCH_PAST}` may fetch it"
        )
    return found, run_id
