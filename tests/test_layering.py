"""A file imports from lower floors only, and two libraries have their homes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "cxr"

# From the ground up: packages, and modules beside them.
FLOORS = (
    {"arrays", "errors", "formatting", "labels", "locks", "paths", "signals"},
    {"documents", "git", "progress"},
    {"hashing", "params"},
    {"data"},
    {"evaluation", "lineage", "models"},
    {"scoring", "tracking", "training"},
    {"cam", "doctor", "pipeline"},
    {"audit", "plots", "sweep"},
    {"inference", "report"},
    {"cli"},
)
MOST_ROOMS = 30
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layout() -> str:
    """The rooms of `cxr` floor by floor, the highest first, each with its own first sentence."""
    lines = []
    for floor in reversed(FLOORS):
        for room in sorted(floor):
            folder = SRC / room
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
            says = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
            name = f"{room}/" if folder.is_dir() else f"{room}.py"
            lines.append(f"{name:<14}{says}")
        lines.append("")
    return "\n".join(lines).rstrip()


def test_every_file_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)
    assert len(FLOOR_OF) <= MOST_ROOMS


def test_the_layout_in_the_docs_is_the_packages_own() -> None:
    """`python tests/test_layering.py` prints it anew."""
    assert f"```\n{layout()}\n```" in (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("cxr.")}
    upwards = {other for other in rooms - {room} if FLOOR_OF[other] >= FLOOR_OF[room]}
    assert not upwards


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_the_package_knows_no_stage(path: Path) -> None:
    assert not any(name.startswith("stages") for name in imported_modules(path))


@pytest.mark.parametrize(
    ("library", "homes"), [("mlflow", {"tracking", "inference"}), ("matplotlib", {"plots"})]
)
def test_a_library_is_at_home_where_it_belongs(library: str, homes: set[str]) -> None:
    importers = {
        room_of(path) if path.is_relative_to(SRC) else path.name
        for path in [*FILES, *(ROOT / "stages").glob("*.py")]
        if any(name.split(".")[0] == library for name in imported_modules(path))
    }
    assert importers == homes


if __name__ == "__main__":
    print(layout())
