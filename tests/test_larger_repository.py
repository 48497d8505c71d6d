"""Projects in a sub-folder of a larger git repository, in a submodule or a linked worktree."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from pipeline import COMMITTER, Pipeline

from cxr import git, params
from cxr.audit import inputs, replay
from cxr.audit.finding import Verdict
from cxr.audit.project import Project
from cxr.doctor import project as checks
from cxr.doctor.context import Clone
from cxr.doctor.finding import MISSING, OK
from cxr.documents import read_yaml
from cxr.errors import CxrError
from cxr.lineage.archive import Found
from cxr.lineage.facts import Code, code_files, declaration, take_facts
from cxr.lineage.repository import Repository
from cxr.lineage.snapshot import check_out, take
from cxr.pipeline import demo
from cxr.sweep.plan import Place, make

ROOT = Path(__file__).parents[1]
LAYOUTS = ("alone", "in a sub-folder", "as a submodule", "in a linked worktree")
LOCK = """stages:
  evaluate:
    cmd: python stages/evaluate.py
    outs:
    - path: records/evaluate.json
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 1
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *command],
        cwd=folder, env=os.environ | COMMITTER, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder: Path) -> None:
    run(folder, "add", "-A")
    run(folder, "commit", "-qm", "a change")


def fill(folder: Path) -> None:
    """Write a project with one stage and two modules, whose stage has run once."""
    for name in ("src/cxr/data", "stages"):
        (folder / name).mkdir(parents=True)
    (folder / "src/cxr/a.py").write_text("x = 1\n")
    (folder / "src/cxr/data/b.py").write_text("x = 1\n")
    (folder / "stages/evaluate.py").write_text("import cxr.a\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  evaluate:\n    cmd: python stages/evaluate.py\n"
        "    deps: [stages/evaluate.py, src/cxr/a.py]\n    outs: [records/evaluate.json]\n"
    )
    (folder / "dvc.lock").write_text(LOCK)
    (folder / ".gitignore").write_text("/.demo/\n")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


def repository(folder: Path, subfolder: str = ".") -> Path:
    """Create a git repository with a project and a file beside it; return the project's folder."""
    fill(folder / subfolder)
    (folder / "beside.txt").write_text("1\n")
    run(folder, "init", "-q")
    commit(folder)
    return folder / subfolder


def create_project(layout: str, folder: Path) -> Path:
    if layout == "alone":
        return repository(folder / "alone")
    if layout == "in a sub-folder":
        return repository(folder / "large", "apps/x ray")
    if layout == "as a submodule":
        single, parent = repository(folder / "single"), folder / "parent"
        parent.mkdir()
        run(parent, "init", "-q")
        run(parent, "submodule", "--quiet", "add", str(single), "libs/cxr")
        commit(parent)
        return parent / "libs/cxr"
    repository(folder / "large", "apps/cxr")
    run(folder / "large", "worktree", "add", "-q", str(folder / "tree"))
    return folder / "tree/apps/cxr"


