"""Links, commands and parameters in the README and the docs exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.documents import read_yaml
from cxr.params import flatten

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_and_images_exist(page: Path) -> None:
    text = page.read_text()
    assert "@@" not in text, "a placeholder was not replaced"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_make_targets_in_the_readme_exist(command: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_parameters_named_in_the_readme_exist() -> None:
    known = flatten(read_yaml(ROOT / "params.yaml"))
    named = re.findall(r"-S ([\w.]+)=", (ROOT / "README.md").read_text())
    assert named
    assert set(named) <= set(known)


def test_make_help_lists_the_main_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-all", "repro", "ui", "lint"):
        assert f"make {target} " in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["ui", "--help"]])
def test_help_shows_an_example_or_the_commands(arguments: list[str]) -> None:
    program = Path(sys.executable).parent / "cxr"
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Example:" in done.stdout or "demo" in done.stdout


def test_a_command_outside_of_a_clone_fails_with_a_one_line_error(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "cxr"
    done = subprocess.run([program, "ui"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("cxr: ")
    assert len(done.stderr.splitlines()) == 1


def test_printing_audit_answers_imports_neither_torch_nor_sklearn_nor_matplotlib() -> None:
    """These take seconds to import."""
    code = (
        "import sys, cxr.cli.printing; print({'torch', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
