"""Every alteration is found and named, without false alarms."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pipeline import Pipeline, create

from cxr.audit.finding import Verdict
from cxr.hashing import digest, md5_of_file

pytestmark = pytest.mark.slow

STAGES = (
    "download", "preprocess", "features", "train-cnn", "train-squeezenet", "train-vit",
    "evaluate", "maps-cnn", "maps-squeezenet", "maps-vit", "gradcam",
)  # fmt: skip
PROJECT = "the project"


@pytest.fixture(scope="module")
def shared(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The pipeline in the folder that all cases use in turn."""
    pipeline = Pipeline(kept).copy(tmp_path_factory.mktemp("röntgen bilder") / "p")
    pipeline.run("cxr", "sync")
    return pipeline


@pytest.fixture(scope="module")
def original(shared: Pipeline) -> Pipeline:
    """A copy that each case starts from."""
    return shared.copy(shared.folder.with_name("original"))


@pytest.fixture
def made(shared: Pipeline, original: Pipeline) -> Pipeline:
    """The pipeline, unaltered."""
    shutil.rmtree(shared.folder)
    return original.copy(shared.folder)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """One line per case, printed at the end."""
    lines: list[str] = []
    yield lines
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("", *lines, sep="\n")


Alter = Callable[[Pipeline], None]
Problems = set[tuple[str, str]]  # stage and `where` of its findings


@dataclass(frozen=True)
class Case:
    name: str
    alter: Alter
    verdict: Verdict
    problems: Problems = field(default_factory=set)
    says: str = ""  # a pattern that one finding's sentence matches


def flip(path: str, at: int = -1) -> Alter:
    """Change one byte, but not the size or the name."""

    def alter(made: Pipeline) -> None:
        file = made.folder / path
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(content)

    return alter


def edit(path: str, old: str, new: str) -> Alter:
    """Replace the first match, which must exist."""

    def alter(made: Pipeline) -> None:
        file = made.folder / path
        text = file.read_text()
        assert re.search(old, text), (path, old)
        file.chmod(0o644)
        file.write_text(re.sub(old, new, text, count=1, flags=re.DOTALL))

    return alter


def windows_line_ends(path: str) -> Alter:
    def alter(made: Pipeline) -> None:
        file = made.folder / path
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

    return alter


def edit_json(path: str, change: Callable[[Any], None]) -> Alter:
    def alter(made: Pipeline) -> None:
        content = made.json(path)
        change(content)
        (made.folder / path).write_text(json.dumps(content, indent=2) + "\n")

    return alter


def lock_value(stage: str, key: str, new: str) -> Alter:
    """Change the first value after a key of one stage in dvc.lock."""
    pattern = rf"(\n  {stage}:\n(?:    .*\n)*?.*?{key})[^\n]+"
    return edit("dvc.lock", pattern, rf"\g<1>{new}")


def param(**changes: Any) -> Alter:
    return lambda made: made.change(**changes)


def sql(statement: str) -> Alter:
    def alter(made: Pipeline) -> None:
        with sqlite3.connect(made.folder / "mlflow.db") as base:
            assert base.execute(statement).rowcount > 0
        base.close()

    return alter


def of_run(name: str) -> str:
    return f"run_uuid IN (SELECT run_uuid FROM runs WHERE name = '{name}')"


TRAINED = of_run("train-cnn")


def experiments_of_vit(names: str) -> Alter:
    """Replace the experiments that the shared run of the ViT belongs to."""
    statement = f"UPDATE tags SET value = '{names}' WHERE key = 'cxr.experiment' AND "
    return sql(statement + of_run("evaluate-vit"))


def delete(path: str) -> Alter:
    def alter(made: Pipeline) -> None:
        target = made.folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return alter


def add(path: str) -> Alter:
    def alter(made: Pipeline) -> None:
        (made.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / path).write_text("new")

    return alter


def commit_code(path: str) -> Alter:
    def alter(made: Pipeline) -> None:
        edit(path, "$", "\n# another\n")(made)
        made.git("commit", "-qam", "another")

    return alter


def artifact(stage: str, place: str) -> Callable[[Pipeline], Path]:
    """An artifact of the stage's own run."""
    return lambda made: made.folder / f"mlruns/phantom-28/{made.run_id(stage)}/artifacts" / place


