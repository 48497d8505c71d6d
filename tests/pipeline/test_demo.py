"""The demo's copy of the project is created, updated, and found again if the project moves."""

import subprocess
from pathlib import Path

import pytest

from cxr.documents import read_yaml
from cxr.errors import CxrError
from cxr.pipeline import demo

ROOT = Path(__file__).parents[2]
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def commit(project: Path) -> None:
    for command in (["add", "-A"], [*IDENTITY, "commit", "-qm", "a change"]):
        subprocess.run(["git", *command], cwd=project, check=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / ".gitignore").write_text("/.demo/\n")
    (folder / "dvc.lock").write_text("results of the project\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    commit(folder)
    return folder


def test_the_demo_copies_the_working_tree_without_its_results(project: Path) -> None:
    (project / "edited.py").write_text("1")
    folder = demo.prepare(project)
    assert folder == project / ".demo"
    assert (folder / "edited.py").read_text() == "1"
    assert not (folder / "dvc.lock").exists()
    params = read_yaml(folder / "params.yaml")
    assert params["download"]["source"] == "phantom"
    assert read_yaml(project / "params.yaml")["download"]["source"] != "phantom"


def test_a_second_demo_keeps_its_results_and_copies_changes(project: Path, tmp_path: Path) -> None:
    (demo.prepare(project) / "dvc.lock").write_text("results of the demo\n")
    (project / "edited.py").write_text("2")
    (project / "dvc.lock").write_text("other results of the project\n")
    commit(project)
    moved = project.rename(tmp_path / "elsewhere")
    folder = demo.prepare(moved)
    assert folder == moved / ".demo"
    assert (folder / "edited.py").read_text() == "2"
    assert (folder / "dvc.lock").read_text() == "results of the demo\n"


def test_a_folder_that_is_not_a_git_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="is not a git clone"):
        demo.prepare(tmp_path)
