"""Runs a stage: collect facts, start runs, do the work, compare facts, write the record, publish.

A stage writes to its scratch folder and is published at the end by renaming: outputs are complete
or missing, and an interrupted stage resumes from its progress.
"""

import gc
import json
import os
import re
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cxr
from cxr import hashing, progress, signals
from cxr.data import splits
from cxr.data.splits import Origin
from cxr.documents import write_atomically
from cxr.errors import CxrError, is_out_of_memory, is_refused_by_disk, one_line, shown
from cxr.hashing import files_below, md5_of_file
from cxr.lineage import facts, records
from cxr.lineage.facts import Declaration, Facts, changed, declaration, declarations, take_facts
from cxr.lineage.records import Record
from cxr.lineage.run_log import Registration, RunLog, Slide
from cxr.params import Params, load
from cxr.paths import MODELS, PARAMS_FILE, PROCESSED, RAW
from cxr.pipeline import resources, scratch
from cxr.pipeline.resources import ResourceUsage
from cxr.pipeline.scratch import Scratch
from cxr.tracking.best_effort import BestEffort
from cxr.tracking.format import FAILED, KILLED
from cxr.tracking.processes import this_process

SHARED_TAGS = (
    records.STAGE_TAG, "cxr.data", "cxr.source", "cxr.device", "mlflow.source.name",
)  # fmt: skip
# Imports make hardly any garbage, and looking for it while they run takes a fifth of their time.
# `run` turns it on again.
gc.disable()

INVALID_IN_TAG_NAMES = re.compile(r"[^\w./ :-]", re.ASCII)  # in MLflow
# Brackets in strings are safe, since JSON strings contain no line breaks.
LIST_OF_SCALARS = re.compile(r"\[\n[^][{}]*\n *\]")


Prepare = Callable[[Params], str]
ExternalFiles = Callable[[Params, Path], tuple[Path, ...]]


