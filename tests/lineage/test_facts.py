"""Facts agree with DVC and git, and the fingerprint changes only if the result can."""

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cxr.errors import CxrError
from cxr.hashing import Digest, digest, md5_of_file
from cxr.lineage.facts import Declaration, Facts, changed, declaration, take_facts

ROOT = Path(__file__).parents[2]
COMMITTER = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | COMMITTER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with one stage, one module, one folder of data."""
    (tmp_path / "src" / "cxr").mkdir(parents=True)
    (tmp_path / "stages").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "src/cxr/a.py").write_text("x = 1\n")
    (tmp_path / "stages/go.py").write_text("import cxr.a\n")
    (tmp_path / "data/one.txt").write_text("one")
    (tmp_path / "params.yaml").write_text("seed: 1\nthreads: 2\ntrain: {a: {lr: 1e-3}, b: 2}\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  go:\n    vars: [{model: a}]\n    cmd: python stages/go.py ${model}\n"
        "    deps: [data, 'src/cxr/${model}.py']\n    params: [seed, 'train.${model}']\n"
        "    outs: ['models/${model}', {reports/x.json: {cache: false}}]\n"
    )
    (tmp_path / ".gitignore").write_text("data\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    return tmp_path


def facts(project: Path) -> Facts:
    return take_facts(declaration("go", project), project, {}, "cpu")


def test_variables_in_a_declaration_are_filled_in(project: Path) -> None:
    assert declaration("go", project) == Declaration(
        stage="go",
        command="python stages/go.py a",
        dependencies=("data", "src/cxr/a.py"),
        params=("seed", "train.a"),
        outputs=("models/a", "reports/x.json"),
    )


def test_an_unknown_stage_is_refused_with_the_known_ones(project: Path) -> None:
    with pytest.raises(CxrError, match="no stage `train-foo`; its stages are go"):
        declaration("train-foo", project)


def test_digests_equal_those_of_dvc(tmp_path: Path) -> None:
    """For a file and for a folder with subfolders."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import localfs

    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "z.txt").write_text("z")
    (folder / "a.txt").write_text("b")
    (folder / "b.txt").write_text("a")
    database = HashFileDB(localfs, str(tmp_path / "cache"))
    for path in (folder, folder / "a.txt"):
        _, _, theirs = build(database, str(path), localfs, "md5")
        assert digest(path).md5 == theirs.hash_info.value
    assert digest(folder).nfiles == 3


def test_a_missing_dependency_is_reported_with_the_fix(project: Path) -> None:
    (project / "data" / "one.txt").unlink()
    (project / "data").rmdir()
    with pytest.raises(CxrError, match="data is missing; fetch it with `dvc pull`"):
        facts(project)


def test_facts_have_the_declared_parameters_by_dotted_name(project: Path) -> None:
    assert facts(project).params == {"seed": 1, "train.a.lr": 0.001}


def test_inputs_are_the_outputs_of_other_stages(project: Path) -> None:
    """Also if the dependency is a folder with an output, or the output itself."""
    pipeline = project / "dvc.yaml"
    pipeline.write_text(
        pipeline.read_text()
        + "  before:\n    cmd: 'true'\n    outs: [data/one.txt]\n"
        + "  other:\n    cmd: 'true'\n    outs: [database]\n"
    )
    assert facts(project).inputs == {"data/one.txt": md5_of_file(project / "data/one.txt")}


def test_the_patch_includes_params_yaml(project: Path) -> None:
    (project / "params.yaml").write_text("seed: 1\nthreads: 2\ntrain: {a: {lr: 1e-3}, b: 3}\n")
    code = facts(project).code
    assert code["edited"] == []
    assert "+train: {a: {lr: 1e-3}, b: 3}" in code["patch"]


def test_files_that_are_not_code_do_not_count_as_edited(project: Path) -> None:
    (project / "src/cxr/py.typed").touch()
    git(project, "add", "-A")
    git(project, "commit", "-qm", "typed")
    assert facts(project).code["edited"] == []


def test_a_clean_tree_has_no_patch(project: Path) -> None:
    code = facts(project).code
    assert code["commit"] == git(project, "rev-parse", "HEAD")
    assert code["edited"] == []
    assert code["patch"] is None
    assert code["files"]["src/cxr/a.py"] == git(project, "rev-parse", "HEAD:src/cxr/a.py")


