"""Prints answers at a terminal, as trees and tables."""

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cxr.audit.audit import Audit, Node
from cxr.audit.difference import Change, Difference
from cxr.audit.finding import Finding, Verdict, Where
from cxr.audit.replay import ABSOLUTE, RELATIVE, Replay
from cxr.audit.sync import Sync
from cxr.cli.terminal import console
from cxr.errors import shown
from cxr.evaluation import significance
from cxr.formatting import comparison, count, number, signed, widest_gap, with_interval
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST

if TYPE_CHECKING:  # slow imports (torch, sklearn) that most commands do not need
    from cxr.inference.predict import Model, Prediction, Refused
    from cxr.scoring.score import Score


NAMES = {
    "macro_auroc": "macro AUROC",
    "macro_ap": "macro AP",
    "brier_skill": "Brier skill",
    "ece": "ECE",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}

AT_THRESHOLD = ("sensitivity", "specificity")

SHARED = {"seed", "threads"}  # parameters of every stage

MARKS = {
    Verdict.HOLDS: ("✓", "green"),
    Verdict.NOTE: ("!", "yellow"),
    Verdict.FAILS: ("✗", "bold red"),
}
SENTENCES = {
    Verdict.HOLDS: "all checks passed",
    Verdict.NOTE: "all checks passed, with notes",
    Verdict.FAILS: "not all checks passed",
}


def audit(answer: Audit) -> None:
    """Print the target in full and what it was made from in brief, with all problems."""
    headline = _marked(answer.verdict, f"{answer.target}: {SENTENCES[answer.verdict]}")
    project = [_finding(finding) for finding in answer.findings]
    if len(answer.results) == 1:
        results: list[Tree | Text] = [_tree(answer.results[0], None, set())]
    else:
        shown = [node for node in answer.nodes if node.current or node.has_problems]
        results = [_short(node) for node in shown]
        # An experiment also has the executions that it shares with the working copy.
        shown_ids = {node.record.run_ids[0] for node in shown}
        if others := {node.record.run_ids[0] for node in answer.nodes} - shown_ids:
            text = f"{count(len(others), 'other stage execution')} in experiments"
            results.append(_marked(Verdict.HOLDS, text))
    for line in [headline, *project, *results]:
        console.print(line)


def diff(answer: Difference) -> None:
    """Print what differs, from data to results, and why the results differ."""
    console.print(Text(f"{answer.a} → {answer.b}", style="bold"))
    for title in ("data", "parameters", "code", "environment", "results"):
        changes: list[Change] = getattr(answer, title)
        same = f", {answer.n_equal} the same" if title == "results" and changes else ""
        n = f"{len(changes)} differ{'s' if len(changes) == 1 else ''}" if changes else "the same"
        console.print(Text(f"{title}: {n}{same}", style="bold"))
        table = Table.grid(padding=(0, 2))
        for change in changes:
            # As Text, in which rich does not look for markup.
            a, b = (Text(_value(value, title)) for value in (change.a, change.b))
            detail = Text(change.detail, style="dim")
            table.add_row("", Text(change.name), a, "→", b, detail)
        if changes:
            console.print(table)
    for line in answer.alone:
        console.print(line, markup=False)
    console.print(Text(answer.sentence, style="bold"))


def replay(done: Replay) -> None:
    """Print each output and metric that differs, and the verdict."""
    for each in [*done.outputs, *done.metrics]:
        if each.then != each.now:
            console.print(
                _marked(Verdict.NOTE, f"{each.name}: {each.then} recorded, {each.now} replayed")
            )
    compared = f"{count(len(done.outputs), 'output')}, {count(len(done.metrics), 'metric')}"
    if done.identical:
        line = f"{done.stage}: replay is bit-identical ({compared})"
    elif done.same_kind:
        line = f"{done.stage}: replay gave a different result from identical inputs ({compared})"
    else:
        within = "within" if done.close else "beyond"
        line = (
            f"{done.stage}: replay on a different machine or with other packages gave metrics "
            f"{within} {ABSOLUTE} + {RELATIVE:.0%} of the recorded ones ({compared})"
        )
    console.print(_marked(Verdict.HOLDS if done.holds else Verdict.FAILS, line))


