"""Answers as people read them at a terminal: trees and tables."""

from collections.abc import Sequence
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
from cxr.formatting import comparison, number, signed, with_interval
from cxr.labels import LABELS
from cxr.lineage.records import SHORT_ID
from cxr.lineage.repository import FETCH_PAST

if TYPE_CHECKING:  # they bring torch and sklearn, and most answers do without
    from cxr.inference.predict import Model, Prediction, Refused
    from cxr.scoring.score import Score


NAMES = {
    "macro_auroc": "macro AUROC",
    "macro_ap": "macro AP",
    "brier_skill": "skill",
    "ece": "ECE",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}

SHARED = {"seed", "threads"}  # parameters of every stage

MARKS = {
    Verdict.HOLDS: ("✓", "green"),
    Verdict.NOTE: ("!", "yellow"),
    Verdict.FAILS: ("✗", "bold red"),
}
SENTENCES = {
    Verdict.HOLDS: "holds",
    Verdict.NOTE: "holds, with something to note",
    Verdict.FAILS: "does not hold",
}


def audit(answer: Audit) -> None:
    """What was asked for in full, what it was made from in a line each; trouble wherever it is."""
    headline = _marked(answer.verdict, f"{answer.target} {SENTENCES[answer.verdict]}")
    project = [_finding(finding) for finding in answer.findings]
    if len(answer.results) == 1:
        results: list[Tree | Text] = [_tree(answer.results[0], None, set())]
    else:
        results = [_short(node) for node in answer.nodes if node.current or node.is_troubled]
        past = sum(not node.current for node in answer.nodes)
        if past:
            results.append(Text(f"and {past} executions of stages in experiments"))
    for line in [headline, *project, *results]:
        console.print(line)


def diff(answer: Difference) -> None:
    """What differs, from the data to the numbers, and why the numbers do."""
    console.print(Text(f"{answer.a} → {answer.b}", style="bold"))
    for title in ("data", "parameters", "code", "environment", "results"):
        changes: list[Change] = getattr(answer, title)
        same = f", {answer.n_equal} are the same" if title == "results" and changes else ""
        n = f"{len(changes)} differ{'s' if len(changes) == 1 else ''}" if changes else "the same"
        console.print(Text(f"{title}: {n}{same}", style="bold"))
        table = Table.grid(padding=(0, 2))
        for change in changes:
            # As texts, in which rich looks for no markup.
            a, b = (Text(_value(value, title)) for value in (change.a, change.b))
            detail = Text(change.detail, style="dim")
            table.add_row("", Text(change.name), a, "→", b, detail)
        if changes:
            console.print(table)
    for line in answer.alone:
        console.print(line, markup=False)
    console.print(Text(answer.sentence, style="bold"))


def replay(done: Replay) -> None:
    """Each output and metric then and now where they differ, and what that means."""
    for each in [*done.outputs, *done.metrics]:
        if each.then != each.now:
            console.print(_marked(Verdict.NOTE, f"{each.name}: {each.then} then, {each.now} now"))
    count = f"{_n(done.outputs, 'output')} and {_n(done.metrics, 'metric')}"
    if done.identical:
        line = f"{done.stage} made again: {count}, the outputs bit for bit the same"
    elif done.same_kind:
        line = f"{done.stage} made again is another, though all that decides it was the same"
    else:
        within = "within" if done.close else "beyond"
        line = (
            f"{done.stage} made again on another kind of machine or with other packages: {count}, "
            f"the metrics {within} {ABSOLUTE} + {RELATIVE:.0%} of what they were"
        )
    console.print(_marked(Verdict.HOLDS if done.holds else Verdict.FAILS, line))


def sync(done: Sync) -> None:
    """Each run that was brought back, and how many there were already."""
    for run in done.runs:
        new = f" as {run.now[:SHORT_ID]}" if run.now != run.run_id else ""
        line = f"{run.how} {run.run_id[:SHORT_ID]} ({run.name}){new}"
        if run.lost:
            line += f", without {len(run.lost)} pictures that are neither here nor in DVC's cache"
        console.print(line, markup=False)
    for run_id, why in done.refused.items():
        console.print(_marked(Verdict.FAILS, f"{run_id[:SHORT_ID]} could not be told: {why}"))
    if done.n_moved:
        console.print(f"{done.n_moved} runs look for their pictures at the new place")
    console.print(f"{len(done.runs)} runs brought back, {done.n_there} were there")


def score(done: "Score") -> None:
    """The models over the baselines, then the scored one label by label, then what to know."""
    console.print(_models(done.models))
    scored = done.models[done.name]
    console.print(_labels(done.name, scored["labels"]))
    for each in done.comparisons:
        if each["metric"].startswith("macro") and each["p"] is not None:
            line = f"{each['a']} minus {each['b']}: {NAMES[each['metric']]} {comparison(each)}"
            console.print(Text(line))
    about = scored["intervals"]
    console.print(
        f"{scored['n']:,} images; {about['level']:.0%} intervals by {about['n_resamples']:,} "
        f"resamples of {about['n_units']:,} {about['unit']}s"
    )
    console.print(Text(shown(f"matched {done.matched.how}")))
    few = f"too few {about['unit']}s with or without them for sure intervals: "
    unsure = few + ", ".join(about["unsure"]) if about["unsure"] else None
    for note in [*_undefined(scored["undefined"]), unsure, *done.notes, about.get("note")]:
        if note:
            console.print(_marked(Verdict.NOTE, note))


