"""Why two results differ: in data, parameters, code, environment, or in nothing recorded."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr import audit, git
from cxr.archive import Found
from cxr.audit.finding import some
from cxr.audit.project import Project
from cxr.errors import CxrError
from cxr.lineage import DECIDING_PACKAGES
from cxr.tracking import shown_metrics

WORKSPACE = "workspace"
BESIDE = ("speed/", "schedule/")  # metrics of the machine and of the rate, not of the result
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
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """A result, or all results of a revision, with what they were made from."""

    name: str
    asked: list[Found]
    chain: dict[str, Found]  # by stage
    run_id: str | None  # where one run was asked for

    @property
    def parameters(self) -> dict[str, Any]:
        return self._merged(lambda found: found.record.facts.params)

    @property
    def code(self) -> dict[str, str]:
        """Blob hash of each deciding file."""

        def deciding(found: Found) -> dict[str, str]:
            code = found.record.facts.code
            return {path: code["files"][path] for path in code["deciding"]}

        return self._merged(deciding)

    @property
    def data(self) -> dict[str, str]:
        """MD5 of each output below data/, and of the user's own files."""

        def made(found: Found) -> dict[str, str]:
            outputs = found.record.outputs.items()
            below = {path: digest.md5 for path, digest in outputs if path.startswith("data/")}
            return below | found.record.facts.foreign

        return self._merged(made)

    @property
    def counts(self) -> dict[str, float]:
        """Images of each split, as preprocess found them."""
        found = self.chain.get("preprocess")
        metrics = found.record.runs[0].metrics if found else {}
        return {
            f"images in {name.removeprefix('n/')}": value
            for name, value in metrics.items()
            if name.startswith("n/")
        }

    def results(self, with_run: bool) -> dict[str, float]:
        """The last value of each metric; two single runs are compared whatever their names."""
        return {
            f"{log.name} {name}" if with_run else name: points[-1][1]
            for found in self.asked
            for log in found.record.runs
            if self.run_id in (None, log.run_id)
            for name, points in shown_metrics(log).items()
            if not name.startswith(BESIDE)
        }

    def _merged(self, of: Callable[[Found], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for found in self.chain.values() for key, value in of(found).items()}


def difference(root: Path, a: str, b: str) -> Difference:
    """Compare two runs, experiments or git revisions; `workspace` is what stands here now."""
    project = Project(root)
    left, right = _side(a, project), _side(b, project)
    with_run = left.run_id is None or right.run_id is None
    before, after = left.results(with_run), right.results(with_run)
    changes = {
        "data": _data(left, right, project),
        "parameters": _changes(left.parameters, right.parameters),
        "code": _code(left, right, project),
        "environment": _environment(left, right),
        "results": _changes(before, after),
    }
    common = before.keys() & after.keys()
    n_equal = sum(before[name] == after[name] for name in common)
    sentence = _sentence(left, right, changes, bool(common))
    return Difference(left.name, right.name, **changes, n_equal=n_equal, sentence=sentence)


def _side(name: str, project: Project) -> Side:
    """Whatever the name means; an experiment or revision comes before the start of a run id."""
    if name == WORKSPACE:
        chain = {k: found for k, found in project.archive.current.items() if found.trusted}
        if not chain:
            raise CxrError(f"{project.root} holds no results yet; `dvc repro` makes some")
        return Side(name, list(chain.values()), chain, None)
    is_run_id = len(name) == audit.RUN_ID_LENGTH
    commit = None if is_run_id else project.repository.commit(name)
    if commit is None:
        if not audit.RUN_ID.fullmatch(name):
            raise CxrError(f"{name} is no experiment, git revision or run id; `dvc exp show` lists")
        found, run_id = audit.find_run(name, project)
        chain = {}
        _climb(found, project, chain)
        return Side(f"{run_id[:8]} ({found.record.stage})", [found], chain, run_id)
    chain = project.archive.at(project.repository.lock_at(commit))
    if not chain:
        raise CxrError(
            f"{name} has no records here: it was never run, or its records are not in DVC's "
            "cache; `dvc fetch --all-commits` may bring them"
        )
    return Side(name, list(chain.values()), chain, None)


def _climb(found: Found, project: Project, chain: dict[str, Found]) -> None:
    """The result and all that it was made from, the source first."""
    for path, md5 in found.record.facts.inputs.items():
        maker = project.archive.maker(path, md5)
        if maker is not None and maker.record.stage not in chain:
            _climb(maker, project, chain)
    chain[found.record.stage] = found


def _changes(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    return [
        Change(name, a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)
    ]


def _data(left: Side, right: Side, project: Project) -> list[Change]:
    """Counts of images, then each output that differs, and which of its files."""
    changes = _changes(left.counts, right.counts)
    for change in _changes(left.data, right.data):
        then, now = (
            project.repository.content(change.name, md5) if md5 else None
            for md5 in (change.a, change.b)
        )
        files = [each.name for each in _changes(then, now)] if then and now else []
        detail = some(files) if files and files != [change.name] else ""
        changes.append(Change(change.name, change.a, change.b, detail))
    return changes


def _code(left: Side, right: Side, project: Project) -> list[Change]:
    changes = []
    for change in _changes(left.code, right.code):
        detail = "only there" if change.b is None else "new" if change.a is None else ""
        if change.a and change.b:
            stat = git.ask(project.root, "diff", "--numstat", change.a, change.b)
            added, removed = stat.split()[:2] if stat else ("?", "?")
            detail = f"+{added} -{removed} lines" if stat else "edited, not in git"
        changes.append(Change(change.name, change.a, change.b, detail))
    return changes


def _environment(left: Side, right: Side) -> list[Change]:
    """Stage by stage, since each may have been made in another place; each change once."""
    shared = [(left.chain[name], right.chain[name]) for name in left.chain if name in right.chain]
    pairs = shared or [(left.asked[-1], right.asked[-1])]
    changes: list[Change] = []
    for pair in pairs:
        then, now = (found.record.facts.environment for found in pair)
        for change in _changes({**then, **then["packages"]}, {**now, **now["packages"]}):
            if change.name != "packages" and change not in changes:
                changes.append(change)
    return changes


def _sentence(left: Side, right: Side, changes: dict[str, list[Change]], common: bool) -> str:
    """Why the numbers differ, or that nothing which decides them does."""
    deciding = (*DECIDING_PACKAGES, "python", "machine", "cpu", "device")
    causes = [
        *(
            f"{c.name} is {c.a} in {left.name} and {c.b} in {right.name}"
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
    if not changes["results"]:
        if not causes:
            return "Nothing that decides the numbers differs, and they are the same."
        return f"The numbers are the same, although this differs: {named}."
    if not causes:
        device = right.asked[-1].record.facts.environment["device"]
        return (
            "The numbers differ although nothing that is recorded to decide them does; "
            f"on {device} a run is not always the same bit for bit."
        )
    return f"The numbers differ because this does: {named}."