def sync(done: Sync) -> None:
    """Print each synced run, and how many were up to date."""
    for run in done.runs:
        new = f" as {run.now[:SHORT_ID]}" if run.now != run.run_id else ""
        line = f"{run.how} {run.run_id[:SHORT_ID]} ({run.name}){new}"
        if run.lost:
            lost = count(len(run.lost), "file")
            line += f", without {lost} in neither the working copy nor DVC's cache"
        console.print(line, markup=False)
    for run_id, why in done.refused.items():
        console.print(
            _marked(Verdict.FAILS, f"could not log run {run_id[:SHORT_ID]} to MLflow: {why}")
        )
    if done.n_moved:
        console.print(f"updated the artifact paths of {count(done.n_moved, 'run')}")
    console.print(f"{count(len(done.runs), 'run')} synced, {done.n_there} already up to date")


def score(done: "Score") -> None:
    """Print models and baselines, then the scored model by label, then notes."""
    console.print(_models(done.models))
    scored = done.models[done.name]
    console.print(_labels(done.name, scored["labels"]))
    for each in done.comparisons:
        if each["metric"].startswith("macro") and each["p"] is not None:
            line = f"{each['a']} minus {each['b']}: {NAMES[each['metric']]} {comparison(each)}"
            console.print(Text(line))
    if done.subgroups is not None:
        console.print(_groups(done.name, done.subgroups))
        gap = significance.widest_gap(done.subgroups, done.name)
        console.print(Text(shown(widest_gap(gap, list(done.subgroups["attributes"])))))
    for reference, readings in done.references.items():
        for reading, compared in readings.items():
            for line in _reading(f"{reference}, {reading}", compared, done.name):
                console.print(Text(shown(line)))
    intervals = scored["intervals"]
    console.print(
        f"{count(scored['n'], 'image')}; {intervals['level']:.0%} intervals from "
        f"{intervals['n_resamples']:,} resamples of "
        f"{count(intervals['n_units'], intervals['unit'])}"
    )
    console.print(Text(shown(f"matched {done.matched.how}")))
    few = f"too few positive or negative {intervals['unit']}s for reliable intervals: "
    unsure = few + ", ".join(intervals["unsure"]) if intervals["unsure"] else None
    for note in [*_undefined(scored), unsure, *done.notes, intervals.get("note")]:
        if note:
            console.print(_marked(Verdict.NOTE, note))


def predictions(done: "list[Prediction | Refused]", model: "Model") -> None:
    """Print predicted findings per image, by ratio of probability to threshold, and warnings."""
    from cxr.inference.predict import NOTICE, Refused

    thresholds = model.operating_point.thresholds
    for each in done:
        if isinstance(each, Refused):
            continue
        predicted_positive = [i for i, verdict in enumerate(each.predicted_positive) if verdict]
        predicted_positive.sort(key=lambda i, probs=each.probs: -probs[i] / thresholds[i])  # type: ignore[misc]
        findings = ", ".join(f"{each.labels[i]} {each.probs[i]:.3f}" for i in predicted_positive)
        console.print(Text(f"{shown(str(each.path))}: {findings or 'no finding predicted'}"))
        for warning in each.warnings:
            console.print(_marked(Verdict.NOTE, warning))
    console.print(
        Text(f"{model.saved.name}: probabilities at or above each label's threshold. {NOTICE}")
    )


