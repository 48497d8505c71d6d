"""What a stage's result depends on: its facts, and the fingerprint of the part that decides it.

*Deciding* code is a declared dependency of the stages that import it, so that DVC runs them again
when it changes. *Presenting* code (below) is recorded, but an edit there changes no byte that a
later stage reads, so it is no dependency.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cxr.errors import CxrError
from cxr.params import PARAMS_FILE, flatten, read_yaml

PIPELINE_FILE = "dvc.yaml"
CODE = ("src", "stages", PIPELINE_FILE)

# Modules of cxr that show, record or check, and decide no byte of what a later stage reads.
PRESENTING = frozenset(
    {"cli", "demo", "errors", "lineage", "params", "plots", "progress", "stage", "tracking"}
)

PACKAGES = (
    "cxr-pipeline", "numpy", "torch", "torchvision", "scikit-learn", "safetensors",
    "matplotlib", "mlflow", "dvc",
)  # fmt: skip
IGNORED = "__pycache__"  # in .dvcignore, too

DECIDING_PACKAGES = ("numpy", "torch", "torchvision", "scikit-learn", "safetensors")


@dataclass(frozen=True)
class Declaration:
    """A stage as dvc.yaml declares it, variables filled in."""

    stage: str
    command: str
    dependencies: tuple[str, ...]
    params: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Digest:
    """A file or folder under DVC's name for its content."""

    md5: str
    size: int  # bytes
    nfiles: int | None = None  # of a folder


@dataclass(frozen=True)
class Facts:
    """All that a result was made from."""

    stage: str
    command: str
    dependencies: dict[str, Digest]
    params: dict[str, Any]  # dotted names
    foreign: dict[str, str]  # path -> md5 of the user's own files that params.yaml names
    code: dict[str, Any]
    environment: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the result's bytes."""
        environment = self.environment
        deciding = {
            "command": self.command,
            "dependencies": {path: digest.md5 for path, digest in self.dependencies.items()},
            "params": self.params,
            "foreign": sorted(self.foreign.values()),
            "environment": {
                "python": environment["python"],
                "packages": {name: environment["packages"][name] for name in DECIDING_PACKAGES},
                "machine": environment["machine"],
                "cpu": environment["cpu"],
                "device": environment["device"],
            },
        }
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class RunLog:
    """Everything MLflow is told about one run; a record keeps it, so that it can be told again."""

    name: str
    model: str | None
    run_id: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, str]] = field(default_factory=list)  # name, digest, context
    history: list[dict[str, float]] = field(default_factory=list)  # one mapping an epoch
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)  # paths of outputs


def take_facts(declared: Declaration, root: Path, foreign: tuple[Path, ...], device: str) -> Facts:
    """Look at everything the stage depends on, as it is now."""
    params = read_yaml(root / PARAMS_FILE)
    return Facts(
        stage=declared.stage,
        command=declared.command,
        dependencies={path: digest(root / path) for path in declared.dependencies},
        params={
            name: value for key in declared.params for name, value in _select(params, key).items()
        },
        foreign={str(path): digest(path).md5 for path in foreign},
        code=_code(root, declared),
        environment=environment(device, params["threads"]),
    )


def changed(before: Facts, after: Facts) -> list[str]:
    """What is no longer as it was when the stage started; names for a sentence."""
    found = [
        path
        for path, digest in after.dependencies.items()
        if digest.md5 != before.dependencies[path].md5
    ]
    found += [path for path, md5 in after.foreign.items() if md5 != before.foreign[path]]
    names = before.params.keys() | after.params.keys()
    found += sorted(
        f"{PARAMS_FILE}: {name}"
        for name in names
        if before.params.get(name) != after.params.get(name)
    )
    if before.command != after.command:
        found.append(f"the stage's command in {PIPELINE_FILE}")
    return found


def stages(root: Path) -> dict[str, Any]:
    """The stages of dvc.yaml by name, variables not yet filled in."""
    content: dict[str, Any] = read_yaml(root / PIPELINE_FILE).get("stages", {})
    return content


