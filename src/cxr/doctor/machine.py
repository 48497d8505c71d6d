"""This machine: Python, packages, disk, memory, processors, graphics."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from cxr.doctor.context import LIMIT, Place
from cxr.doctor.finding import Answer, missing, note, ok, some
from cxr.errors import user_problem

LEAST_PYTHON = (3, 11)  # as pyproject.toml has it
LOCKED = re.compile(r"^([\w.-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+))?", re.MULTILINE)
DEPENDENCIES = re.compile(r"^dependencies = \[\n(.*?)^\]", re.MULTILINE | re.DOTALL)
REQUIRED = re.compile(r'^\s*"([\w.-]+)', re.MULTILINE)

GB = 1e9
ENVIRONMENT_BYTES = 6 * GB  # of .venv, as the README says
OTHER_BYTES = 1 * GB  # figures, maps, models, MLflow
CHESTMNIST = 112_120  # images
FEATURE_BYTES = 512 * 4  # of one image
# The stages take up to 1.5 GB above torch's own 0.3 (docs/performance.md); DVC waits beside them.
LEAST_MEMORY = 2 * GB

TORCH_CUDA = re.compile(r"^cuda[^=]*=\s*'([\d.]+)'", re.MULTILINE)
DRIVER_CUDA = re.compile(r"CUDA(?: UMD)? Version:\s*([\d.]+)")


def user(place: Place) -> Answer:
    return (
        missing(*problem)
        if (problem := user_problem())
        else ok(f"{getpass.getuser()}, {Path.home()}")
    )


def python(place: Place) -> Answer:
    version = ".".join(map(str, sys.version_info[:3]))
    least = ".".join(map(str, LEAST_PYTHON))
    if sys.version_info[:2] < LEAST_PYTHON:
        return missing(
            f"{version} at {sys.executable}; {least} or newer is needed",
            f"install Python {least}, then make setup PYTHON=python{least}",
        )
    if not (place.root / ".venv").exists() and find_spec("ensurepip") is None:
        return missing(
            f"{version} without venv, which .venv is made with", "apt-get install python3-venv"
        )
    return ok(f"{version} at {sys.executable}")


def packages(place: Place) -> Answer:
    """What is installed against requirements.lock; without what the code imports nothing goes."""
    locked = _locked((place.root / "requirements.lock").read_text())
    setup = _setup(place)
    here = {_plain(each.name): each.version for each in metadata.distributions() if each.name}
    absent = sorted(name for name in locked if name not in here)
    if len(absent) == len(locked):
        return missing(f"none of {len(locked)} is installed", setup)
    needed = _needed((place.root / "pyproject.toml").read_text())
    if lacking := [name for name in absent if name in needed]:
        return missing(f"not installed: {some(lacking)}", setup)
    if (mixed := _torch_is_mixed(here)) is not None:
        return missing(mixed, f"{setup}, which installs both from one place")
    others = [
        f"{name} is {here[name]}, not {version}"
        for name, version in sorted(locked.items())
        if name in here and here[name].partition("+")[0] != version.partition("+")[0]
    ]
    if absent or others:
        found = others + ([f"not installed: {some(absent)}"] if absent else [])
        return note(f"unlike requirements.lock: {some(found)}", setup)
    return ok(f"{len(locked)}, all as in requirements.lock")


def disk(place: Place) -> Answer:
    free = shutil.disk_usage(place.root).free
    parts = []
    if not (place.root / ".venv").exists() and sys.prefix == sys.base_prefix:
        parts.append((ENVIRONMENT_BYTES, "for .venv"))
    if (place.root / "data" / "processed").exists():
        parts.append((OTHER_BYTES, "to go on"))
    else:
        parts.append((_data_bytes(place) + OTHER_BYTES, "for data, cache and results"))
    needed = sum(size for size, _ in parts)
    found = f"{_gb(free)} free; needed: " + ", ".join(f"{_gb(n)} {what}" for n, what in parts)
    if free < needed:
        return missing(found, "free some, or put the clone on a bigger disk")
    return ok(found)


def memory(place: Place) -> Answer:
    told = Path("/proc/meminfo").read_text()
    total, available = (
        float(re.findall(rf"^{key}:\s+(\d+) kB", told, re.MULTILINE)[0]) * 1024
        for key in ("MemTotal", "MemAvailable")
    )
    limit = _memory_limit()
    total, available = min(total, limit), min(available, limit)
    found = f"{_gb(available)} of {_gb(total)} available, {_gb(LEAST_MEMORY)} needed"
    if total < LEAST_MEMORY:
        return missing(found, "a machine, or a limit of its container, with more memory")
    if available < LEAST_MEMORY:
        return note(found, "end other programs")
    return ok(found)


def cores(place: Place) -> Answer:
    here, wanted = len(os.sched_getaffinity(0)), place.param("threads", 2)
    found = f"{here} here, threads: {wanted} in params.yaml"
    if wanted > here:
        return note(
            f"{found}; threads that share a core are slow",
            f"dvc exp run -S threads={here} (gives other last bits of every result)",
        )
    return ok(found)


def gpu(place: Place) -> Answer:
    """Told, not required: what is there, and whether this torch can use it."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ok("none that nvidia-smi knows; everything runs on the CPU")
    query = [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        said = (done.stdout + done.stderr).strip().splitlines() or ["it says nothing"]
        return note(f"nvidia-smi fails: {said[-1]}", "install the driver again, or use the CPU")
    cards = "; ".join(", driver ".join(line.split(", ")) for line in done.stdout.splitlines())
    built = _cuda_of_torch()
    if built is None:
        return note(f"{cards}; torch is built for the CPU alone", _setup(place))
    banner = subprocess.run([smi], capture_output=True, text=True, timeout=LIMIT, check=False)
    drives = DRIVER_CUDA.search(banner.stdout)
    if drives and int(drives[1].split(".")[0]) < int(built.split(".")[0]):
        return note(
            f"{cards}, up to CUDA {drives[1]}; torch is built for CUDA {built}, so the CPU is used",
            "update the driver",
        )
    return ok(f"{cards}; torch is built for CUDA {built}")


def _locked(text: str) -> dict[str, str]:
    """Version by name of what the lock file wants on this machine."""
    try:
        from packaging.markers import Marker
    except ImportError:  # then so much else is missing that those without a condition tell it
        return {
            _plain(name): version for name, version, marker in LOCKED.findall(text) if not marker
        }
    return {
        _plain(name): version
        for name, version, marker in LOCKED.findall(text)
        if not marker or Marker(marker.strip()).evaluate()
    }


def _setup(place: Place) -> str:
    """What installs the lock file: also where make thinks that it is done."""
    done = (place.root / ".venv" / ".ready").exists()
    return "make --always-make setup" if done else "make setup"


def _needed(pyproject: str) -> set[str]:
    """What the project itself imports."""
    section = DEPENDENCIES.search(pyproject)
    return {_plain(name) for name in REQUIRED.findall(section[1])} if section else set()


def _plain(name: str) -> str:
    """PEP 503: one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _torch_is_mixed(here: dict[str, str]) -> str | None:
    """Builds from two places, of which the import fails (`torchvision::nms does not exist`)."""
    builds = [here[name].partition("+")[2] for name in ("torch", "torchvision")]
    if ("cpu" in builds) and len(set(builds)) > 1:
        return f"torch {here['torch']} and torchvision {here['torchvision']} are of two builds"
    return None


def _data_bytes(place: Place) -> float:
    """Raw and processed images and features, once in the working copy and once in DVC's cache."""
    source, size = place.param("download.source", "medmnist"), place.param("download.size", 28)
    if source == "file":
        file = place.root / Path(place.param("download.path", "")).expanduser()
        raw = float(file.stat().st_size) if file.is_file() else 0.0
        return 2 * 3 * raw  # what it holds unpacked is bigger
    counts = (place.param(f"download.phantom.{split}", 0) for split in ("train", "val", "test"))
    n = sum(counts) if source == "phantom" else CHESTMNIST
    return float(2 * n * (2 * size * size + FEATURE_BYTES))


def _memory_limit() -> float:
    """Of the container, if there is one."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # `max`
        return float("inf")


def _cuda_of_torch() -> str | None:
    """The CUDA that torch is built for; read, since its import takes seconds."""
    spec = find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = TORCH_CUDA.search((Path(folder) / "version.py").read_text())
        return found[1] if found else None
    return None


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size < 10 * GB else f"{size / GB:.0f} GB"
