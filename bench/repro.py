"""`dvc repro` with nothing to do, compared to a pipeline with as many stages that run `true`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import stages
from bench.measure import Row, in_turns, relative_to
from cxr.lineage.facts import declarations


def measure(turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        ours, bare = Path(temporary, "ours"), Path(temporary, "bare")
        stages.clone(ours, {})
        _commit_fake_outputs(ours)
        _create_bare_pipeline(bare, len(declarations(ours)))
        _repro(bare)()
        seconds = in_turns({"ours": _repro(ours), "bare": _repro(bare)}, turns)
    what = "dvc repro with nothing to do"
    note = "vs. as many stages that run `true`"
    return [relative_to(what, seconds["ours"], seconds["bare"], 1.5, note)]


def _repro(folder: Path) -> Callable[[], None]:
    python = Path(sys.executable)
    env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}

    def work() -> None:
        subprocess.run(
            [python, "-m", "dvc", "repro", "-q"], cwd=folder, env=env, check=True,
            capture_output=True,
        )  # fmt: skip

    return work


def _commit_fake_outputs(folder: Path) -> None:
    """Commit placeholder outputs to DVC, whose content does not affect the time of a repro."""
    for declared in declarations(folder).values():
        for output in declared.outputs:
            path = folder / output
            file = path if path.suffix else path / "made"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(output)
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "--force"], cwd=folder, check=True)


def _create_bare_pipeline(folder: Path, n_stages: int) -> None:
    folder.mkdir()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=folder, check=True
    )
    (folder / "in.txt").write_text("x\n")
    stage_lines = [f"  s{i}:\n    cmd: 'true'\n    deps: [in.txt]\n" for i in range(n_stages)]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stage_lines))