def declaration(stage: str, root: Path) -> Declaration:
    """The stage's entry in dvc.yaml; reads the part of DVC's language that our dvc.yaml uses."""
    known = stages(root)
    if stage not in known:
        raise CxrError(f"{PIPELINE_FILE} has no stage `{stage}`; it has {', '.join(known)}")
    entry = known[stage]
    variables = {name: value for block in entry.get("vars", []) for name, value in block.items()}

    def filled(text: str) -> str:
        for name, value in variables.items():
            text = text.replace(f"${{{name}}}", str(value))
        return text

    outputs = [
        next(iter(item)) if isinstance(item, dict) else item
        for kind in ("outs", "metrics", "plots")
        for item in entry.get(kind, [])
    ]
    return Declaration(
        stage=stage,
        command=filled(entry["cmd"]),
        dependencies=tuple(filled(path) for path in entry.get("deps", [])),
        params=tuple(filled(key) for key in entry.get("params", [])),
        outputs=tuple(filled(path) for path in outputs),
    )


def digest(path: Path) -> Digest:
    """MD5 of a file, or of a folder as DVC computes it: over the sorted list of its files."""
    if path.is_file():
        return Digest(md5_of_file(path), path.stat().st_size)
    if not path.is_dir():
        raise CxrError(f"{path} is missing; `dvc repro` makes it, `dvc pull` brings it")
    entries, size = [], 0
    for file in (p for p in path.rglob("*") if p.is_file() and IGNORED not in p.parts):
        entries.append({"md5": md5_of_file(file), "relpath": file.relative_to(path).as_posix()})
        size += file.stat().st_size
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True)
    md5 = hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()
    return Digest(f"{md5}.dir", size, len(entries))


def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, machine and device. `device` is a torch device, or `none` without torch."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "device": device,
        "threads": threads,
    }


def inside(path: str, places: tuple[str, ...]) -> bool:
    """Whether a path is one of the places or below one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def md5_of_file(path: Path) -> str:
    """MD5 as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _select(params: dict[str, Any], key: str) -> dict[str, Any]:
    """The values below a dotted key, under their full dotted names."""
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise CxrError(f"{PARAMS_FILE}: {key} is missing")
        value = value[part]
    return flatten(value, key) if isinstance(value, dict) else {key: value}


def _code(root: Path, declared: Declaration) -> dict[str, Any]:
    """Commit, blob hash of every source file, and a patch where they differ from the commit.

    By blob hash, since `git status` trusts times and sizes and can call an edited file clean.
    """
    files = {
        path.relative_to(root).as_posix(): _git_blob(path)
        for place in CODE
        for path in _files_below(root / place)
    }
    deciding = sorted(path for path in files if inside(path, declared.dependencies))
    commit = _git(root, "rev-parse", "HEAD") if shutil.which("git") else None
    if commit is None:
        return {"commit": None, "files": files, "deciding": deciding, "edited": [], "patch": None}
    listing = _git(root, "ls-tree", "-r", "HEAD", "--", *CODE) or ""
    committed = {
        line.split("\t", 1)[1]: line.split()[2] for line in listing.splitlines() if "\t" in line
    }
    edited = sorted(
        path for path in files.keys() | committed.keys() if files.get(path) != committed.get(path)
    )
    return {
        "commit": commit.strip(),
        "files": files,
        "deciding": deciding,
        "edited": edited,
        "patch": _patch(root, edited, sorted(files.keys() - committed.keys())) if edited else None,
    }


def _files_below(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(place.rglob("*.py"))


def _git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _patch(root: Path, edited: list[str], new: list[str]) -> str | None:
    """`git diff` against the commit with an index of its own, which has no times to trust."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", "HEAD", env=env)
        if new:
            _git(root, "add", "--intent-to-add", "--", *new, env=env)
        return _git(root, "diff", "--binary", "HEAD", "--", *edited, env=env)


def _git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str | None:
    """What git prints, or None where it fails (no repository, no commit yet)."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=env, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _cpu() -> str:
    """The processor's name: the same program can round differently on another kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
