"""docs/adding-a-model.md, followed to the letter in a clone."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pipeline import ROOT, Pipeline

PAGE = (ROOT / "docs" / "adding-a-model.md").read_text()
TRAIN = "\n  vit:\n    lr:"  # in params.yaml, in front of which a model's block can stand
FIRST = ("cnn", "squeezenet", "vit")
STAGE = "\n  evaluate:\n    cmd:"  # in dvc.yaml


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(each for each in blocks if containing in each)


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, f"\n{text.rstrip()}{before}"))


@pytest.fixture(scope="module")
def followed(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipeline = Pipeline(once).copy(tmp_path_factory.mktemp("fourth") / "p")
    assert pipeline.run("cxr", "sync").returncode == 0
    folder = pipeline.folder
    (folder / "src/cxr/models/resnet.py").write_text(block("python", "class ResNet"))
    insert(folder / "params.yaml", TRAIN, block("yaml", "  resnet:"))
    params = (folder / "params.yaml").read_text()
    asked = re.search(r"in `gradcam\.method`: `(.*?)`", PAGE)
    assert asked is not None
    (folder / "params.yaml").write_text(params.replace("method: {", f"method: {{{asked[1]}, "))
    insert(folder / "dvc.yaml", STAGE, block("yaml", "train-resnet:"))
    pipeline.repro()
    return pipeline


@pytest.mark.slow
def test_the_page_adds_a_model_that_is_in_every_result(followed: Pipeline) -> None:
    reports = followed.folder / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())["models"]
    assert list(metrics) == [*FIRST, "resnet", "all-negative", "prevalence"]
    assert 0 < metrics["resnet"]["test"]["macro_auroc"] < 1
    maps = json.loads((reports / "gradcam.json").read_text())["models"]
    assert maps["resnet"]["grid"] == [7, 7]
    assert (reports / "gradcam/resnet/0.png").stat().st_size > 10_000
    history = (reports / "resnet/history.csv").read_text().splitlines()
    assert len(history) == 1 + 2  # TINY trains for two epochs


@pytest.mark.slow
def test_the_new_model_is_audited_and_reported_like_the_others(followed: Pipeline) -> None:
    audited = followed.run("cxr", "audit", "models/resnet")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    written = followed.run("cxr", "report")
    assert written.returncode == 0, written.stderr
    assert "resnet" in (followed.folder / "reports/index.html").read_text()


@pytest.mark.slow
def test_the_new_model_passes_what_is_asked_of_all(followed: Pipeline) -> None:
    """As the page says: the tests of models and of dvc.yaml find it by themselves."""
    tests = followed.folder / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", followed.folder)
    done = followed.run(
        "python", "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-m", "not slow",
        "-k", "resnet", "tests/models", "tests/test_dependencies.py", "tests/test_layering.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    for found in ("[resnet]", "[train-resnet]", "[models/resnet.py]"):
        assert f"{found}\n" in done.stdout