def flip_artifact(of: Callable[[Pipeline], Path]) -> Alter:
    return lambda made: flip(str(of(made)))(made)


PICTURE = artifact("maps-cnn", "gradcam/cnn/0.png")
FIGURE = artifact("evaluate", "evaluation/auroc.png")
SIDE_BY_SIDE = artifact("gradcam", "gradcam/side-by-side/0.png")


def delete_run_for_good(made: Pipeline) -> None:
    for name in ("metrics", "latest_metrics", "params", "tags", "runs"):
        sql(f"DELETE FROM {name} WHERE {TRAINED}")(made)


def damage_cache(made: Pipeline) -> None:
    md5 = md5_of_file(made.folder / "reports/cnn/curves.png")
    flip_cached = made.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    flip_cached.chmod(0o644)
    flip_cached.write_bytes(flip_cached.read_bytes()[:-1] + b"\0")


def damage_cached_list(made: Pipeline) -> None:
    md5 = digest(made.folder / "reports/gradcam/cnn").md5
    listing = made.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    listing.chmod(0o644)
    listing.write_text(
        re.sub(r'"md5": "\w{32}"', f'"md5": "{ELSEWHERE}"', listing.read_text(), count=1)
    )


def cached_record_of_experiment(made: Pipeline) -> Path:
    text = experiment_lock(made)
    found = re.search(r"records/train-cnn.json\n\s+hash: md5\n\s+md5: (\w+)", text)
    assert found
    return made.folder / ".dvc/cache/files/md5" / found[1][:2] / found[1][2:]


def damage_experiment(made: Pipeline) -> None:
    record = cached_record_of_experiment(made)
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 9'))


def lose_experiment(made: Pipeline) -> None:
    cached_record_of_experiment(made).unlink()


def other_record(made: Pipeline) -> None:
    """Put the record of the experiment's training, which is in the cache, in its place."""
    target = made.folder / "records/train-cnn.json"
    target.unlink()
    shutil.copyfile(cached_record_of_experiment(made), target)


def experiment_lock(made: Pipeline) -> str:
    (ref,) = (
        line for line in made.git("for-each-ref", "--format=%(refname)").split()
        if line.endswith("/fast")
    )  # fmt: skip
    return made.git("show", f"{ref}:dvc.lock")


def edit_record_everywhere(made: Pipeline) -> None:
    """Edit the record, dvc.lock and the cache: only MLflow and the fingerprint disagree."""
    edit_json("records/train-cnn.json", lambda r: r["facts"]["params"].update(seed=7))(made)
    made.dvc("commit", "--force", "train-cnn")


def retrain_alone(made: Pipeline) -> None:
    made.change(train__vit__lr=0.01)
    made.dvc("repro", "--single-item", "train-vit")


def evaluate_alone(made: Pipeline) -> None:
    """Run everything but the heat maps, as an experiment of a sweep does."""
    made.change(train__vit__lr=0.01)
    made.dvc("repro", "evaluate")


def without_maps(made: Pipeline) -> None:
    """What a working copy has after the first run of everything but the heat maps."""
    for stage in MAPS:
        edit("dvc.lock", rf"\n  {stage}:\n(    [^\n]*\n)+", "\n")(made)
        delete(f"records/{stage}.json")(made)
    delete("attributions")(made)
    delete("reports/gradcam")(made)
    delete("reports/gradcam.json")(made)


def both(*alters: Alter) -> Alter:
    def alter(made: Pipeline) -> None:
        for each in alters:
            each(made)

    return alter


def stages(where: str, *names: str) -> Problems:
    return {(name, where) for name in names}


FAILS, NOTE, HOLDS = Verdict.FAILS, Verdict.NOTE, Verdict.HOLDS
THREADED = [stage for stage in STAGES if stage != "download"]
SEEDED = [stage for stage in THREADED if stage != "preprocess"]
MAPS_OF_MODELS = ("maps-cnn", "maps-squeezenet", "maps-vit")
MAPS = (*MAPS_OF_MODELS, "gradcam")
VIT_CODE = ("train-vit", "evaluate", "maps-vit")
ELSEWHERE = "a" * 32
MD5 = r"\n      hash: md5\n      md5: "

