"""Start-up time of stages, compared to importing only the same packages."""

import ast
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import Row, in_turns, relative_to
from bench.stages import PROJECT

STAGES = ("download", "preprocess", "features", "train", "evaluate", "maps", "gradcam")
LIGHT = ("download", "train")  # one without torch, one with it


def measure(stages: Sequence[str]) -> list[Row]:
    rows = []
    for stage in stages:
        program = f"import runpy; runpy.run_path('stages/{stage}.py', run_name='started')"
        packages = f"import {', '.join(_third_party(program))}"
        works = {"ours": _python(program), "limit": _python(packages)}
        seconds = in_turns(works, 1, warm_up=False)  # listing the packages was the warm-up
        note = "vs. importing its packages"
        name = f"startup of {stage}"
        rows.append(relative_to(name, seconds["ours"], seconds["limit"], 1.3, note))
    return rows


def _python(program: str) -> Callable[[], None]:
    def work() -> None:
        subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, env={"PYTHONPATH": "src"}, check=True
        )

    return work


def _third_party(program: str) -> list[str]:
    """The third-party modules that our files import when a stage starts."""
    listing = "import sys; print(*(m.__file__ for n, m in sys.modules.items() if n[:3] == 'cxr'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; {listing}"],
        cwd=PROJECT, env={"PYTHONPATH": "src"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    names: set[str] = set()
    for file in done.stdout.split():
        for node in ast.parse(Path(file).read_text()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    ours = {"cxr", *sys.stdlib_module_names}
    return sorted(name for name in names if name.split(".")[0] not in ours)
