"""What a stage's result depends on: its facts, and the fingerprint of the result-affecting ones.

Result-affecting code is a declared dependency of the stages that import it, so that DVC runs them
again when it changes. All other code is recorded but is not a dependency, since it does not change
any file that a later stage reads.
"""

import hashlib
import json
import platform
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from cxr import git
from cxr.documents import read_yaml, restoring
from cxr.errors import CxrError
from cxr.hashing import Digest, Md5, digest
from cxr.params import flatten
from cxr.paths import PARAMS_FILE, PIPELINE_FILE, ProjectPath

CODE = ("src", "stages", PIPELINE_FILE)
SOURCE_SUFFIX = ".py"
TO_LF = f"git ls-files -z {' '.join(CODE)} | xargs -0 sed -i 's/\\r$//'"  # keeps uncommitted edits
# Packages and modules of `cxr` whose code affects results. All others are reporting-only.
RESULT_AFFECTING = frozenset({"cam", "data", "evaluation", "labels", "models", "training"})

PACKAGES = (
    "cxr-pipeline", "numpy", "torch", "torchvision", "scipy", "scikit-learn", "safetensors",
    "pillow", "pydicom", "imagecodecs", "matplotlib", "mlflow", "dvc",
)  # fmt: skip
# `git apply` must be able to read the patch, whatever the user's git configuration, and paths are
# relative to the project, which may be a subfolder of a larger repository.
DIFF = (
    "-c", "core.autocrlf=false", "-c", "core.quotePath=false", "diff", "--binary", "--no-color",
    "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/",
    "--relative",
)  # fmt: skip
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}([0-9a-f]{24})?$")]
RESULT_AFFECTING_PACKAGES = (
    "numpy",
    "torch",
    "torchvision",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pillow",
    "pydicom",
    "imagecodecs",
)


@dataclass(frozen=True)
class Declaration:
    """A stage as declared in dvc.yaml, with variables filled in."""

    stage: str
    command: str
    dependencies: tuple[str, ...]
    params: tuple[str, ...]
    outputs: tuple[str, ...]


class Code(TypedDict):
    """The code of a working copy; the keys are those of the record's JSON."""

    commit: Commit | None
    files: dict[ProjectPath, str]  # path -> blob hash
    deciding: list[ProjectPath]  # result-affecting files, on which the stage depends
    edited: list[ProjectPath]  # files that differ from the commit
    patch: str | None  # from the commit to the code and params.yaml that ran


class Environment(TypedDict):
    """Where a stage ran."""

    python: str
    packages: dict[str, str]
    system: str
    machine: str
    cpu: str
    device: str
    threads: int


@dataclass(frozen=True)
class Facts:
    """Everything that a result was made from; the fields are the keys of the record's JSON."""

    stage: str
    command: str
    dependencies: dict[ProjectPath, Digest]
    inputs: dict[ProjectPath, Md5]  # those dependencies that are outputs of other stages
    params: dict[str, Any]  # dotted names
    foreign: dict[str, Md5]  # external files: the user's own, named in params.yaml
    code: Code
    environment: Environment

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that affects the result."""
        environment = self.environment
        result_affecting = {
            "command": self.command,
            "dependencies": {path: digest.md5 for path, digest in self.dependencies.items()},
            "params": self.params,
            "foreign": sorted(self.foreign.values()),
            "environment": {
                "python": environment["python"],
                "packages": {
                    name: environment["packages"].get(name) for name in RESULT_AFFECTING_PACKAGES
                },
                "machine": environment["machine"],
                "cpu": environment["cpu"],
                "device": environment["device"],
            },
        }
        canonical = json.dumps(result_affecting, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def take_facts(
    declared: Declaration, root: Path, external_files: dict[str, Path], device: str
) -> Facts:
    """Record the current state of everything the stage depends on.

    Parameters
    ----------
    external_files : the user's own files named in params.yaml: name in the record -> file.
    """
    params = read_yaml(root / PARAMS_FILE)
    dependencies = {path: digest(root / path) for path in declared.dependencies}
    return Facts(
        stage=declared.stage,
        command=declared.command,
        dependencies=dependencies,
        inputs=_inputs(declared, root, dependencies),
        params=select(params, declared.params),
        foreign={name: digest(path).md5 for name, path in external_files.items()},
        code=_code(root, declared),
        environment=environment(device, params["threads"]),
    )


def changed(before: Facts, after: Facts) -> list[str]:
    """Names of everything that changed since the stage started, for an error message."""
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


def declarations(root: Path) -> dict[str, Declaration]:
    """The stages of dvc.yaml by name; supports only the syntax that our dvc.yaml uses."""
    try:
        stages: dict[str, Any] = read_yaml(root / PIPELINE_FILE).get("stages", {})
        return {name: _declaration(name, entry) for name, entry in stages.items()}
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__} {error}"
        raise CxrError(
            f"{root / PIPELINE_FILE} is not a valid pipeline ({reason}); "
            f"{restoring(root / PIPELINE_FILE)}"
        ) from None


def declaration(stage: str, root: Path) -> Declaration:
    """One stage of dvc.yaml; CxrError if it does not exist."""
    known = declarations(root)
    if stage not in known:
        raise CxrError(f"{PIPELINE_FILE} has no stage `{stage}`; its stages are {', '.join(known)}")
    return known[stage]


def with_dependencies(stages: list[str], known: dict[str, Declaration]) -> list[str]:
    """The stages and all stages that they depend on, in the order of dvc.yaml."""
    required = list(stages)
    for stage in required:  # the list grows during the loop
        makers = [each for each in known.values() if _makes(each, known[stage].dependencies)]
        required += [each.stage for each in makers if each.stage not in required]
    return [stage for stage in known if stage in required]


def environment(device: str, threads: int) -> Environment:
    """Versions, machine and device: torch's device with the GPU's name, or `none` without torch."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "device": device,
        "threads": threads,
    }