def test_an_edit_with_the_same_size_and_time_is_found(project: Path) -> None:
    """`git status` may rely on the time stamp; the blob hash does not."""
    path = project / "src/cxr/a.py"
    times = path.stat()
    path.write_text("x = 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    code = facts(project).code
    assert code["edited"] == ["src/cxr/a.py"]
    assert "-x = 1\n+x = 2\n" in code["patch"]


def test_the_patch_reproduces_the_working_tree(
    project: Path, tmp_path_factory: pytest.TempPathFactory
):
    """It restores edits, new files and deletions when applied to the commit."""
    (project / "src/cxr/a.py").write_text("x = 3\n")
    (project / "src/cxr/new.py").write_text("y = 4\n")
    (project / "stages/go.py").unlink()
    code = facts(project).code
    clone = tmp_path_factory.mktemp("clone") / "c"
    git(project, "clone", "-q", str(project), str(clone))
    subprocess.run(["git", "apply"], cwd=clone, input=code["patch"], text=True, check=True)
    assert (clone / "src/cxr/a.py").read_text() == "x = 3\n"
    assert (clone / "src/cxr/new.py").read_text() == "y = 4\n"
    assert not (clone / "stages/go.py").exists()
    assert git(project, "diff", "--cached", "--name-only") == ""


def test_without_git_the_commit_is_none(project: Path) -> None:
    (project / ".git").rename(project / "elsewhere")
    assert facts(project).code["commit"] is None


RESULT_AFFECTING_CHANGES = {
    "data": lambda p: (p / "data/one.txt").write_text("two"),
    "code": lambda p: (p / "src/cxr/a.py").write_text("x = 2\n"),
    "parameter": lambda p: (p / "params.yaml").write_text(
        "seed: 1\nthreads: 2\ntrain: {a: {lr: 2e-3}, b: 2}\n"
    ),
}
OTHER_CHANGES = {
    "a parameter of another stage": lambda p: (p / "params.yaml").write_text(
        "seed: 1\nthreads: 2\ntrain: {a: {lr: 1e-3}, b: 3}\n"
    ),
    "a file that nothing imports": lambda p: (p / "src/cxr/other.py").write_text("z = 1\n"),
    "a time stamp": lambda p: os.utime(p / "data/one.txt", (1, 1)),
}


@pytest.mark.parametrize("change", RESULT_AFFECTING_CHANGES.values(), ids=RESULT_AFFECTING_CHANGES)
def test_a_result_affecting_change_changes_the_fingerprint(project: Path, change) -> None:
    before = facts(project)
    change(project)
    after = facts(project)
    assert after.fingerprint != before.fingerprint
    assert len(changed(before, after)) == 1


@pytest.mark.parametrize("change", OTHER_CHANGES.values(), ids=OTHER_CHANGES)
def test_other_changes_leave_the_fingerprint_unchanged(project: Path, change) -> None:
    before = facts(project)
    change(project)
    after = facts(project)
    assert after.fingerprint == before.fingerprint
    assert changed(before, after) == []


def test_device_and_torch_affect_the_fingerprint_but_mlflow_does_not(project: Path) -> None:
    made = facts(project)

    def with_environment(**changes: object) -> str:
        return replace(made, environment=made.environment | changes).fingerprint

    packages = made.environment["packages"]
    assert with_environment(device="cuda") != made.fingerprint
    assert with_environment(packages=packages | {"torch": "0"}) != made.fingerprint
    assert with_environment(packages=packages | {"mlflow": "0"}) == made.fingerprint


def test_facts_can_be_stored_as_json(project: Path) -> None:
    assert json.loads(json.dumps(asdict(facts(project))))["dependencies"]["data"] == {
        "md5": digest(project / "data").md5, "size": 3, "nfiles": 1,
    }  # fmt: skip


def test_compiled_python_is_not_part_of_a_folders_digest(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert digest(tmp_path) == before
    assert isinstance(before, Digest)


def test_a_clone_has_the_committed_line_endings_whatever_its_git_configuration(
    tmp_path: Path,
) -> None:
    """With core.autocrlf git would call a file clean that DVC and the audit call changed."""
    (tmp_path / "a").mkdir()
    git(tmp_path / "a", "init", "-q")
    for name in (".gitattributes", "dvc.yaml", "src/cxr/lineage/facts.py"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes((ROOT / name).read_bytes())
    git(tmp_path / "a", "add", "-A")
    git(tmp_path / "a", "commit", "-qm", "all")
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", "a", "b")
    for name in ("dvc.yaml", "src/cxr/lineage/facts.py"):
        assert (tmp_path / "b" / name).read_bytes() == (ROOT / name).read_bytes()