CASES = [
    Case("nothing", lambda made: None, HOLDS),
    # files
    Case("a byte of the raw file", flip("data/raw/chest.npz", 5000), FAILS,
         stages("files", "download"), r"data/raw/chest.npz was altered"),
    Case("the raw file's origin", edit("data/raw/origin.json", "phantom-28", "chestmnist"), FAILS,
         stages("files", "download"), r"origin.json was altered"),
    Case("a byte of a processed array", flip("data/processed/val_images.npy"), FAILS,
         stages("files", "preprocess"), r"val_images.npy was altered"),
    Case("the training mean", edit_json("data/statistics.json", lambda j: j.update(mean=0.5)),
         FAILS, stages("files", "preprocess"), r"mean is 0.5, was 0\."),
    Case("a byte of a feature", flip("data/features/test.npy"), FAILS,
         stages("files", "features"), "test.npy was altered"),
    Case("a byte of a model", flip("models/vit/weights.safetensors"), FAILS,
         stages("files", "train-vit"), "weights.safetensors was altered"),
    Case("a file beside a model's", add("models/vit/extra.bin"), FAILS,
         stages("files", "train-vit"), "extra.bin was added"),
    Case("a folder that no stage made, among the models", add("models/resnet/weights.bin"), FAILS,
         stages("inputs", "evaluate"), "models/resnet/weights.bin: not made by any stage"),
    Case("a file that no stage made, among the attributions", add("attributions/resnet.npz"), FAILS,
         stages("inputs", "gradcam"), "attributions/resnet.npz: not made by any stage"),
    Case("a byte of predictions", flip("predictions/cnn.npz", 300), FAILS,
         stages("files", "evaluate"), "predictions/cnn.npz was altered"),
    Case("a threshold", edit_json("decisions/cnn.json", lambda j: j["thresholds"].update(mass=0.9)),
         FAILS, stages("files", "evaluate"),
         r"decisions/cnn.json is not what evaluate wrote: thresholds.mass is 0.9, was \d"),
    Case("a byte of a figure", flip("reports/cnn/curves.png"), FAILS,
         stages("files", "train-cnn"), "reports/cnn/curves.png is not what train-cnn wrote"),
    Case("a byte of a Grad-CAM picture", flip("reports/gradcam/vit/3.png"), FAILS,
         stages("files", "maps-vit"), "reports/gradcam/vit/3.png was altered"),
    Case("a byte of a picture of all models", flip("reports/gradcam/side-by-side/3.png"), FAILS,
         stages("files", "gradcam"), "reports/gradcam/side-by-side/3.png was altered"),
    Case("a byte of a heat map", flip("attributions/cnn.npz", 5000), FAILS,
         stages("files", "maps-cnn"), "attributions/cnn.npz is not what maps-cnn wrote"),
    Case("a value of a heat map's report",
         edit_json("attributions/vit.json", lambda j: j.update(empty=99)), FAILS,
         stages("files", "maps-vit"), r"attributions/vit.json .*: empty is 99, was \d"),
    Case("a value of all models' report",
         edit_json("reports/gradcam.json", lambda j: j["models"]["cnn"].update(empty=99)), FAILS,
         stages("files", "gradcam"), r"models.cnn.empty is 99, was \d"),
    Case("a value in metrics.json",
         edit_json("reports/metrics.json",
                   lambda j: j["models"]["cnn"]["test"].update(macro_auroc=0.99)), FAILS,
         stages("files", "evaluate"), r"models.cnn.test.macro_auroc is 0.99, was 0\."),
    Case("brackets without end in metrics.json",
         lambda made: (made.folder / "reports/metrics.json").write_text("[" * 200_000), FAILS,
         stages("files", "evaluate"), r"reports/metrics.json.* instead of"),
    Case("a loss in the history", edit("reports/cnn/history.csv", r"0\.", "1."), FAILS,
         stages("files", "train-cnn"), "history.csv is not what train-cnn wrote"),
    Case("an output deleted", delete("predictions"), FAILS,
         stages("files", "evaluate"), "predictions is missing"),
    # dvc.lock
    Case("an output's md5 in dvc.lock",
         lock_value("train-vit", f"- path: models/vit{MD5}", ELSEWHERE + ".dir"),
         FAILS, stages("dvc.lock", "train-vit"), f"models/vit is md5 {ELSEWHERE}.dir"),
    Case("a dependency's md5 in dvc.lock",
         lock_value("evaluate", f"- path: models{MD5}", ELSEWHERE + ".dir"),
         FAILS, stages("dvc.lock", "evaluate"), f"models is md5 {ELSEWHERE}.dir"),
    Case("the record's md5 in dvc.lock",
         lock_value("train-vit", f"records/train-vit.json{MD5}", ELSEWHERE),
         FAILS, stages("dvc.lock", "train-vit"), f"records/train-vit.json is md5 {ELSEWHERE}"),
    Case("a size in dvc.lock",
         lock_value("train-cnn", rf"curves.png{MD5}\w+\n      size: ", "1"),
         FAILS, stages("dvc.lock", "train-cnn"), r"curves.png is md5 \w+ \(1 byte\)"),
    Case("a parameter in dvc.lock", lock_value("evaluate", "threshold_rule: ", "f1"), FAILS,
         stages("dvc.lock", "evaluate"), "threshold_rule is 'f1' but 'youden' in the record"),
    Case("a command in dvc.lock", lock_value("download", "cmd: ", "python other.py"), FAILS,
         stages("dvc.lock", "download"), "the command is `python other.py`"),
    Case("a stage cut from dvc.lock", edit("dvc.lock", r"\n  gradcam:\n(    .*\n)+", "\n"), FAILS,
         stages("dvc.lock", "gradcam"), "dvc.lock has no stage gradcam"),
    # parameters
    Case("a number replaced by a Boolean", param(seed=False), FAILS,
         stages("parameters", *SEEDED),
         "seed is False in params.yaml; this result was made with 0"),
    Case("a parameter taken out", edit("params.yaml", "    patch: 4[^\n]*\n", ""), FAILS,
         stages("parameters", "train-vit"), "train.vit.patch is None"),
    Case("a file beside the code of the models", add("src/cxr/models/notes.txt"), FAILS,
         stages("code", "evaluate"), "files in src/cxr/models other than its code"),
    Case("a file beside the code of the heat maps", add("src/cxr/cam/notes.txt"), FAILS,
         stages("code", *MAPS_OF_MODELS), "files in src/cxr/cam other than its code"),
    Case("a model's parameter", param(train__vit__lr=0.5), FAILS, stages("parameters", "train-vit"),
         "train.vit.lr is 0.5 in params.yaml; this result was made with 0"),
    Case("the method of one model's heat maps", param(gradcam__method__vit="rollout"), FAILS,
         stages("parameters", "maps-vit", "gradcam"),
         "gradcam.method.vit is 'rollout' in params.yaml; this result was made with 'gradcam'"),
    Case("a parameter of all heat maps", param(gradcam__max_findings=5), FAILS,
         stages("parameters", *MAPS), "gradcam.max_findings is 5 in params.yaml"),
    Case("another seed", param(seed=1), FAILS,
         stages("parameters", *SEEDED), "seed is 1 in params.yaml; this result was made with 0"),
    Case("another number of threads", param(threads=2), FAILS,
         stages("parameters", *THREADED), "threads is 2"),
    # code
    Case("a line of a model's code, not committed", edit("src/cxr/models/vit.py", "$", "\n# x\n"),
         FAILS, stages("code", *VIT_CODE), r"models/vit.py was edited \(not committed\)"),
    Case("a line of a model's code, committed", commit_code("src/cxr/models/vit.py"), FAILS,
         stages("code", *VIT_CODE), "models/vit.py was changed by a commit"),
    Case("a stage's own program", edit("stages/gradcam.py", "$", "\n# x\n"), FAILS,
         stages("code", "gradcam"), "stages/gradcam.py was edited"),
    Case("the program of several stages", edit("stages/maps.py", "$", "\n# x\n"), FAILS,
         stages("code", *MAPS_OF_MODELS), "stages/maps.py was edited"),
    Case("a result-affecting file deleted", delete("src/cxr/cam/trust.py"), FAILS,
         stages("code", *MAPS_OF_MODELS), "src/cxr/cam/trust.py was deleted"),
    Case("Windows line endings", windows_line_ends("src/cxr/models/vit.py"), FAILS,
         stages("code", *VIT_CODE), "Windows line endings in src/cxr/models/vit.py"),
    Case("reporting-only code", edit("src/cxr/plots/figure.py", "$", "\n# x\n"), HOLDS),
    Case("a stage that reads more", edit("dvc.yaml", "    params: .seed, threads, gradcam.",
         "    params: [seed, threads, gradcam, evaluate]"), FAILS,
         stages("parameters", "gradcam"), "evaluate.threshold_rule is 'youden' in params.yaml"),
    Case("a stage with another command", edit("dvc.yaml", "stages/gradcam.py\n", "x.py\n"),
         FAILS, stages("code", "gradcam"), "the command of gradcam changed in dvc.yaml"),
    # records
    Case("a record edited",
         edit_json("records/train-cnn.json", lambda r: r["facts"]["params"].update(seed=7)), FAILS,
         stages("record", "train-cnn"), "records/train-cnn.json was edited"),
    Case("a record of another run in its place", other_record, FAILS,
         stages("record", "train-cnn"), "is the record of another run"),
    Case("a record deleted", delete("records/train-cnn.json"), FAILS,
         stages("record", "train-cnn"), "records/train-cnn.json is missing"),
    Case("a record edited, and dvc.lock and the cache with it", edit_record_everywhere, FAILS,
         {("train-cnn", "record"), ("train-cnn", "dvc.lock"), ("train-cnn", "parameters"),
          ("train-cnn", "mlflow")}, "the fingerprint does not match the recorded facts"),
    Case("an upstream stage run alone, with another parameter", retrain_alone, FAILS,
         stages("inputs", "evaluate", "maps-vit"), "train-vit has since replaced it"),
    Case("everything but the heat maps run, with another parameter", evaluate_alone, NOTE,
         stages("inputs", "maps-vit"),
         r"heat maps are out of date: made from models/vit .*; train-vit has since replaced it"),
    Case("no heat maps made yet", without_maps, NOTE, stages("files", PROJECT),
         "these results have no heat maps yet"),
    # MLflow
    Case("a metric in MLflow's runs table",
         sql("UPDATE latest_metrics SET value = 0.99 WHERE key = 'test/macro_auroc' AND "
             + of_run("evaluate-cnn")), FAILS, stages("mlflow", "evaluate"),
         r"\(evaluate-cnn\): metric test/macro_auroc is 0.99"),
    Case("a point of a curve in MLflow",
         sql("UPDATE metrics SET value = 0 WHERE key = 'loss/val' AND step = 1 AND "
             + of_run("train-vit")), FAILS, stages("mlflow", "train-vit"),
         "metric loss/val is 0.0 at step 1"),
    Case("a parameter in MLflow",
         sql("UPDATE params SET value = '9' WHERE key = 'train.vit.lr' AND "
             + of_run("evaluate-vit")), FAILS, stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): parameter train.vit.lr is 9"),
    Case("a tag in MLflow",
         sql(f"UPDATE tags SET value = 'other' WHERE key = 'cxr.data' AND {TRAINED}"), FAILS,
         stages("mlflow", "train-cnn"), "tag cxr.data is other"),
    Case("a data set's digest in MLflow",
         sql("UPDATE datasets SET digest = 'x' WHERE name LIKE '%/data/raw'"), FAILS,
         stages("mlflow", "preprocess"), "data set phantom-28/data/raw is x"),
    Case("a picture in MLflow", flip_artifact(PICTURE), FAILS,
         stages("mlflow", "maps-cnn"), r"\(maps-cnn\): reports/gradcam/cnn/0.png in MLflow"),
    Case("a picture of all models in MLflow", flip_artifact(SIDE_BY_SIDE), FAILS,
         stages("mlflow", "gradcam"),
         r"\(gradcam\): reports/gradcam/side-by-side/0.png in MLflow"),
    Case("a figure of the evaluation in MLflow", flip_artifact(FIGURE), FAILS,
         stages("mlflow", "evaluate"), r"\(evaluate\): reports/evaluation/auroc.png in MLflow"),
    Case("a picture deleted from MLflow", lambda made: PICTURE(made).unlink(), NOTE,
         stages("mlflow", "maps-cnn"), r"\(maps-cnn\): MLflow lacks reports/gradcam/cnn/0.png"),
    Case("a run deleted", sql(f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE {TRAINED}"), NOTE,
         stages("mlflow", "train-cnn"), "was deleted in MLflow"),
    Case("a run deleted for good", delete_run_for_good, NOTE,
         stages("mlflow", "train-cnn"), "is not in MLflow"),
    Case("MLflow's database deleted", delete("mlflow.db"), NOTE,
         stages("mlflow", PROJECT), "MLflow's database is missing"),
    Case("a metric added in MLflow",
         sql("INSERT INTO latest_metrics SELECT 'test/luck', value, timestamp, step, is_nan, "
             "run_uuid FROM latest_metrics WHERE key = 'test/macro_auroc' AND "
             + of_run("evaluate-cnn")), FAILS, stages("mlflow", "evaluate"),
         "metric test/luck is .* in MLflow but missing in the record"),
    Case("a parameter added in MLflow",
         sql("INSERT INTO params SELECT 'train.cnn.luck', '7', run_uuid FROM runs "
             "WHERE name = 'train-cnn'"), FAILS, stages("mlflow", "train-cnn"), "luck is 7"),
    Case("a tag of this project added in MLflow",
         sql("INSERT INTO tags SELECT 'cxr.made.models/vit', 'x', run_uuid FROM runs "
             "WHERE name = 'train-cnn'"), FAILS, stages("mlflow", "train-cnn"), "models/vit is x"),
    Case("a person's tag, name and description in MLflow",
         both(sql("INSERT INTO tags SELECT 'checked', 'by me', run_uuid FROM runs"),
              sql("UPDATE runs SET name = 'the best'"),
              sql("UPDATE tags SET value = 'mine' WHERE key = 'mlflow.note.content'")), HOLDS),
    Case("a run moved into another experiment",
         both(sql("INSERT INTO experiments SELECT 9, 'chestmnist-28', 'file:///x', "
                  "lifecycle_stage, creation_time, last_update_time, workspace "
                  "FROM experiments LIMIT 1"),
              sql("UPDATE runs SET experiment_id = 9 WHERE name = 'evaluate-vit'")), NOTE,
         stages("mlflow", "evaluate"), "is in experiment chestmnist-28"),
    Case("the record that MLflow names",
         sql(f"UPDATE tags SET value = '{ELSEWHERE}' WHERE key = 'cxr.record' AND {TRAINED}"),
         FAILS, stages("mlflow", "train-cnn"), f"tag cxr.record is {ELSEWHERE}"),
    Case("an experiment's name on its own run",
         sql("UPDATE tags SET value = 'slow' WHERE key = 'cxr.experiment' AND "
             + of_run("train-cnn (fast)")), FAILS, stages("mlflow", "train-cnn"),
         "tag cxr.experiment is slow in MLflow but fast in the record"),
    Case("a tag of a shared run",
         sql("UPDATE tags SET value = 'other' WHERE key = 'cxr.data' AND "
             + of_run("evaluate-vit")), FAILS, stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): tag cxr.data is other"),
    Case("an experiment taken from a shared run", experiments_of_vit("workspace"), FAILS,
         stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): MLflow lacks experiment fast in tag cxr.experiment$"),
    Case("the workspace taken from a shared run", experiments_of_vit("fast"), FAILS,
         stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): MLflow lacks experiment workspace in tag cxr.experiment$"),
    Case("an experiment with a longer name in a shared run",
         experiments_of_vit("workspace, faster"), FAILS, stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): MLflow lacks experiment fast in tag cxr.experiment$"),
    Case("all experiments taken from a shared run",
         sql("DELETE FROM tags WHERE key = 'cxr.experiment' AND " + of_run("evaluate-vit")), FAILS,
         stages("mlflow", "evaluate"),
         r"\(evaluate-vit\): MLflow lacks experiment workspace in tag cxr.experiment$"),
    Case("a removed experiment in a shared run", experiments_of_vit("removed, fast, workspace"),
         HOLDS),
    Case("the record that a shared run names",
         sql(f"UPDATE tags SET value = '{ELSEWHERE}' WHERE key = 'cxr.record' AND "
             + of_run("evaluate-vit")), HOLDS),
    Case("the id by which a shared run is found",
         sql(f"UPDATE tags SET value = '{ELSEWHERE}' WHERE key = 'cxr.original_run_id' AND "
             + of_run("evaluate-vit")), NOTE, stages("mlflow", "evaluate"),
         r"\(evaluate-vit\) is not in MLflow"),
    Case("a shared run deleted",
         sql("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'evaluate-vit'"), NOTE,
         stages("mlflow", "evaluate"), r"\(evaluate-vit\) was deleted in MLflow"),
    # the cache
    Case("the list of a cached folder", damage_cached_list, FAILS,
         stages("cache", "maps-cnn"), "the cached copy of reports/gradcam/cnn is damaged"),
    Case("an experiment's record in the cache", damage_experiment, FAILS,
         stages("cache", PROJECT), "the cached record of train-cnn in experiment fast is damaged"),
    Case("an experiment's record missing from the cache", lose_experiment, NOTE,
         stages("cache", PROJECT), "lacks records of experiment fast: train-cnn"),
    Case("the cache emptied", delete(".dvc/cache/files"), NOTE,
         stages("cache", *STAGES, PROJECT), "DVC's cache lacks"),
    Case("a cached file damaged", damage_cache, FAILS,
         stages("cache", "train-cnn"), "the cached copy of reports/cnn/curves.png is damaged"),
]  # fmt: skip


def problems(answer: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Sentences of the findings that are not `holds`, by stage and `where`."""
    sentences: dict[tuple[str, str], list[str]] = {}
    for stage, findings in [
        (PROJECT, answer["findings"]),
        *((node["stage"], node["findings"]) for node in answer["stages"]),
    ]:
        for finding in findings:
            if finding["verdict"] != Verdict.HOLDS:
                sentences.setdefault((stage, finding["where"]), []).append(finding["says"])
    return sentences


def audit(made: Pipeline, *arguments: str) -> dict[str, Any]:
    """What `cxr audit --json` answers; its exit status must be that of its verdict."""
    done = made.run("cxr", "audit", "--json", *arguments)
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (answer["verdict"] == Verdict.FAILS)
    return answer


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_only_what_was_altered_is_reported(case: Case, made: Pipeline, table: list[str]) -> None:
    case.alter(made)
    answer = audit(made)
    found = problems(answer)
    where = ", ".join(sorted({f"{subject} of {stage}" for stage, subject in found})) or "-"
    table.append(f"{case.name:<58} {answer['verdict']:<6} {where}")
    assert answer["verdict"] == case.verdict, found
    assert set(found) == case.problems, found
    if case.says:
        sentences = [sentence for says in found.values() for sentence in says]
        assert any(re.search(case.says, sentence) for sentence in sentences), sentences


def test_another_version_of_a_package_is_a_note(made: Pipeline, table: list[str]) -> None:
    metadata = made.folder / "src/numpy-9.9.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9\n")
    answer = audit(made)
    table.append(f"{'another version of a package':<58} {answer['verdict']:<6} environment of all")
    assert answer["verdict"] == Verdict.NOTE
    found = problems(answer)
    assert set(found) == stages("environment", *STAGES)
    assert re.search(r"numpy [\d.]+ then, 9.9 now", found["download", "environment"][0])


def outdated(made: Pipeline) -> dict[str, list[tuple[str, str, str]]]:
    """Verdict, sentence and fix of each finding on inputs, by stage; there must be no others."""
    answer = audit(made)
    assert {where for _, where in problems(answer)} == {"inputs"}, problems(answer)
    return {
        node["stage"]: [
            (each["verdict"], each["says"], each["fix"])
            for each in node["findings"]
            if each["where"] == "inputs"
        ]
        for node in answer["stages"]
        if node["verdict"] != Verdict.HOLDS
    }


def test_outdated_heat_maps_are_a_note_until_dvc_repro_redraws_them(
    made: Pipeline, table: list[str]
) -> None:
    """Other results made from replaced inputs fail."""

    def md5(path: str, stage: str) -> str:
        return str(made.json(f"records/{stage}.json")["outputs"][path]["md5"])

    makers = {
        "models/vit": "train-vit",
        "decisions/vit.json": "evaluate",
        "attributions/vit.json": "maps-vit",
        "attributions/vit.npz": "maps-vit",
    }
    replaced = {
        path: f"made from {path} with md5 {md5(path, stage)}; {stage} has since replaced it"
        for path, stage in makers.items()
    }
    notes = {
        path: (NOTE, f"heat maps are out of date: {says}", "dvc repro")
        for path, says in replaced.items()
    }

    retrain_alone(made)
    says = f"{replaced['models/vit']} (md5 {md5('models/vit', 'train-vit')})"
    assert outdated(made) == {
        "evaluate": [(FAILS, says, "dvc repro")],
        "maps-vit": [notes["models/vit"]],
    }
    made.dvc("repro", "evaluate")
    assert outdated(made) == {"maps-vit": [notes["models/vit"], notes["decisions/vit.json"]]}
    made.dvc("repro", "maps-vit")
    assert outdated(made) == {
        "gradcam": [notes["attributions/vit.json"], notes["attributions/vit.npz"]]
    }
    line = "heat maps of a replaced model"
    table.append(f"{line:<58} {NOTE:<6} inputs of gradcam, inputs of maps-vit")

    assert made.repro() == ["gradcam"]
    assert audit(made)["verdict"] == HOLDS


def test_results_without_heat_maps_get_the_command_that_makes_them(made: Pipeline) -> None:
    without_maps(made)
    (finding,) = audit(made)["findings"]
    assert finding == {
        "verdict": NOTE,
        "where": "files",
        "says": "these results have no heat maps yet",
        "fix": "dvc repro",
    }


def test_the_printed_audit_lists_the_working_copy_and_counts_the_experiments(
    made: Pipeline,
) -> None:
    answer = audit(made)
    stage_of = {
        is_current: {
            node["record"]["runs"][0]["run_id"]: node["stage"]
            for node in answer["stages"]
            if node["current"] is is_current
        }
        for is_current in (True, False)
    }
    others = stage_of[False].keys() - stage_of[True].keys()
    changed = ["evaluate", "gradcam", "maps-cnn", "train-cnn"]  # by the experiment
    assert sorted(stage_of[False][run_id] for run_id in others) == changed
    done = made.run("cxr", "audit")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert answer["target"] == "working copy and experiments"
    assert first == "✓ working copy and experiments: all checks passed"
    assert [line.split()[:2] for line in lines] == [["✓", stage] for stage in STAGES]
    assert last == f"✓ {len(others)} other stage executions in experiments"


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """The first two stages, with data from a user's own file."""
    pipeline = create(tmp_path_factory.mktemp("file"))
    pipeline.repro("download")
    own = tmp_path_factory.mktemp("own") / "images.npz"
    shutil.copyfile(pipeline.folder / "data/raw/chest.npz", own)
    pipeline.change(download__source="file", download__path=str(own))
    pipeline.repro("preprocess")
    return pipeline, own


def test_a_changed_file_of_the_user_fails_and_a_missing_one_is_a_note(
    of_file: tuple[Pipeline, Path], table: list[str]
) -> None:
    pipeline, own = of_file
    answer = audit(pipeline, "data/processed")
    assert (answer["verdict"], problems(answer)) == (Verdict.HOLDS, {})

    content = own.read_bytes()
    own.write_bytes(content[:-1] + b"x")
    answer = audit(pipeline, "data/processed")
    table.append(f"{'the file behind download.path':<58} {answer['verdict']:<6} source of download")
    assert answer["verdict"] == Verdict.FAILS
    assert set(problems(answer)) == stages("source", "download")
    assert f"{own} has changed since" in problems(answer)["download", "source"][0]

    own.unlink()
    answer = audit(pipeline, "data/processed")
    table.append(f"{'the same file missing':<58} {answer['verdict']:<6} source of download")
    assert answer["verdict"] == Verdict.NOTE
    assert set(problems(answer)) == stages("source", "download")
    own.write_bytes(content)


def test_a_wrong_record_tag_in_mlflow_does_not_change_the_audited_record(made: Pipeline) -> None:
    """The tag of one run names the record of another."""
    ours, theirs = (
        made.run_id("train-vit"),
        md5_of_file(made.folder / "records/train-cnn.json"),
    )
    sql(f"UPDATE tags SET value = '{theirs}' WHERE key = 'cxr.record' AND run_uuid = '{ours}'")(
        made
    )
    answer = audit(made, ours)
    (asked,) = [node["stage"] for node in answer["stages"] if node["asked_for"]]
    assert asked == "train-vit"
    assert set(problems(answer)) == stages("mlflow", "train-vit")


def test_an_earlier_result_is_traced_to_inputs_that_already_existed(made: Pipeline) -> None:
    """Not to a later execution that made the same bytes."""
    before = made.run_id("preprocess")
    made.dvc("repro", "--force", "--single-item", "preprocess")
    assert made.run_id("preprocess") != before
    made.dvc("exp", "apply", "fast")
    run_id = made.run_id("train-cnn")
    made.git("checkout", "--", ".")
    made.dvc("checkout")
    answer = audit(made, run_id)
    (makers,) = [
        node["made_from"]["data/processed"] for node in answer["stages"] if node["asked_for"]
    ]
    assert makers == [before]