def select(params: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Parameters at and below the given dotted keys, by full dotted name."""
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = params
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise CxrError(f"{PARAMS_FILE}: {key} is missing; add it")
            value = value[part]
        found |= flatten(value, key) if isinstance(value, dict) else {key: value}
    return found


def inside(path: str, parents: tuple[str, ...]) -> bool:
    """Whether a path equals or is below one of the other paths."""
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)


def _makes(stage: Declaration, paths: tuple[str, ...]) -> bool:
    """Whether an output of the stage equals, is inside or contains one of the paths."""
    outputs = stage.outputs
    return any(inside(each, paths) for each in outputs) or any(inside(p, outputs) for p in paths)


def _declaration(stage: str, entry: dict[str, Any]) -> Declaration:
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


def _inputs(declared: Declaration, root: Path, known: dict[str, Digest]) -> dict[str, str]:
    """MD5 of every output of another stage that is, or is inside, a dependency."""
    outputs = [
        output
        for other in declarations(root).values()
        if other.stage != declared.stage
        for output in other.outputs
        if inside(output, declared.dependencies)
    ]
    return {path: (known.get(path) or digest(root / path)).md5 for path in outputs}


def _code(root: Path, declared: Declaration) -> Code:
    """Commit, blob hash of every source file, and a patch if they differ from the commit.

    Edits are found by blob hash, since `git status` relies on times and sizes and can miss them.
    """
    files = code_files(root)
    affecting = sorted(path for path in files if inside(path, declared.dependencies))
    commit = git.ask(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "files": files, "deciding": affecting, "edited": [], "patch": None}
    committed = blobs_at(root, "HEAD")
    edited = sorted(
        path for path in files.keys() | committed.keys() if files.get(path) != committed.get(path)
    )
    return {
        "commit": commit.strip(),
        "files": files,
        "deciding": affecting,
        "edited": edited,
        "patch": _patch(root, edited, sorted(files.keys() - committed.keys())),
    }


def code_files(root: Path) -> dict[str, str]:
    """Current blob hash of every source file and of dvc.yaml."""
    return {
        path.relative_to(root).as_posix(): _git_blob(path)
        for part in CODE
        for path in _files_below(root / part)
    }


def blobs_at(root: Path, commit: str) -> dict[str, str]:
    """Blob hash of every source file and of dvc.yaml in a commit; empty if it is unknown."""
    listing = git.ask(root, "ls-tree", "-r", "-z", commit, "--", *CODE) or ""
    found = {}
    for line in listing.split("\0"):
        entry, _, path = line.partition("\t")
        if path.endswith(SOURCE_SUFFIX) or path == PIPELINE_FILE:
            found[path] = entry.split()[2]
    return found


def with_crlf(root: Path, blobs: dict[str, str]) -> list[str]:
    """Files that differ from the given blobs only by Windows line endings.

    With `core.autocrlf` git considers them unchanged; DVC hashes the bytes.
    """
    return [
        path
        for path, blob in blobs.items()
        if (root / path).is_file()
        and b"\r\n" in (content := (root / path).read_bytes())
        and _blob_of(content.replace(b"\r\n", b"\n")) == blob
    ]


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(path.rglob(f"*{SOURCE_SUFFIX}"))


def _git_blob(path: Path) -> str:
    return _blob_of(path.read_bytes())


def _blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _patch(root: Path, edited: list[str], new: list[str]) -> str | None:
    """The patch from the commit to the code and params.yaml that ran; None if they are equal.

    Uses a temporary git index, since file times in the existing one can be misleading.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.ask(root, "read-tree", "HEAD", env=env)
        if new:
            git.run(root, "add", "--force", "--intent-to-add", "--", *new, env=env)
        return git.run(root, *DIFF, "HEAD", "--", *edited, PARAMS_FILE, env=env) or None


def _cpu() -> str:
    """The processor's model, since rounding can differ between models."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