def _models(models: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in (
        "",
        "macro AUROC",
        "macro AP",
        "Brier",
        "Brier skill",
        "ECE",
        "accuracy",
        "accuracy gain",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for name, metrics in models.items():
        table.add_row(
            Text(shown(name)),
            with_interval(metrics, "macro_auroc"),
            with_interval(metrics, "macro_ap"),
            *(number(metrics[key]) for key in ("brier", "brier_skill", "ece", "accuracy")),
            signed(metrics["accuracy_gain"]),
        )
    return table


def _labels(name: str, labels: dict[str, dict[str, Any]]) -> Table:
    """One model's metrics by label; those of predictions only if there are thresholds."""
    keys = ["brier_skill", "ece"]
    if any(each["threshold"] is not None for each in labels.values()):
        keys += ["sensitivity", "specificity", "ppv", "npv"]
    table = Table(box=None, pad_edge=False)
    for column in (
        Text(shown(name)),
        "positive",
        "prevalence",
        "AUROC",
        "AP",
        *map(NAMES.get, keys),
    ):
        table.add_column(column or "", justify="left" if isinstance(column, Text) else "right")
    for label, each in labels.items():
        table.add_row(
            Text(shown(label)),
            f"{each['n_positive']:,}",
            number(each["prevalence"]),
            with_interval(each, "auroc"),
            with_interval(each, "ap"),
            *(number(each[key]) for key in keys),
        )
    return table


def _groups(name: str, subgroups: dict[str, Any]) -> Table:
    """One model's macro metrics by group."""
    table = Table(box=None, pad_edge=False)
    for column in ("group", "images", "patients", "AUROC", "AP", *map(NAMES.get, AT_THRESHOLD)):
        table.add_column(column or "", justify="left" if column == "group" else "right")
    for attribute, report in subgroups["attributes"].items():
        for group, counts in report["groups"].items():
            metrics = report["models"][name][group]
            table.add_row(
                Text(shown(f"{attribute}: {group}{' (small)' * counts['small']}")),
                f"{counts['n']:,}",
                f"{counts['n_units']:,}",
                *(with_interval(metrics, f"macro_{key}") for key in ("auroc", "ap", *AT_THRESHOLD)),
            )
    return table


def _reading(what: str, compared: dict[str, Any], name: str) -> list[str]:
    """How far readers and labels agree on one reading, and a model's AUROC by both."""
    agreement, measured = compared["agreement"], compared["test"]["models"][name]
    parts = [f"{NAMES[key]} {with_interval(agreement, key)}" for key in ("sensitivity", "ppv")]
    return [
        f"{what}: {count(agreement['n'], 'image')}, positive: {agreement['n_positive']:,} by "
        f"readers, {agreement['n_positive_labels']:,} by labels",
        f"  labels against readers: {', '.join(parts)}, kappa {with_interval(agreement, 'kappa')}",
        f"  AUROC {with_interval(measured, 'auroc')} by readers, "
        f"{with_interval(measured, 'auroc_labels')} by labels",
    ]


def _undefined(scored: dict[str, Any]) -> list[str]:
    """One line per reason, with its labels."""
    labels: dict[tuple[str, str], list[str]] = {}
    for entry in scored["undefined"]:
        labels.setdefault((entry["what"], entry["why"]), []).append(entry["label"])
    lines = []
    for (what, why), names in labels.items():
        listed = "every label" if len(names) == len(scored["labels"]) else ", ".join(names)
        lines.append(f"{what} undefined for {listed}: {why}")
    return lines


def _tree(node: Node, path: str | None, shown: set[int]) -> Tree:
    """A result with all its findings, and what it was made from with the important ones."""
    if id(node) in shown:
        return Tree(_title(node, path, "as above"))
    shown.add(id(node))
    tree = Tree(_title(node, path, _description(node)))
    for finding in node.findings:
        if path is None or _is_important(finding, node):
            tree.add(_finding(finding))
    for name, maker in node.made_from.items():
        if maker is None:
            missing = f"{name}: the record of its stage is missing; `{FETCH_PAST}` may fetch it"
            tree.add(_marked(Verdict.NOTE, missing))
        else:
            tree.add(_tree(maker, name, shown))
    return tree


def _is_important(finding: Finding, node: Node) -> bool:
    """Whether an input's finding is shown: problems, sources, and parameters of its own."""
    if finding.verdict is not Verdict.HOLDS or finding.where is Where.SOURCE:
        return True
    return finding.where is Where.PARAMETERS and not node.record.facts.params.keys() <= SHARED


def _short(node: Node) -> Tree:
    """A result in one line, and its problems."""
    tree = Tree(_title(node, None, _description(node)))
    for finding in node.findings:
        if finding.verdict is not Verdict.HOLDS:
            tree.add(_finding(finding))
    return tree


def _title(node: Node, path: str | None, description: str) -> Text:
    md5 = node.record.outputs[path].md5 if path else ""
    output = f"{path} (md5 {md5[:SHORT_ID]}…) ← " if path else ""
    title = _marked(node.verdict, output + node.record.stage)
    return title.append(f"  {description}", style="dim")


def _description(node: Node) -> str:
    record = node.record
    first, *others = record.run_ids
    more = f" and {len(others)} more" if others else ""
    experiment = f", experiment {record.dvc_experiment}" if record.dvc_experiment else ""
    made = record.finished[:16].replace("T", " ")
    return f"run {first[:SHORT_ID]}{more}, data {record.data.name}, {made} UTC{experiment}"


def _finding(finding: Finding) -> Text:
    line = _marked(finding.verdict, f"{finding.where}: {finding.says}")
    if finding.fix:
        line.append(f"  → {finding.fix}", style="bold")
    return line


def _value(value: object, title: str) -> str:
    if title == "code":
        return str(value)[:10]  # a blob hash
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _marked(verdict: Verdict, text: str) -> Text:
    mark, style = MARKS[verdict]
    line = Text(f"{mark} ", style=style)
    # Escaped, since a newline in a name would start what looks like another finding.
    return line.append(shown(text), style="" if verdict is Verdict.HOLDS else style)
