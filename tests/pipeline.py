"""A working copy with the project's pipeline on a tiny phantom, for tests."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cxr import cli
from cxr import params as params_file

ROOT = Path(__file__).parents[1]

TINY: dict[str, Any] = {
    "threads": 1,
    "download.source": "phantom",
    "download.phantom.train": 300,
    "download.phantom.val": 200,
    "download.phantom.test": 150,
    "train.protocol.epochs": 2,
    "train.protocol.batch_size": 64,
    "train.squeezenet.weights": "none",
    "train.squeezenet.image_size": 32,
    "train.vit.depth": 1,
    "gradcam.indices": [0, 3],
    "gradcam.labels": "findings",
    "gradcam.max_findings": 4,
}

TIMEOUT = 600  # seconds; every command is faster

# These commands take seconds to import and less to run, so they are forked from a process that has
# imported them already.
FORKED = ("audit", "diff", "sync")
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["cxr.audit.difference", "cxr.audit.sync", "mlflow.store.tracking.sqlalchemy_store", "pipeline"]
)

COMMITTER = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "tester"), ("EMAIL", "tester@example.org"))
}


@dataclass(frozen=True)
class Pipeline:
    """A git and DVC working copy."""

    folder: Path

    def run(self, *command: str, limit: int = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder, with `dvc` and `python` of this environment."""
        if command[0] == "cxr" and command[1] in FORKED:
            return self._fork(command, limit)
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            # Files, not pipes: a DVC queue worker that outlives its command keeps pipes open.
            subprocess.Popen(
                list(command), cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            printed, errors = (_read(file) for file in (out, err))
        return subprocess.CompletedProcess(command, process.returncode, printed, errors)

    def _fork(self, command: tuple[str, ...], limit: int) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = FORKSERVER.Process(
                target=_main, args=(command, self.folder, self.environment(), out, err)
            )
            process.start()
            process.join(limit)
            if process.exitcode is None:
                process.kill()
                raise subprocess.TimeoutExpired(command, limit)
            return subprocess.CompletedProcess(
                command, process.exitcode, out.read_text(), err.read_text()
            )

    def environment(self) -> dict[str, str]:
        """The environment variables of programs in the folder."""
        env = os.environ | COMMITTER
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        env["PYTHONPATH"] = str(self.folder / "src")
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
            env.pop(name, None)
        return env

    def dvc(self, *arguments: str) -> str:
        """Output of a DVC command, which must succeed."""
        done = self.run("dvc", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        """Output of a git command, which must succeed."""
        done = self.run("git", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`; return the stages that ran, in order."""
        lines = self.dvc("repro", *arguments).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def run_queue(self, workers: int) -> str:
        """Run all queued experiments; return the final output of `dvc queue status`."""
        self.dvc("queue", "start", "-j", str(workers))
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            status = self.dvc("queue", "status")
            if "Running" not in status and "Queued" not in status:
                return status
            time.sleep(1)
        raise AssertionError(status)

    def copy(self, folder: Path) -> "Pipeline":
        """Copy the pipeline to another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Pipeline(folder)

    def change(self, **params: Any) -> None:
        """Set parameters; two underscores in a name stand for a dot."""
        changes = {key.replace("__", "."): value for key, value in params.items()}
        params_file.change(self.folder / "params.yaml", changes)

    def run_id(self, stage: str) -> str:
        """MLflow id of the stage's first run, from the stage's record."""
        run_id: str = self.json(f"records/{stage}.json")["runs"][0]["run_id"]
        return run_id

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text())


def _main(
    command: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    """Do in this process what a new one would do for a `cxr` command."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, environment["PYTHONPATH"])
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = list(command)
    cli.main()


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def create(folder: Path, params: dict[str, Any] = TINY) -> Pipeline:
    """A new repository with the project's pipeline and the given parameters."""
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
    params_file.change(folder / "params.yaml", params)
    pipeline = Pipeline(folder)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        pipeline.git(*command)
    return pipeline