def predictions(done: "list[Prediction | Refused]", model: "Model") -> None:
    """One line per image: predicted findings, largest p-to-threshold ratio first; then warnings."""
    from cxr.inference.predict import NOTICE, Refused

    cuts = model.operating_point.thresholds
    for each in done:
        if isinstance(each, Refused):
            continue
        predicted_positive = [i for i, verdict in enumerate(each.predicted_positive) if verdict]
        predicted_positive.sort(key=lambda i, probs=each.probs: -probs[i] / cuts[i])  # type: ignore[misc]
        told = ", ".join(f"{LABELS[i]} {each.probs[i]:.3f}" for i in predicted_positive)
        console.print(Text(f"{shown(str(each.path))}: {told or 'nothing called'}"))
        for warning in each.warnings:
            console.print(_marked(Verdict.NOTE, warning))
    console.print(
        Text(f"{model.saved.name}, probabilities at or above the label's threshold; {NOTICE}")
    )


def _models(models: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "macro AUROC", "macro AP", "Brier", "skill", "ECE", "accuracy", "gain"):
        table.add_column(column, justify="left" if not column else "right")
    for name, told in models.items():
        table.add_row(
            Text(shown(name)),
            with_interval(told, "macro_auroc"),
            with_interval(told, "macro_ap"),
            *(number(told[key]) for key in ("brier", "brier_skill", "ece", "accuracy")),
            signed(told["accuracy_gain"]),
        )
    return table


def _labels(name: str, labels: dict[str, dict[str, Any]]) -> Table:
    """One model's numbers, label by label; those that need a threshold only where there is one."""
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
            label,
            f"{each['n_positive']:,}",
            number(each["prevalence"]),
            with_interval(each, "auroc"),
            with_interval(each, "ap"),
            *(number(each[key]) for key in keys),
        )
    return table


def _n(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _undefined(entries: list[dict[str, str]]) -> list[str]:
    """A line for each reason, with the labels that have it."""
    labels: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        labels.setdefault((entry["what"], entry["why"]), []).append(entry["label"])
    lines = []
    for (what, why), who in labels.items():
        whose = "every label" if len(who) == len(LABELS) else ", ".join(who)
        lines.append(f"{what} undefined for {whose}: {why}")
    return lines


def _tree(node: Node, path: str | None, shown: set[int]) -> Tree:
    """A result with all that was looked at, and in shorter words what it was made from."""
    if id(node) in shown:
        return Tree(_title(node, path, "as above"))
    shown.add(id(node))
    tree = Tree(_title(node, path, _about(node)))
    for finding in node.findings:
        if path is None or _is_telling(finding, node):
            tree.add(_finding(finding))
    for name, maker in node.made_from.items():
        if maker is None:
            lost = f"{name}: the record of what made it is not here; `{FETCH_PAST}` may bring it"
            tree.add(_marked(Verdict.NOTE, lost))
        else:
            tree.add(_tree(maker, name, shown))
    return tree


def _is_telling(finding: Finding, node: Node) -> bool:
    """Of what something was made from: trouble, the source, and parameters of its own."""
    if finding.verdict is not Verdict.HOLDS or finding.where is Where.SOURCE:
        return True
    return finding.where is Where.PARAMETERS and not node.record.facts.params.keys() <= SHARED


def _short(node: Node) -> Tree:
    """A result in a line, and what is the matter with it."""
    tree = Tree(_title(node, None, _about(node)))
    for finding in node.findings:
        if finding.verdict is not Verdict.HOLDS:
            tree.add(_finding(finding))
    return tree


def _title(node: Node, path: str | None, about: str) -> Text:
    md5 = node.record.outputs[path].md5 if path else ""
    made_of = f"{path} (md5 {md5[:SHORT_ID]}…) ← " if path else ""
    title = _marked(node.verdict, made_of + node.record.stage)
    return title.append(f"  {about}", style="dim")


def _about(node: Node) -> str:
    record = node.record
    runs = ", ".join(run_id[:SHORT_ID] for run_id in record.run_ids)
    experiment = f", experiment {record.dvc_experiment}" if record.dvc_experiment else ""
    made = record.finished[:16].replace("T", " ")
    return f"run {runs}, {record.data.name}, {made} UTC{experiment}"


def _finding(finding: Finding) -> Text:
    line = _marked(finding.verdict, f"{finding.where}: {finding.says}")
    if finding.mend:
        line.append(f"  → {finding.mend}", style="bold")
    return line


def _value(value: object, title: str) -> str:
    if title == "code":
        return str(value)[:10]  # a blob hash
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _marked(verdict: Verdict, text: str) -> Text:
    mark, style = MARKS[verdict]
    line = Text(f"{mark} ", style=style)
    # A line end in a name would look like a finding of its own.
    return line.append(shown(text), style="" if verdict is Verdict.HOLDS else style)