@dataclass
class Stage:
    """A running stage: its parameters, inputs, outputs, and the log of its run."""

    name: str
    folder: Path  # the working copy in which it runs
    project: Path  # the project's root, which differs if an experiment runs in a clone
    params: Params
    origin: Origin
    declared: Declaration
    facts: Facts
    log: RunLog
    model_logs: list[RunLog]  # of models that get runs of their own
    device: str  # as torch names it
    scratch: Scratch
    tracker: BestEffort

    @property
    def work(self) -> Path:
        """A folder that outlives the stage, for files from which a later try can resume."""
        return self.scratch.work

    def say(self, line: str) -> None:
        """Print a line of progress."""
        progress.say(f"{self.name}: {line}")

    def input(self, path: str) -> Path:
        """Path of a declared dependency, or of a file inside one."""
        if not facts.inside(path, self.declared.dependencies):
            raise RuntimeError(f"{self.name} reads {path}, which dvc.yaml does not declare")
        return self.folder / path

    def output(self, path: str) -> Path:
        """Path to write a declared output to, or a file inside one."""
        if not facts.inside(path, self.declared.outputs):
            raise RuntimeError(f"{self.name} writes {path}, which dvc.yaml does not declare")
        target = self.scratch.outputs / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def picture(self, path: str) -> Path:
        """Path to write an output to that is also an MLflow artifact."""
        self.log.artifacts.append(path)
        return self.output(path)

    def slide(self, path: str, key: str, step: int) -> Path:
        """Path to write an output to that is one step of an image slider in MLflow."""
        self.log.slides.append(Slide(path, key, step))
        return self.output(path)

    def log_model(self, model: str, params: dict[str, Any], metrics: dict[str, float]) -> RunLog:
        """Log a model to a run of its own, which all executions with equal results share."""
        inputs = {
            path: md5
            for path, md5 in self.facts.inputs.items()
            if path in (PROCESSED, f"{MODELS}/{model}")
        }
        tags = {key: self.log.tags[key] for key in SHARED_TAGS if key in self.log.tags}
        log = RunLog(
            name=f"{self.name}-{model}",
            model=model,
            params=params | self.log.params,  # the seed and threads of this stage
            tags={
                **tags,
                records.MODEL_TAG: model,
                **{records.READ_TAG + path: md5 for path, md5 in inputs.items()},
            },
            datasets=[each for each in self.log.datasets if each["source"] in inputs],
            metrics=metrics,
            shared=True,
        )
        self.model_logs.append(log)
        return log

    def register(self, log: RunLog, model: str, decision_file: str, score: float) -> None:
        """Register a model with its operating point in MLflow, once both are published."""
        files = [f"{model}/{name}" for name in sorted(files_below(self.input(model)))]
        log.registration = Registration(
            [*files, decision_file], score, self.facts.inputs[PROCESSED]
        )

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a JSON output; ValueError if it contains NaN, which JSON does not have."""
        self.output(path).write_text(_json_text(content))

    def log_epoch(self, values: dict[str, float]) -> None:
        """Log a point of each curve to MLflow immediately; `values` includes `epoch`."""
        self.log.history.append(values)
        self.tracker.log_epoch(self.log, values)


def run(
    name: str,
    work: Callable[[Stage], None],
    *,
    prepare: Prepare = lambda params: "none",
    external_files: ExternalFiles = lambda params, project: (),
) -> None:
    """Run one stage and exit: status 0 if it is done, 2 with one line if the input is invalid.

    Parameters
    ----------
    name : the stage in dvc.yaml.
    work : does the work and writes every declared output to `Stage.output`.
    prepare : sets seeds and threads before any tensor work, and returns the device.
    external_files : returns the user's own files that the parameters name.
    """
    gc.enable()
    gc.freeze()  # the imported modules: walking through them takes a second when Python exits
    try:
        with signals.handled():
            _run_stage(name, work, prepare, external_files)
    except CxrError as error:
        _refuse(name, str(error))
    except OSError as error:
        if not is_refused_by_disk(error):
            raise
        subject = error.filename or "while writing"
        _refuse(
            name,
            f"{subject}: {error.strerror or error}; nothing was published; "
            "fix the problem and run again",
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        device = (
            "the GPU (CUDA_VISIBLE_DEVICES= disables it)"
            if "CUDA" in str(error)
            else "this machine"
        )
        _refuse(
            name,
            f"out of memory on {device}; nothing was published; close other programs, or lower "
            "train.protocol.batch_size or download.size",
        )
    except KeyboardInterrupt:
        print(
            f"{name}: stopped; nothing was published; run `dvc repro` to resume",
            file=sys.stderr,
        )
        sys.exit(130)


def trained_models(folder: Path) -> tuple[str, ...]:
    """The models that dvc.yaml trains, in the order of dvc.yaml."""
    stages = declarations(folder)
    return tuple(name.removeprefix("train-") for name in stages if name.startswith("train-"))


def _run_stage(
    name: str,
    work: Callable[[Stage], None],
    prepare: Prepare,
    external_files: ExternalFiles,
) -> None:
    folder = Path.cwd()
    root = os.environ.get(scratch.PROJECT_VARIABLE) or os.environ.get("DVC_ROOT") or folder
    project = Path(root).resolve()
    _check_own_code(folder)
    started = datetime.now(UTC)
    declared = declaration(name, folder)
    params = load(folder / PARAMS_FILE)
    device = prepare(params)
    files = {_recorded_name(path, project): path for path in external_files(params, project)}

    def current_facts() -> Facts:
        return take_facts(declared, folder, files, device)

    before = current_facts()
    scratch_root = Path(os.environ.get(scratch.FOLDER_VARIABLE, project))
    origin = _origin(declared, folder, params)
    with (
        scratch.claimed(
            scratch_root,
            folder,
            name,
            before.fingerprint,
            lambda line: progress.say(f"{name}: {line}"),
        ) as own_scratch,
        progress.logged_to(own_scratch.log),
    ):
        tracker = BestEffort(project, origin.name, lambda line: progress.note(f"{name}: {line}"))
        record = own_scratch.finished()
        if record is not None:
            progress.say(
                f"{name}: already finished but not yet in dvc.lock; republishing the result"
            )
            own_runs = [log for log in record.runs if not log.shared]
            with _closing_failed_runs(own_runs, tracker, own_scratch):
                own_scratch.publish(declared.outputs, folder)
        else:
            stage = Stage(
                name=name,
                folder=folder,
                project=project,
                params=params,
                origin=origin,
                declared=declared,
                facts=before,
                log=_new_log(name, before, origin, own_scratch.attempt),
                model_logs=[],
                device=device.split()[0],
                scratch=own_scratch,
                tracker=tracker,
            )
            with _closing_failed_runs([stage.log], tracker, own_scratch):
                record = _make_outputs(stage, work, current_facts, started)
                own_scratch.publish(declared.outputs, folder)
        _log_to_mlflow(record, own_scratch, tracker, folder)
        own_scratch.drop_work()


def _make_outputs(
    stage: Stage,
    work: Callable[[Stage], None],
    current_facts: Callable[[], Facts],
    started: datetime,
) -> Record:
    """Write the outputs and their record to the scratch folder."""
    stage.tracker.start(stage.log)
    stage.scratch.clear_outputs()
    usage = ResourceUsage()
    work(stage)
    stage.log.metrics |= usage.read()
    if changes := changed(stage.facts, current_facts()):
        stage.scratch.drop_work()  # it may come from the old or the new state
        raise CxrError(
            f"{', '.join(changes)} changed while the stage ran; nothing was published; "
            "run `dvc repro` again"
        )
    return _write_record(stage, started)


@contextmanager
def _closing_failed_runs(
    runs: Iterable[RunLog], tracker: BestEffort, own_scratch: Scratch
) -> Iterator[None]:
    """If the block fails, close the runs with the reason."""
    try:
        yield
    except BaseException as error:
        progress.log.info("stopped", exc_info=True)
        is_interrupt = isinstance(error, KeyboardInterrupt)
        reason = "stopped by a signal" if is_interrupt else one_line(error)
        for log in runs:
            tracker.abandon(log, KILLED if is_interrupt else FAILED, reason, own_scratch.log)
        if not is_interrupt:
            own_scratch.drop_if_empty()
        raise


def _log_to_mlflow(record: Record, own_scratch: Scratch, tracker: BestEffort, folder: Path) -> None:
    md5 = md5_of_file(own_scratch.outputs / records.path_of(record.stage))
    ended = int(datetime.fromisoformat(record.finished).timestamp() * 1000)
    try:
        for log in record.runs:
            tracker.finish(log, records.tags(record, log, md5), folder.joinpath, ended)
    except KeyboardInterrupt:
        print(
            f"{record.stage}: stopped; the result is published; run `cxr sync` to log it to MLflow",
            file=sys.stderr,
        )
        sys.exit(130)


def _check_own_code(folder: Path) -> None:
    """Refuse to run another copy's installed code, since the facts describe this copy's code."""
    running = Path(cxr.__file__).resolve().parents[1]
    if running != (folder / "src").resolve():
        raise CxrError(
            f"the code in {running} would run instead of {folder / 'src'}; set PYTHONPATH=src, as "
            "dvc.yaml does"
        )


def _recorded_name(path: Path, project: Path) -> str:
    """Path of an external file in the record: relative if inside the project, which may move."""
    inside = path.resolve().is_relative_to(project)
    return path.resolve().relative_to(project).as_posix() if inside else str(path.resolve())


def _new_log(name: str, facts: Facts, origin: Origin, attempt: str) -> RunLog:
    model = name.partition("-")[2]  # of train-cnn and maps-cnn
    tags = {
        records.STAGE_TAG: name,
        records.MODEL_TAG: model,
        "cxr.data": origin.name,
        "cxr.source": origin.source,
        "cxr.fingerprint": facts.fingerprint,
        "cxr.device": facts.environment["device"],
        records.ATTEMPT_TAG: attempt,
        records.PROCESS_TAG: this_process(),
        records.EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME", ""),
        "mlflow.source.name": facts.command,
        "mlflow.source.git.commit": facts.code["commit"] or "",
        **{records.READ_TAG + path: digest.md5 for path, digest in facts.dependencies.items()},
        **{
            records.READ_TAG + INVALID_IN_TAG_NAMES.sub("_", Path(path).name): md5
            for path, md5 in facts.foreign.items()
        },
    }
    datasets = [
        {
            "name": f"{origin.name}/{path}",
            "digest": digest.md5,
            "source": path,
            "context": "training" if name.startswith("train-") else name,
        }
        for path, digest in facts.dependencies.items()
        if path.startswith("data/")
    ]
    return RunLog(
        name=name,
        model=model or None,
        # Until MLflow assigns one, and permanently if MLflow can't be reached.
        run_id=uuid.uuid5(uuid.UUID(attempt), name).hex,
        params=dict(facts.params),
        tags={key: value for key, value in tags.items() if value},
        datasets=datasets,
    )


def _json_text(content: dict[str, Any]) -> str:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return LIST_OF_SCALARS.sub(_in_one_line, text)


def _in_one_line(match: re.Match[str]) -> str:
    return re.sub(r"\n *", " ", match[0]).replace("[ ", "[", 1)[:-2] + "]"


def _origin(declared: Declaration, folder: Path, params: Params) -> Origin:
    """Origin of the data: read from the data if it exists, else from the parameters."""
    if PROCESSED in declared.dependencies:
        return splits.open_dataset(folder / PROCESSED).origin
    if RAW in declared.dependencies:
        return splits.read_origin(folder / RAW)
    return splits.origin(params.download)


def _write_record(stage: Stage, started: datetime) -> Record:
    """Write the record, an output on which no stage depends.

    It is written last and atomically: if it exists, all outputs are complete.
    """
    facts, path = stage.facts, records.path_of(stage.name)
    outputs = {
        output: hashing.digest(stage.scratch.outputs / output)
        for output in stage.declared.outputs
        if output != path
    }
    stage.log.tags |= {records.MADE_TAG + name: digest.md5 for name, digest in outputs.items()}
    for log in stage.model_logs:
        files = log.registration.files if log.registration else []
        made = {name: outputs[name].md5 for name in files if name in outputs}
        log.tags |= {records.MADE_TAG + name: md5 for name, md5 in made.items()}
        log.run_id = log.id_by_content()
    record = Record(
        schema=records.SCHEMA,
        stage=stage.name,
        fingerprint=facts.fingerprint,
        data=stage.origin,
        facts=facts,
        outputs=outputs,
        runs=[stage.log, *stage.model_logs],
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        job=os.environ.get(records.JOB_VARIABLE) or os.environ.get("SLURM_JOB_ID"),
        gpu=resources.gpu_uuid() if stage.device == "cuda" else None,
        dvc_experiment=os.environ.get("DVC_EXP_NAME"),
        dvc_baseline=os.environ.get("DVC_EXP_BASELINE_REV"),
    )
    write_atomically(stage.output(path), _json_text(record.as_json()).encode())
    return record


def _refuse(name: str, reason: str) -> None:
    print(f"{name}: {shown(reason)}", file=sys.stderr)
    sys.exit(2)
