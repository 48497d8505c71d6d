"""Checks of this machine: Python, packages, disk, memory, CPU cores, GPU, user."""

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

from cxr.doctor.context import TIMEOUT, Clone
from cxr.doctor.finding import Finding, missing, note, ok, some
from cxr.errors import user_problem
from cxr.formatting import count

MIN_PYTHON = (3, 11)  # as in pyproject.toml
GB = 1e9
ENVIRONMENT_BYTES = 6 * GB  # of .venv, as the README says
OTHER_BYTES = 1 * GB  # figures, maps, models, MLflow
CHESTMNIST = 112_120  # images
FEATURE_BYTES = 512 * 4  # of one image
# Stages use up to 1.5 GB, plus 0.3 GB for torch (docs/performance.md); DVC runs next to them.
MIN_MEMORY = 2 * GB
TORCH_LIMIT = 30.0  # seconds for its import
ASK_TORCH = "import torch; print(torch.cuda.is_available())"


def user(clone: Clone) -> Finding:
    if problem := user_problem():
        return missing(*problem)
    return ok(f"{getpass.getuser()}, {Path.home()}")


def python(clone: Clone) -> Finding:
    version, minimum = (".".join(map(str, each)) for each in (sys.version_info[:3], MIN_PYTHON))
    if sys.version_info[:2] < MIN_PYTHON:
        return missing(
            f"{version} at {sys.executable} is too old; {minimum} or newer is required",
            f"install Python {minimum}, then make setup PYTHON=python{minimum}",
        )
    if not (clone.root / ".venv").exists() and find_spec("ensurepip") is None:
        return missing(
            f"{version} has no venv module, which `make setup` needs",
            "apt-get install python3-venv",
        )
    return ok(f"{version} at {sys.executable}")


def packages(clone: Clone) -> Finding:
    """Compare the installed packages with requirements.lock."""
    # Otherwise make considers .venv complete.
    always = "--always-make " * (clone.root / ".venv" / ".ready").exists()
    setup = f"make {always}setup"
    try:
        import tomllib

        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        return missing("not installed", setup)
    lines = (clone.root / "requirements.lock").read_text().splitlines()
    locked = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    project = tomllib.loads((clone.root / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    absent, different, n = [], [], 0
    for each in locked:
        if each.marker is not None and not each.marker.evaluate():
            continue
        n += 1
        try:
            version = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            absent.append(each.name)
            continue
        if not each.specifier.contains(version, prereleases=True):
            different.append(f"{each.name} is {version}, not {str(each.specifier)[2:]}")
    if required := [name for name in absent if canonicalize_name(name) in needed]:
        return missing(f"not installed: {some(required)}", setup)
    if absent or different:
        return note(
            "differ from requirements.lock: "
            + some(different + [f"{name} is missing" for name in absent]),
            setup,
        )
    return ok(f"all {n} match requirements.lock")


def disk(clone: Clone) -> Finding:
    free = shutil.disk_usage(clone.root).free
    needed = OTHER_BYTES
    if not (clone.root / "data" / "processed").exists():
        needed += _data_bytes(clone)
    if not (clone.root / ".venv").exists() and sys.prefix == sys.base_prefix:
        needed += ENVIRONMENT_BYTES
    found = f"{_gb(free)} free, {_gb(needed)} needed"
    if free < needed:
        return missing(found, "free some space, or put the clone on a bigger disk")
    return ok(found)


def memory(clone: Clone) -> Finding:
    text = Path("/proc/meminfo").read_text()
    total, available = (
        min(float(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) * 1024, _memory_limit())
        for key in ("MemTotal", "MemAvailable")
    )
    found = f"{_gb(available)} of {_gb(total)} available, {_gb(MIN_MEMORY)} needed"
    if total < MIN_MEMORY:
        return missing(
            found, "use a machine with more memory, or raise the container's memory limit"
        )
    return ok(found) if available >= MIN_MEMORY else note(found, "close other programs")


def cores(clone: Clone) -> Finding:
    available, threads = len(os.sched_getaffinity(0)), clone.param("threads", 2)
    found = f"{count(available, 'core')}, threads: {threads} in params.yaml"
    if threads > available:
        return note(
            f"{found}; more threads than cores are slow",
            f"dvc exp run -S threads={available} (results are then not bit-identical)",
        )
    return ok(found)


def gpu(clone: Clone) -> Finding:
    """The GPU's name, and whether torch can use it; no GPU is required."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ok("none (no nvidia-smi); everything runs on the CPU")
    query = [smi, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        return note(f"nvidia-smi fails: {lines[-1]}", "reinstall the NVIDIA driver, or use the CPU")
    cards = some(done.stdout.strip().splitlines())
    ask = [sys.executable, "-c", ASK_TORCH]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=TORCH_LIMIT, check=False)
    if done.stdout.strip() != "True":
        lines = done.stderr.strip().splitlines() or ["torch.cuda.is_available() is False"]
        return note(
            f"{cards}; torch uses the CPU: {lines[-1]}",
            "update the driver, or install a build of torch that supports it",
        )
    return ok(f"{cards}; torch can use it")


def _data_bytes(clone: Clone) -> float:
    """Size of raw and processed data and features, in the working copy and in DVC's cache."""
    size: int = clone.param("download.size", 28)
    return 2.0 * CHESTMNIST * (2 * size * size + FEATURE_BYTES)


def _memory_limit() -> float:
    """The container's memory limit in bytes; infinite if there is none."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # `max`
        return float("inf")


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size < 10 * GB else f"{size / GB:.0f} GB"
