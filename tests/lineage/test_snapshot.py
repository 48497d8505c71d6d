"""The snapshot of a working copy, compared with what git itself says."""

import subprocess
from pathlib import Path

import pytest
import toy
from pipeline import Pipeline

from cxr.lineage import snapshot


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    """It has an uncommitted, a staged, an untracked and an ignored file."""
    project = toy.create(tmp_path / "p")
    (project.folder / "staged.txt").write_text("staged\n")
    project.git("add", "staged.txt")
    (project.folder / "reports").mkdir()
    (project.folder / "reports/ignored.txt").write_text("made\n")
    return project


def git_state(project: Pipeline) -> list[str]:
    """Index, working copy, refs, stash, and all objects."""
    commands = ("ls-files --stage", "status --porcelain", "for-each-ref", "stash list",
                "cat-file --batch-all-objects --batch-check", "reflog")  # fmt: skip
    return [project.git(*command.split()) for command in commands]


def files(folder: Path) -> dict[str, bytes]:
    """The files that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=folder,
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {name: (folder / name).read_bytes() for name in listing}


def test_taking_a_snapshot_changes_nothing_in_the_repository(project: Pipeline) -> None:
    before = git_state(project)
    snapshot.take(project.folder)
    assert git_state(project) == before


def test_a_clone_has_the_same_files_at_the_users_commit(project: Pipeline, tmp_path: Path) -> None:
    folder = snapshot.check_out(snapshot.take(project.folder), tmp_path / "clone")
    assert files(folder) == files(project.folder)
    clone = Pipeline(folder)
    assert clone.git("rev-parse", "HEAD") == project.git("rev-parse", "HEAD")
    changed = {line[3:] for line in clone.git("status", "--porcelain").splitlines()}
    assert changed == {"stage.py", "staged.txt", "untracked.txt"}


def test_a_clone_is_reset_and_keeps_what_git_ignores(project: Pipeline, tmp_path: Path) -> None:
    first = snapshot.take(project.folder)
    folder = snapshot.check_out(first, tmp_path / "clone")
    (folder / "reports").mkdir()
    (folder / "reports/made.txt").write_text("made\n")
    (folder / "stage.py").write_text("changed by an experiment\n")
    (folder / "left.txt").write_text("left\n")
    Pipeline(folder).git("update-ref", "refs/exps/ab/cd/old", "HEAD")
    (project.folder / "stage.py").write_text("edited since\n")
    second = snapshot.take(project.folder)
    assert second.commit != first.commit
    snapshot.check_out(second, tmp_path / "clone")
    assert files(folder) == files(project.folder)
    assert (folder / "reports/made.txt").exists()
    assert Pipeline(folder).git("for-each-ref", "refs/exps") == ""


def test_a_clone_has_code_that_git_ignores(project: Pipeline, tmp_path: Path) -> None:
    own = project.folder / "src/cxr/models/own.py"
    own.parent.mkdir(parents=True)
    own.write_text("LAYERS = 3\n")
    (project.folder / ".git/info/exclude").write_text("own.py\nparams.yaml\n")
    folder = snapshot.check_out(snapshot.take(project.folder), tmp_path / "clone")
    assert (folder / "src/cxr/models/own.py").read_text() == "LAYERS = 3\n"
    assert (folder / "params.yaml").exists()
    assert own.relative_to(project.folder).as_posix() not in project.git("ls-files")


def test_equal_files_give_an_equal_snapshot(project: Pipeline) -> None:
    assert snapshot.take(project.folder).commit == snapshot.take(project.folder).commit


def test_a_project_in_a_folder_of_a_repository_is_found_in_the_clone(tmp_path: Path) -> None:
    inner = toy.create(tmp_path / "outer/inner")
    (inner.folder / ".git").rename(tmp_path / "git")
    outer = Pipeline(tmp_path / "outer")
    (outer.folder / "README").write_text("outer\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        outer.git(*command)
    taken = snapshot.take(inner.folder)
    folder = snapshot.check_out(taken, tmp_path / "clone")
    assert folder == tmp_path / "clone/inner"
    assert files(folder) == files(inner.folder)
    assert (tmp_path / "clone/README").exists()


def test_a_linked_worktree_has_a_snapshot_of_its_own(project: Pipeline, tmp_path: Path) -> None:
    project.git("worktree", "add", "-q", str(tmp_path / "linked"))
    (tmp_path / "linked/only-here.txt").write_text("here\n")
    folder = snapshot.check_out(snapshot.take(tmp_path / "linked"), tmp_path / "clone")
    assert files(folder) == files(tmp_path / "linked")
