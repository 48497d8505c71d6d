"""Files import only from lower layers; mlflow and matplotlib only in their packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "cxr"

# Packages and top-level modules of cxr, the lowest layer first.
LAYERS = (
    {"arrays", "errors", "formatting", "paths", "signals"},
    {"documents", "git", "labels", "locks", "progress"},
    {"hashing", "params"},
    {"data"},
    {"evaluation", "lineage", "models"},
    {"scoring", "tracking", "training"},
    {"cam", "doctor", "pipeline"},
    {"audit", "plots", "sweep"},
    {"inference", "report"},
    {"cli"},
)
MAX_PACKAGES = 30
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
FILES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layout() -> str:
    """The packages of `cxr`, the highest layer first, each with its docstring's first line."""
    lines = []
    for layer in reversed(LAYERS):
        for package in sorted(layer):
            folder = SRC / package
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
            summary = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
            name = f"{package}/" if folder.is_dir() else f"{package}.py"
            lines.append(f"{name:<14}{summary}")
        lines.append("")
    return "\n".join(lines).rstrip()


def test_every_file_belongs_to_a_layer() -> None:
    assert {package_of(path) for path in FILES} == set(LAYER_OF)
    assert len(LAYER_OF) <= MAX_PACKAGES


def test_the_docs_list_every_package_with_its_docstring() -> None:
    """`python tests/test_layering.py` prints the list for the docs."""
    assert f"```\n{layout()}\n```" in (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_file_imports_only_from_lower_layers(path: Path) -> None:
    package = package_of(path)
    imported = {name.split(".")[1] for name in imported_modules(path) if name.startswith("cxr.")}
    assert not {p for p in imported - {package} if LAYER_OF[p] >= LAYER_OF[package]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_the_package_imports_no_stage(path: Path) -> None:
    assert not any(name.startswith("stages") for name in imported_modules(path))


@pytest.mark.parametrize(
    ("library", "packages"), [("mlflow", {"tracking", "inference"}), ("matplotlib", {"plots"})]
)
def test_a_library_is_imported_only_by_its_packages(library: str, packages: set[str]) -> None:
    importers = {
        package_of(path) if path.is_relative_to(SRC) else path.name
        for path in [*FILES, *(ROOT / "stages").glob("*.py")]
        if any(name.split(".")[0] == library for name in imported_modules(path))
    }
    assert importers == packages


if __name__ == "__main__":
    print(layout())
