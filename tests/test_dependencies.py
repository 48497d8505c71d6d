"""dvc.yaml declares exactly the result-affecting modules that each stage imports."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cxr.lineage import facts
from cxr.lineage.facts import RESULT_AFFECTING, declarations

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
STAGES = list(declarations(ROOT))


def module_file(name: str) -> Path | None:
    for path in (SRC / (name.replace(".", "/") + ".py"), SRC / name.replace(".", "/")):
        if path.is_file():
            return path
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
    return None


def has_code(path: Path) -> bool:
    """Whether a module contains more than a docstring."""
    return len(ast.parse(path.read_text()).body) > 1


def affects_results(path: Path) -> bool:
    package = path.relative_to(SRC / "cxr").parts[0].removesuffix(".py")
    return package in RESULT_AFFECTING and has_code(path)


def imports(path: Path) -> set[Path]:
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        # Importing a.b.c also runs a and a.b.
        for name in names:
            parts = name.split(".")
            files |= {module_file(".".join(parts[:n])) for n in range(1, len(parts) + 1)}
    return {path for path in files if path is not None}


def closure(start: set[Path]) -> set[Path]:
    """Result-affecting modules that the files import, not through reporting-only modules."""
    reached: set[Path] = set()
    todo = {path for file in start for path in imports(file)}
    while todo:
        path = todo.pop()
        if path in reached or not affects_results(path):
            continue
        reached.add(path)
        todo |= imports(path)
    return reached


def models_of(stage: str) -> set[Path]:
    """Files of the networks that the stage loads by name, without an import statement."""
    folder = SRC / "cxr" / "models"
    _, _, model = stage.partition("-")
    if model:
        return {folder / f"{model}.py"}
    return set(folder.glob("*.py")) if stage == "evaluate" else set()


def declared_code(stage: str) -> set[Path]:
    files = set()
    for dependency in facts.declaration(stage, ROOT).dependencies:
        path = ROOT / dependency
        if dependency.startswith("src/"):
            files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return set(filter(has_code, files))


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_declares_exactly_the_modules_that_a_stage_imports(stage: str) -> None:
    declaration = facts.declaration(stage, ROOT)
    path, python, script, *_ = declaration.command.split()
    assert (path, python) == ("PYTHONPATH=src", "python")
    models = models_of(stage)
    needed = closure({ROOT / script} | models) | models
    assert declared_code(stage) == needed
    assert script in declaration.dependencies


def test_every_result_affecting_package_exists() -> None:
    assert {path.stem for path in (SRC / "cxr").iterdir()} >= RESULT_AFFECTING


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_records_or_reports(stage: str) -> None:
    """They contain times and run ids."""
    declaration = facts.declaration(stage, ROOT)
    assert not any(path.startswith(("records", "reports")) for path in declaration.dependencies)
    assert f"records/{stage}.json" in declaration.outputs


def test_declarations_are_those_that_dvc_reads_from_dvc_yaml() -> None:
    from dvc.repo import Repo

    for stage in Repo(str(ROOT)).index.stages:
        ours = facts.declaration(stage.name, ROOT)
        theirs = [dep for dep in stage.deps if not hasattr(dep, "params")]
        assert ours.command == stage.cmd
        assert set(ours.dependencies) == {str(dep.def_path) for dep in theirs}
        assert set(ours.outputs) == {str(out.def_path) for out in stage.outs}
        params = [dep.params for dep in stage.deps if hasattr(dep, "params")]
        assert set(ours.params) == {name for names in params for name in names}


@pytest.mark.parametrize("name", [s for s in STAGES if s.startswith("train-") or s == "features"])
def test_every_training_and_features_depend_on_the_statistics(name: str) -> None:
    """A model that reads features may also normalise by the mean of the training pixels."""
    assert "data/statistics.json" in declarations(ROOT)[name].dependencies


def test_every_imported_package_is_declared() -> None:
    """A package installed only as another's dependency is missing once that one drops it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    distributions = packages_distributions() | {"ray": ["ray"]}  # optional
    missing = {
        (name, path.relative_to(ROOT).as_posix())
        for path in [*SRC.rglob("*.py"), *(ROOT / "stages").glob("*.py")]
        for name in top_level_imports(path) - sys.stdlib_module_names - {"cxr"}
        if not declared & set(map(canonicalize_name, distributions[name]))
    }
    assert missing == {("ray", "src/cxr/sweep/cluster.py")}  # an extra, which one file may use


def top_level_imports(path: Path) -> set[str]:
    """The first part of every name that a file imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
