"""The layout of `cxr --help`, and shell completion."""

import json
from collections.abc import Iterator
from contextlib import suppress
from glob import escape, glob
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from cxr import git
from cxr.paths import MODELS, RECORDS

RUN, ANALYZE, SHARE = "Run", "Analyze", "Share"
PANELS = (RUN, ANALYZE, SHARE)  # in the order of a typical workflow

Completion = list[tuple[str, str]]  # values, each with a description


class Commands(TyperGroup):
    """Groups commands by panel in plain text, too, where typer prints one truncated list."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, panel by panel."""
        return [name for panel in PANELS for name in self._in(panel)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel, with the first paragraph of each command's help."""
        for panel in filter(self._in, PANELS):
            with formatter.section(panel):
                formatter.write_dl([(name, self._summary(name)) for name in self._in(panel)])

    def _in(self, panel: str) -> list[str]:
        """A panel's commands; the last panel also has those that name no panel."""
        return [
            name
            for name, command in self.commands.items()
            if (getattr(command, "rich_help_panel", None) or PANELS[-1]) == panel
        ]

    def _summary(self, name: str) -> str:
        return " ".join((self.commands[name].help or "").split("\n\n")[0].split())


def models(incomplete: str) -> Completion:
    """The models of this clone."""
    names = sorted(path.parent.name for path in _clone().glob(f"{MODELS}/*/model.json"))
    return [(name, "model") for name in names if name.startswith(incomplete)]


def stages(incomplete: str) -> Completion:
    """The stages of this clone's dvc.yaml."""
    from cxr.lineage.facts import declarations

    with suppress(Exception):  # completion must never print an error
        names = declarations(_clone())
        return [(name, "stage") for name in names if name.startswith(incomplete)]
    return []


def runs(incomplete: str) -> Completion:
    """The runs of this clone's results, by their short ids."""
    from cxr.lineage.records import SHORT_ID

    candidates = [(run["run_id"][:SHORT_ID], run["name"]) for run in _runs()]
    return [each for each in candidates if each[0].startswith(incomplete)]


def runs_and_files(incomplete: str) -> Completion:
    """The runs and the files here: both may start with the same characters."""
    paths = [Path(path) for path in sorted(glob(f"{escape(incomplete)}*"))]  # noqa: PTH207
    return runs(incomplete) + [(f"{each}/" if each.is_dir() else str(each), "") for each in paths]


def runs_and_revisions(incomplete: str) -> Completion:
    """The runs, DVC's experiments and git's branches."""
    candidates: Completion = []
    with suppress(Exception):
        from cxr.lineage.repository import Repository

        candidates += [(name, "experiment") for name, _ in Repository(_clone()).experiments()]
        branches = git.ask(_clone(), "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads")
        candidates += [(name, "branch") for name in (branches or "").splitlines()]
    return runs(incomplete) + [each for each in candidates if each[0].startswith(incomplete)]


def _runs() -> Iterator[dict[str, Any]]:
    for path in sorted(_clone().glob(f"{RECORDS}/*.json")):
        with suppress(Exception):
            yield from json.loads(path.read_text())["runs"]


def _clone() -> Path:
    here = Path.cwd()
    return next((each for each in (here, *here.parents) if (each / "dvc.yaml").exists()), here)
