"""Why two results differ: in data, parameters, code, environment, or in nothing recorded."""

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
from cxr.lineage.facts import RESULT_AFFECTING_PACKAGES
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST
from cxr.paths import LOCK_FILE
from cxr.tracking.format import shown_metrics

WORKSPACE = "workspace"
# Metrics of the machine and of the rate, not of the result.
NOT_RESULTS = ("speed/", "system/", "schedule/")
NAMED = 4  # causes in the sentence; more are counted


@dataclass(frozen=True)
class Change:
    """One thing that is not the same on both sides."""

    name: str
    a: Any
    b: Any
    detail: str = ""


@dataclass(frozen=True)
class Difference:
    """From what decides a result to the result itself."""

    a: str
    b: str
    data: list[Change]
    parameters: list[Change]
    code: list[Change]
    environment: list[Change]
    results: list[Change]
    n_equal: int  # metrics that are the same
    alone: list[str]  # stages that only one side has, and which
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """A run with what it was made from, or all stages of a revision."""

    name: str
    chain: dict[str, Found]  # by stage
    stage: str | None = None  # of the one run that is compared
    run: str | None = None  # its name

    def results(self) -> dict[str, float]:
        """The last value of each metric; of one run under the metric's name alone."""
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
    """Compare two runs, experiments or git revisions; `workspace` is what stands here now.

    A run is compared with the run of the same name where the other side is a whole revision.
    """
    project = Project(root)
    left, right = _side(a, project), _side(b, project)
    left, right = _cut(left, right, project), _cut(right, left, project)
    shared = [name for name in left.chain if name in right.chain]
    pairs = {name: (left.chain[name], right.chain[name]) for name in shared}
    before, after = left.results(), right.results()
    common = [name for name in before if name in after]
    results = [Change(n, before[n], after[n]) for n in common if before[n] != after[n]]
    changes = {
        "data": _data(pairs, project),
        "parameters": _stage_by_stage(pairs, lambda found: found.record.facts.params),
        "code": [_with_lines(each, project) for each in _stage_by_stage(pairs, _deciding_code)],
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


def _side(name: str, project: Project) -> Side:
    """What the name means; an experiment or git revision comes before a run id."""
    if name == WORKSPACE:
        chain = {k: found for k, found in project.archive.current.items() if found.trusted}
        if not chain:
            raise CxrError(f"{project.root} holds no results yet; `dvc repro` makes some")
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
        return Side(title, _climb(found, project, {}), found.record.stage, run)
    lock = project.repository.lock_at(commit)
    if not lock:
        raise CxrError(
            f"{name} has no {LOCK_FILE}, and so no results; commit {LOCK_FILE}, or name another "
            "revision"
        )
    if lost := project.archive.lost(lock):
        raise CxrError(
            f"the records of {some(lost)} in {name} are not in DVC's cache, or damaged; "
            f"`{FETCH_PAST}` may bring them"
        )
    return Side(name, project.archive.at(lock))


def _cut(side: Side, other: Side, project: Project) -> Side:
    """Of a whole revision only what the one run on the other side is to be held against."""
    if side.stage is not None or other.stage is None:
        return side
    if other.stage not in side.chain:
        raise CxrError(f"{side.name} has no {other.stage} to compare with; name one that has")
    chain = _climb(side.chain[other.stage], project, {})
    return Side(side.name, chain, other.stage, other.run)


def _climb(found: Found, project: Project, chain: dict[str, Found]) -> dict[str, Found]:
    """The result and all that it was made from, the source first."""
    for path, md5 in found.record.facts.inputs.items():
        maker = project.archive.maker(path, md5, found)
        if maker is not None and maker.record.stage not in chain:
            _climb(maker, project, chain)
    chain[found.record.stage] = found
    return chain


def _changes(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    return [
        Change(name, a.get(name), b.get(name))
        for name in {**a, **b}
        if not same(a.get(name), b.get(name))
    ]


def _stage_by_stage(pairs: Pairs, of: Callable[[Found], dict[str, Any]]) -> list[Change]:
    """Each change once, with its stages where it is not in all that have such a thing."""
    places: dict[str, tuple[Change, list[str]]] = {}
    having: dict[str, int] = {}
    for stage, (left, right) in pairs.items():
        a, b = of(left), of(right)
        for name in {**a, **b}:
            having[name] = having.get(name, 0) + 1
        for change in _changes(a, b):
            places.setdefault(repr(change), (change, []))[1].append(stage)
    return [
        replace(change, detail="" if len(stages) == having[change.name] else ", ".join(stages))
        for change, stages in places.values()
    ]


def _deciding_code(found: Found) -> dict[str, str]:
    code = found.record.facts.code
    return {path: code["files"][path] for path in code["deciding"]}


def _environment(found: Found) -> dict[str, Any]:
    environment = found.record.facts.environment
    others = {key: value for key, value in environment.items() if key != "packages"}
    return {**environment["packages"], **others}


def _made_data(found: Found) -> dict[str, str]:
    """MD5 of each output below data/, and of the user's own files."""
    outputs = found.record.outputs.items()
    below = {path: digest.md5 for path, digest in outputs if path.startswith("data/")}
    return below | found.record.facts.foreign


def _counts(found: Found) -> dict[str, float]:
    """Images of each split, as preprocess found them."""
    if found.record.stage != "preprocess":
        return {}
    metrics = found.record.runs[0].metrics.items()
    return {f"images in {k.removeprefix('n/')}": v for k, v in metrics if k.startswith("n/")}


def _data(pairs: Pairs, project: Project) -> list[Change]:
    """Counts of images, then each output that differs, and which of its files."""
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
    """A changed file with its number of added and removed lines, where git has both."""
    if change.b is None or change.a is None:
        return replace(change, detail="gone" if change.b is None else "new")
    # Blobs have no path in the project: with a user's diff.relative git would leave them out.
    numstat = ("-c", "diff.relative=false", "diff", "--numstat")
    stat = git.ask(project.root, *numstat, change.a, change.b)
    if not stat:
        return replace(change, detail="edited, not in git")
    added, removed = stat.split()[:2]
    return replace(change, detail=f"+{added} -{removed} lines")


def _sentence(left: Side, right: Side, changes: dict[str, list[Change]], common: bool) -> str:
    """Why the numbers differ, or that nothing which decides them does."""
    deciding = (*RESULT_AFFECTING_PACKAGES, "python", "machine", "cpu", "device")
    causes = [
        *(
            f"{c.name} is {c.a} in {left.name} and {c.b} in {right.name}"
            + (f" for {c.detail}" if c.detail else "")
            for c in changes["parameters"]
        ),
        *(f"the code of {c.name}" for c in changes["code"]),
        *(f"{c.name} {c.a} and {c.b}" for c in changes["environment"] if c.name in deciding),
    ]
    # Other data is the outcome of another parameter or code, unless neither differs.
    causes = causes or [f"the data: {c.name}" for c in changes["data"]]
    named = "; ".join(causes[:NAMED]) + (
        f"; and {len(causes) - NAMED} more" if len(causes) > NAMED else ""
    )
    if not common:
        return "The two have no metric in common."
    if left.run != right.run:
        return (
            f"The two are runs of different things, {left.run} and {right.run}; compared is what "
            "both were made from."
        )
    if not changes["results"]:
        if not causes:
            return "Nothing that decides the numbers differs, and they are the same."
        return f"The numbers are the same, although this differs: {named}."
    if not causes:
        device = list(right.chain.values())[-1].record.facts.environment["device"]
        return (
            "The numbers differ although nothing that is recorded to decide them does; "
            f"on {device} a run is not always the same bit for bit."
        )
    return f"The numbers differ because this does: {named}."
