"""Explains why two results differ: data, parameters, code or environment."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cxr import git
from cxr.audit.audit import RUN_ID, find_run
from cxr.audit.finding import same, some
from cxr.audit.project import Project
from cxr.errors import CxrError
from cxr.lineage.archive import Found
from cxr.lineage.facts import DECIDING_PACKAGES
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST
from cxr.paths import LOCK_FILE
from cxr.tracking.format import shown_metrics

WORKSPACE = "workspace"
# Metrics of the machine and of the learning rate schedule, not of the result.
NOT_RESULTS = ("speed/", "system/", "schedule/")
NAMED = 4  # causes listed in the sentence; the rest are counted


@dataclass(frozen=True)
class Change:
    """One difference between the two sides."""

    name: str
    a: Any
    b: Any
    detail: str = ""


@dataclass(frozen=True)
class Difference:
    """All differences, from the inputs of a result to its metrics."""

    a: str
    b: str
    data: list[Change]
    parameters: list[Change]
    code: list[Change]
    environment: list[Change]
    results: list[Change]
    n_equal: int  # number of metrics that are the same
    alone: list[str]  # a sentence for each stage that only one side has
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """What `cxr diff --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """A run with everything it was made from, or all stages of a revision."""

    name: str
    chain: dict[str, Found]  # by stage
    stage: str | None = None  # of the run, if this is one run
    run: str | None = None  # name of the run, if this is one run

    def results(self) -> dict[str, float]:
        """The last value of each metric, named `RUN METRIC`, or `METRIC` for a single run."""
        logs = (log for found in self.chain.values() for log in found.record.runs)
        return {
            name if self.run else f"{log.name} {name}": points[-1][1]
            for log in logs
            if self.run in (None, log.name)
            for name, points in shown_metrics(log).items()
            if not name.startswith(NOT_RESULTS)
        }


Pairs = dict[str, tuple[Found, Found]]  # by stage


def difference(root: Path, a: str, b: str) -> Difference:
    """Compare two runs, experiments, git revisions or the `workspace`.

    If one side is a run and the other a revision, the run of the same name is compared.
    """
    project = Project(root)
    left, right = _resolve(a, project), _resolve(b, project)
    left, right = _restrict(left, right, project), _restrict(right, left, project)
    shared = [name for name in left.chain if name in right.chain]
    pairs = {name: (left.chain[name], right.chain[name]) for name in shared}
    before, after = left.results(), right.results()
    common = [name for name in before if name in after]
    results = [Change(n, before[n], after[n]) for n in common if before[n] != after[n]]
    changes = {
        "data": _data(pairs, project),
        "parameters": _stage_by_stage(pairs, lambda found: found.record.facts.params),
        "code": [_with_lines(each, project) for each in _stage_by_stage(pairs, _affecting_code)],
        "environment": _stage_by_stage(pairs, _environment),
        "results": results,
    }
    alone = [
        f"{name} is only in {side.name}"
        for side in (left, right)
        for name in side.chain
        if name not in pairs
    ]
    n_equal = len(common) - len(results)
    sentence = _sentence(left, right, changes, bool(common))
    return Difference(
        left.name, right.name, **changes, n_equal=n_equal, alone=alone, sentence=sentence
    )


def _resolve(name: str, project: Project) -> Side:
    """Resolve a name; experiments and git revisions take precedence over run ids."""
    if name == WORKSPACE:
        chain = {k: found for k, found in project.archive.current.items() if found.trusted}
        if not chain:
            raise CxrError(f"{project.root} has no results yet; run `dvc repro`")
        return Side(name, chain)
    commit = project.repository.commit(name)
    if commit is None:
        if not RUN_ID.fullmatch(name):
            raise CxrError(
                f"{name} is not an experiment, git revision or run id; `dvc exp show` lists "
                "experiments"
            )
        found, run_id = find_run(name, project)
        run = next(log.name for log in found.record.runs if log.run_id == run_id)
        title = f"{run_id[:SHORT_ID]} ({run})"
        return Side(title, _collect(found, project, {}), found.record.stage, run)
    lock = project.repository.lock_at(commit)
    if not lock:
        raise CxrError(
            f"{name} has no {LOCK_FILE} and thus no results; commit {LOCK_FILE} or name another "
            "revision"
        )
    if lost := project.archive.lost(lock):
        raise CxrError(
            f"records of {some(lost)} in {name} are missing from DVC's cache or damaged; "
            f"`{FETCH_PAST}` may fetch them"
        )
    return Side(name, project.archive.at(lock))


def _restrict(side: Side, other: Side, project: Project) -> Side:
    """If the other side is a run, restrict a revision to what is comparable with it."""
    if side.stage is not None or other.stage is None:
        return side
    if other.stage not in side.chain:
        raise CxrError(
            f"{side.name} has no result of {other.stage} to compare; name a revision that has"
        )
    chain = _collect(side.chain[other.stage], project, {})
    return Side(side.name, chain, other.stage, other.run)


def _collect(found: Found, project: Project, chain: dict[str, Found]) -> dict[str, Found]:
    """Collect the result and everything it was made from, by stage, the source first."""
    for path, md5 in found.record.facts.inputs.items():
        maker = project.archive.maker(path, md5, found)
        if maker is not None and maker.record.stage not in chain:
            _collect(maker, project, chain)
    chain[found.record.stage] = found
    return chain


def _changes(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    return [
        Change(name, a.get(name), b.get(name))
        for name in {**a, **b}
        if not same(a.get(name), b.get(name))
    ]


def _stage_by_stage(pairs: Pairs, of: Callable[[Found], dict[str, Any]]) -> list[Change]:
    """List each change once; `detail` names the stages unless it is in all with that item."""
    changes: dict[str, tuple[Change, list[str]]] = {}
    n_stages: dict[str, int] = {}
    for stage, (left, right) in pairs.items():
        a, b = of(left), of(right)
        for name in {**a, **b}:
            n_stages[name] = n_stages.get(name, 0) + 1
        for change in _changes(a, b):
            changes.setdefault(repr(change), (change, []))[1].append(stage)
    return [
        replace(change, detail="" if len(stages) == n_stages[change.name] else ", ".join(stages))
        for change, stages in changes.values()
    ]


def _affecting_code(found: Found) -> dict[str, str]:
    code = found.record.facts.code
    return {path: code["files"][path] for path in code["deciding"]}


def _environment(found: Found) -> dict[str, Any]:
    environment = found.record.facts.environment
    others = {key: value for key, value in environment.items() if key != "packages"}
    return {**environment["packages"], **others}


def _made_data(found: Found) -> dict[str, str]:
    """MD5 of each output in data/, and of the user's own files."""
    outputs = found.record.outputs.items()
    data = {path: digest.md5 for path, digest in outputs if path.startswith("data/")}
    return data | found.record.facts.foreign


def _counts(found: Found) -> dict[str, float]:
    """Number of images per split, from the metrics of preprocess."""
    if found.record.stage != "preprocess":
        return {}
    metrics = found.record.runs[0].metrics.items()
    return {f"images in {k.removeprefix('n/')}": v for k, v in metrics if k.startswith("n/")}


def _data(pairs: Pairs, project: Project) -> list[Change]:
    """Changed image counts, then each changed output with its changed files."""
    changes = _stage_by_stage(pairs, _counts)
    for change in _stage_by_stage(pairs, _made_data):
        then, now = (
            project.repository.content(change.name, md5) if md5 else None
            for md5 in (change.a, change.b)
        )
        files = [each.name for each in _changes(then, now)] if then and now else []
        detail = some(files) if files and files != [change.name] else ""
        changes.append(replace(change, detail=detail))
    return changes


def _with_lines(change: Change, project: Project) -> Change:
    """Add the number of added and removed lines, if git has both versions."""
    if change.b is None or change.a is None:
        return replace(change, detail="deleted" if change.b is None else "added")
    # Blobs have no path, so that diff.relative in a user's settings would hide them.
    numstat = ("-c", "diff.relative=false", "diff", "--numstat")
    stat = git.ask(project.root, *numstat, change.a, change.b)
    if not stat:
        return replace(change, detail="edited, not committed")
    added, removed = stat.split()[:2]
    return replace(change, detail=f"+{added} -{removed} lines")


def _sentence(left: Side, right: Side, changes: dict[str, list[Change]], common: bool) -> str:
    """Say why the results differ, or that nothing that affects them does."""
    affecting = (*DECIDING_PACKAGES, "python", "machine", "cpu", "device")
    causes = [
        *(
            f"{c.name} is {c.a} in {left.name} and {c.b} in {right.name}"
            + (f" for {c.detail}" if c.detail else "")
            for c in changes["parameters"]
        ),
        *(f"the code of {c.name} differs" for c in changes["code"]),
        *(
            f"{c.name} is {c.a} in {left.name} and {c.b} in {right.name}"
            for c in changes["environment"]
            if c.name in affecting
        ),
    ]
    # Different data follow from different parameters or code, unless neither differs.
    if changes["data"] and not causes:
        causes = [f"the data differ: {some(c.name for c in changes['data'])}"]
    listed = "; ".join(causes[:NAMED]) + (
        f"; and {len(causes) - NAMED} more" if len(causes) > NAMED else ""
    )
    if not common:
        return "The two sides have no metric in common."
    if left.run != right.run:
        return (
            f"These are different kinds of runs, {left.run} and {right.run}; only what both were "
            "made from is compared."
        )
    if not changes["results"]:
        if not causes:
            return "The results are the same, and so is everything that affects them."
        return f"The results are the same, although {listed}."
    if not causes:
        device = list(right.chain.values())[-1].record.facts.environment["device"]
        return (
            "The results differ, although everything recorded that affects them is the same; runs "
            f"on {device} are not always bit-identical."
        )
    return f"The results differ because {listed}."
