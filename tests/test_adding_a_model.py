"""Following docs/adding-a-model.md step by step adds a working model."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pipeline import ROOT, Pipeline

from cxr.evaluation.description import BASELINES

PAGE = (ROOT / "docs" / "adding-a-model.md").read_text()
VIT_BLOCK = "\n  vit:\n    init:"  # in params.yaml; the new model's block is inserted before it
# In dvc.yaml; the new stages and the new output are inserted before them.
EVALUATE_STAGE, GRADCAM_STAGE = "\n  evaluate:\n    cmd:", "\n  gradcam:\n    cmd:"
METRICS_OUTPUT = "\n      - reports/metrics.json"
EXISTING_MODELS = ("cnn", "squeezenet", "vit")


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(text for text in blocks if containing in text)


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, f"\n{text.rstrip()}{before}"))


@pytest.fixture(scope="module")
def with_resnet(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run with the docs page's model added."""
    pipeline = Pipeline(once).copy(tmp_path_factory.mktemp("fourth") / "p")
    assert pipeline.run("cxr", "sync").returncode == 0
    folder = pipeline.folder
    (folder / "src/cxr/models/resnet.py").write_text(block("python", "class ResNet"))
    insert(folder / "params.yaml", VIT_BLOCK, block("yaml", "  resnet:"))
    params = (folder / "params.yaml").read_text()
    method = re.search(r"in `gradcam\.method`: `(.*?)`", PAGE)
    assert method is not None
    (folder / "params.yaml").write_text(params.replace("method: {", f"method: {{{method[1]}, "))
    insert(folder / "dvc.yaml", EVALUATE_STAGE, block("yaml", "train-resnet:"))
    insert(folder / "dvc.yaml", GRADCAM_STAGE, block("yaml", "maps-resnet:"))
    insert(folder / "dvc.yaml", METRICS_OUTPUT, block("yaml", "decisions/resnet.json"))
    pipeline.repro()
    return pipeline


@pytest.mark.slow
def test_the_added_model_is_in_every_result(with_resnet: Pipeline) -> None:
    reports = with_resnet.folder / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())["models"]
    assert list(metrics) == [*EXISTING_MODELS, "resnet", *BASELINES]
    assert 0 < metrics["resnet"]["test"]["macro_auroc"] < 1
    maps = json.loads((reports / "gradcam.json").read_text())["models"]
    assert maps["resnet"]["grid"] == [7, 7]
    assert (reports / "gradcam/resnet/0.png").stat().st_size > 10_000
    history = (reports / "resnet/history.csv").read_text().splitlines()
    assert len(history) == 1 + 2  # TINY trains for two epochs


@pytest.mark.slow
def test_the_added_model_is_audited_and_reported(with_resnet: Pipeline) -> None:
    audited = with_resnet.run("cxr", "audit", "models/resnet")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    written = with_resnet.run("cxr", "report")
    assert written.returncode == 0, written.stderr
    assert "resnet" in (with_resnet.folder / "reports/index.html").read_text()


@pytest.mark.slow
def test_the_tests_for_all_models_find_the_added_model_and_pass(with_resnet: Pipeline) -> None:
    tests = with_resnet.folder / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", with_resnet.folder)
    done = with_resnet.run(
        "python", "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-m", "not slow",
        "-k", "resnet", "tests/models", "tests/test_dependencies.py", "tests/test_layering.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    for test_id in ("[resnet]", "[train-resnet]", "[maps-resnet]", "[models/resnet.py]"):
        assert f"{test_id}\n" in done.stdout
