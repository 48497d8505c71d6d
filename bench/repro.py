"""`dvc repro` with nothing to do, against as many stages that do `true`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import stages
from bench.measure import Row, in_turns, of_the_limit
from cxr.lineage.facts import declarations


def measure(turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        ours, bare = Path(place, "ours"), Path(place, "bare")
        stages.clone(ours, {})
        _pretend_to_have_run(ours)
        _lay_down_bare(bare, len(declarations(ours)))
        _repro(bare)()
        seconds = in_turns({"ours": _repro(ours), "bare": _repro(bare)}, turns)
    what = "dvc repro with nothing to do"
    return [of_the_limit(what, seconds["ours"], seconds["bare"], 1.5, "as many stages of `true`")]


def _repro(folder: Path) -> Callable[[], None]:
    python = Path(sys.executable)
    env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}

    def work() -> None:
        subprocess.run(
            [python, "-m", "dvc", "repro", "-q"], cwd=folder, env=env, check=True,
            capture_output=True,
        )  # fmt: skip

    return work


def _pretend_to_have_run(folder: Path) -> None:
    """Outputs that DVC takes for the stages' own: what is in them costs a repro nothing."""
    for declared in declarations(folder).values():
        for output in declared.outputs:
            place = folder / output
            file = place if place.suffix else place / "made"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(output)
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "--force"], cwd=folder, check=True)


def _lay_down_bare(folder: Path, n_stages: int) -> None:
    folder.mkdir()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=folder, check=True
    )
    (folder / "in.txt").write_text("x\n")
    listed = [f"  s{i}:\n    cmd: 'true'\n    deps: [in.txt]\n" for i in range(n_stages)]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(listed))