@pytest.fixture(params=LAYOUTS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return create_project(request.param, tmp_path)


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    return create_project("in a sub-folder", tmp_path)


def edit(project: Path) -> None:
    """Change, add and delete a code file, change parameters, and add a file outside."""
    (project / "src/cxr/a.py").write_text("x = 2\n")
    (project / "src/cxr/new.py").write_text("y = 1\n")
    (project / "src/cxr/data/b.py").unlink()
    params.change(project / "params.yaml", {"seed": 7})
    (project.parent / "outside.py").write_text("z = 1\n")


def code(project: Path) -> Code:
    declared = declaration("evaluate", project)
    return take_facts(declared, project, {}, "cpu").code


def test_the_facts_of_code_are_those_of_a_project_that_is_alone(
    project: Path, tmp_path: Path
) -> None:
    """This includes the patch, whose paths are relative to the project's folder."""
    alone = repository(tmp_path / "reference")
    assert code(project)["edited"] == []
    for folder in (project, alone):
        edit(folder)
    facts, expected = code(project), code(alone)
    assert facts["edited"] == ["src/cxr/a.py", "src/cxr/data/b.py", "src/cxr/new.py"]
    assert facts.pop("commit") == run(project, "rev-parse", "HEAD").strip()
    assert expected.pop("commit")
    assert facts == expected


def test_replay_restores_the_code_from_commit_and_patch(project: Path, tmp_path: Path) -> None:
    edit(project)
    recorded, expected = code(project), code_files(project)
    run(project, "stash", "-q")
    (tmp_path / "restored").mkdir()
    replay._restore_code(recorded, Project(project), tmp_path / "restored")
    assert code_files(tmp_path / "restored") == expected
    assert read_yaml(tmp_path / "restored/params.yaml")["seed"] == 7


def test_replay_refuses_a_commit_from_before_the_project_moved(
    nested: Path, tmp_path: Path
) -> None:
    recorded, moved = code(nested), nested.parents[1] / "moved"
    run(nested.parents[1], "mv", "apps/x ray", "moved")
    commit(moved)
    with pytest.raises(replay.MissingInput, match=r"has no params\.yaml in this folder"):
        replay._restore_code(recorded, Project(moved), tmp_path)


def test_an_audit_notes_that_a_commit_has_the_project_in_another_folder(nested: Path) -> None:
    facts, moved = SimpleNamespace(code=code(nested)), nested.parents[1] / "moved"
    found = SimpleNamespace(current=False, record=SimpleNamespace(facts=facts))
    (before,) = inputs.code(cast(Found, found), Project(nested))
    assert before.verdict == Verdict.HOLDS
    run(nested.parents[1], "mv", "apps/x ray", "moved")
    commit(moved)
    (after,) = inputs.code(cast(Found, found), Project(moved))
    assert after.verdict == Verdict.NOTE
    assert "has no code in this folder of the repository" in after.says


def test_files_of_a_commit_are_read_from_the_projects_own_folder(project: Path) -> None:
    repo = Repository(project)
    top = Path(run(project, "rev-parse", "--show-toplevel").strip())
    if top != project:
        (top / "dvc.lock").write_text("stages: {another: {cmd: x}}\n")
        (top / "params.yaml").write_text("seed: 99\n")
        commit(top)
    assert repo.lock_at("HEAD") == repo.lock()
    assert repo.text_at("HEAD", "params.yaml") == (project / "params.yaml").read_text()
    assert repo.text_at("HEAD", "beside.txt" if top != project else "none.txt") is None
    assert list(repo.past_outputs("records")) == ["0123456789abcdef0123456789abcdef"]


def test_changed_lines_are_counted_even_with_gits_diff_relative_set(nested: Path) -> None:
    from cxr.audit.difference import Change, _with_lines

    run(nested, "config", "diff.relative", "true")
    (nested / "src/cxr/a.py").write_text("x = 1\ny = 2\n")
    blobs = [run(nested, "rev-parse", "HEAD:./src/cxr/a.py").strip()]
    blobs.append(run(nested, "hash-object", "-w", "src/cxr/a.py").strip())
    assert _with_lines(Change("a", *blobs), Project(nested)).detail == "+1 -0 lines"


def test_variables_that_git_sets_for_hooks_do_not_redirect_git_to_another_repository(
    nested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = nested.parents[1]
    other = repository(tmp_path / "other")
    before = {folder: run(folder, "rev-parse", "HEAD") for folder in (top, other)}
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert git.run(nested, "rev-parse", "--show-prefix") == "apps/x ray/\n"
    demo.prepare(nested)
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    assert {folder: run(folder, "rev-parse", "HEAD") for folder in before} == before
    assert run(other, "status", "--porcelain") == ""


def test_the_demo_is_a_separate_repository_that_the_outer_one_ignores(project: Path) -> None:
    edit(project)
    folder = demo.prepare(project)
    assert folder == project / ".demo"
    assert run(folder, "rev-parse", "--show-toplevel").strip() == str(folder)
    assert ".demo" not in run(project, "status", "--porcelain", "--untracked-files=all")
    assert code_files(folder) == code_files(project)
    assert not (folder / "beside.txt").exists() or (project / "beside.txt").exists()
    assert not (folder / "dvc.lock").exists()
    assert run(folder, "status", "--porcelain") == " M params.yaml\n"
    assert code(folder)["edited"] == []


def test_a_second_demo_commits_only_if_files_have_changed(project: Path) -> None:
    folder = demo.prepare(project)
    (folder / "dvc.lock").write_text("results of the demo\n")
    first = run(folder, "rev-parse", "HEAD")
    assert demo.prepare(project) == folder
    assert run(folder, "rev-parse", "HEAD") == first
    edit(project)
    demo.prepare(project)
    assert run(folder, "rev-parse", "HEAD~1") == first
    assert code_files(folder) == code_files(project)
    assert (folder / "dvc.lock").read_text() == "results of the demo\n"


def test_a_demo_that_an_earlier_version_cloned_is_updated(tmp_path: Path) -> None:
    project = repository(tmp_path / "p")
    run(tmp_path, "clone", "-q", str(project), str(project / ".demo"))
    (project / ".demo/dvc.lock").write_text("results of the demo\n")
    edit(project)
    folder = demo.prepare(project)
    assert code_files(folder) == code_files(project)
    assert (folder / "dvc.lock").read_text() == "results of the demo\n"


def test_the_demo_commits_without_a_user_name_a_signature_or_hooks(
    nested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "prepare-commit-msg", "post-commit"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    settings = tmp_path / "settings"
    settings.write_text(
        f"[user]\nuseConfigOnly = true\n[commit]\ngpgSign = true\n[core]\nhooksPath = {hooks}\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assert run(demo.prepare(nested), "log", "--format=%s") == "Copy the project's files\n"


def test_code_that_the_larger_repository_ignores_is_in_the_demo(nested: Path) -> None:
    """Repositories often ignore `data/`, and src/cxr/data has that name."""
    (nested.parents[1] / ".gitignore").write_text("data/\n")
    run(nested, "rm", "-q", "--cached", "src/cxr/data/b.py")
    folder = demo.prepare(nested)
    assert (folder / "src/cxr/data/b.py").exists()
    assert code(folder)["edited"] == []


def test_the_error_about_an_untrusted_repository_names_its_top_folder(
    nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    top = str(nested.parents[1])
    with pytest.raises(CxrError, match=rf"`git config --global --add safe\.directory {top}`"):
        git.ask(nested, "rev-parse", "HEAD")


def test_a_snapshot_has_code_that_the_larger_repository_ignores(
    nested: Path, tmp_path: Path
) -> None:
    (nested.parents[1] / ".gitignore").write_text("data/\n")
    run(nested, "rm", "-q", "--cached", "src/cxr/data/b.py")
    (nested / ".dvc").mkdir()
    (nested / ".dvc/config").touch()
    clone = check_out(take(nested), tmp_path / "clone")
    assert (clone / "src/cxr/data/b.py").read_bytes() == (nested / "src/cxr/data/b.py").read_bytes()


def test_two_projects_in_one_repository_name_their_experiments_differently(nested: Path) -> None:
    """They share the repository's list of DVC experiments."""
    twin = nested.with_name("twin")
    shutil.copytree(nested, twin)
    commit(nested.parents[1])
    plans = [make(folder, "s", [{"train.cnn.lr": 1e-3}], 1, Place()) for folder in (nested, twin)]
    first, second = (plan.experiments[0].name for plan in plans)
    assert first != second


def test_the_doctor_reports_a_project_folder_that_is_not_committed(nested: Path) -> None:
    assert checks.git_history(Clone(nested)).verdict == OK
    uncommitted = nested.with_name("uncommitted")
    shutil.copytree(nested, uncommitted)
    finding = checks.git_history(Clone(uncommitted))
    assert finding.verdict == MISSING
    assert f"has no dvc.yaml in {uncommitted}" in finding.found


@pytest.fixture(scope="module")
def large(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run and is committed in a sub-folder of a larger repository."""
    top = tmp_path_factory.mktemp("large")
    (top / "beside.txt").write_text("1\n")
    pipeline = Pipeline(kept).copy(top / "apps/cxr")
    shutil.rmtree(pipeline.folder / ".git")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "made"]):
        run(top, *command)
    return pipeline


@pytest.mark.slow
def test_a_run_of_edited_code_can_be_replayed_synced_compared_and_audited(large: Pipeline) -> None:
    (large.folder.parents[1] / "beside.txt").write_text("2\n")
    with open(large.folder / "src/cxr/evaluation/curves.py", "a") as file:
        file.write("# a comment\n")
    assert large.repro("evaluate") == ["evaluate"]
    recorded = large.json("records/evaluate.json")["facts"]["code"]
    assert recorded["edited"] == ["src/cxr/evaluation/curves.py"]
    assert "diff --git a/src/cxr/evaluation/curves.py" in recorded["patch"]
    for command in (["replay", large.run_id("evaluate")], ["sync"]):
        done = large.run("cxr", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    done = large.run("cxr", "diff", "HEAD", "--json")
    (change,) = json.loads(done.stdout)["code"]
    assert change["name"] == recorded["edited"][0]
    done = large.run("cxr", "audit", "reports/metrics.json")
    n_files = len(recorded["deciding"])
    assert f"{n_files} files of commit" in done.stdout
    assert "✗" not in done.stdout
    large.git("checkout", "--", ".")
    large.dvc("checkout")


@pytest.mark.slow
def test_a_sweep_prints_its_table_and_leaves_the_working_copy_unchanged(large: Pipeline) -> None:
    status = large.git("status", "--porcelain")
    call = ("cxr", "sweep", "-S", "train.cnn.lr=3e-3", "--seeds", "1")
    done = large.run(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("cnn  0.00")]) == 1
    assert large.git("status", "--porcelain") == status
    assert "1 of them done" in large.run(*call).stdout
    name = large.json("reports/sweeps/sweep.json")["experiments"][0]["name"]
    done = large.run("cxr", "diff", "HEAD", name, "--json")
    assert [change["name"] for change in json.loads(done.stdout)["parameters"]] == ["train.cnn.lr"]
    done = large.run("cxr", "audit")
    assert "other stage executions in experiments" in done.stdout
    assert "✗" not in done.stdout
