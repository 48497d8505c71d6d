"""MLflow's pages in a real browser: the runs table, the curves, a Grad-CAM picture."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from mlflow import MlflowClient
from pipeline import Pipeline
from servers import free_port, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]


VIEWS = ["phantom-28, its models, best first:", "phantom-28, their learning curves:"]


@pytest.fixture(scope="module")
def pipeline(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = Pipeline(once).copy(tmp_path_factory.mktemp("browser") / "p")
    assert made.run("cxr", "sync").returncode == 0
    return made


@pytest.fixture(scope="module")
def printed(pipeline: Pipeline) -> Iterator[list[str]]:
    """What `cxr ui` prints once it runs on a free port."""
    port = free_port()
    env = os.environ | {"PYTHONPATH": str(pipeline.folder / "src")}
    env.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(
        [Path(sys.executable).parent / "cxr", "ui", "--port", str(port)],
        cwd=pipeline.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    lines = [server.stdout.readline().strip() for _ in range(1 + 2 * len(VIEWS))]
    assert lines[0].startswith(f"http://127.0.0.1:{port}/")
    wait_for(f"http://127.0.0.1:{port}/health")
    yield lines
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def address(printed: list[str]) -> str:
    return printed[0].split("#")[0]


@pytest.fixture(scope="module")
def views(printed: list[str]) -> dict[str, str]:
    """The printed addresses by what is said of them."""
    return dict(zip(printed[1::2], printed[2::2], strict=True))


@pytest.fixture(scope="module")
def run_ids(pipeline: Pipeline) -> dict[str, str]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("phantom-28")
    found = store.search_runs([experiment.experiment_id])
    ids = {run.info.run_name: run.info.run_id for run in found}
    return ids | {"experiment": experiment.experiment_id}


def test_the_runs_table_shows_every_stage(address, run_ids, tmp_path) -> None:
    names = [
        "download",
        "train-cnn",
        "train-squeezenet",
        "train-vit",
        "evaluate-cnn",
        "gradcam-vit",
    ]
    shown = chromium.dom(f"{address}#/experiments/{run_ids['experiment']}/runs", tmp_path, names)
    assert [name for name in names if name not in shown] == []


def test_the_models_table_opens_with_what_tells_them_apart(views, tmp_path) -> None:
    assert list(views) == VIEWS
    models = ["evaluate-cnn", "evaluate-squeezenet", "evaluate-vit", "evaluate-all-negative"]
    columns = ["cxr.model", "val/macro_auroc", "test/macro_auroc_low", "test/macro_auroc_high"]
    columns += ["test/macro_ap", "test/accuracy_gain", "parameters/trainable"]
    # Wide, since columns beyond the window are not drawn.
    wide = "--window-size=3200,1200"
    shown = chromium.dom(views[VIEWS[0]], tmp_path, models + columns, wide)
    assert [text for text in models + columns if text not in shown] == []
    assert "train-cnn" not in shown


def test_the_three_loss_curves_stand_over_each_other(views, tmp_path) -> None:
    curves = [f"train-{model} (loss/val)" for model in ("cnn", "squeezenet", "vit")]
    shown = chromium.dom(views[VIEWS[1]], tmp_path, curves)
    assert [curve for curve in curves if curve not in shown] == []
    assert shown.count('class="trace scatter') >= len(curves)


def test_a_grad_cam_picture_is_shown(address, run_ids, tmp_path) -> None:
    run = run_ids["gradcam-cnn"]
    place = f"#/experiments/{run_ids['experiment']}/runs/{run}/artifacts/gradcam/cnn/0.png"
    shown = chromium.dom(f"{address}{place}", tmp_path, ["<img", "gradcam/cnn/0.png"])
    assert "gradcam/cnn/0.png" in shown
    assert "<img" in shown


def test_maps_stand_in_sliders(address, run_ids, tmp_path) -> None:
    """One for each image, in a section of their own among the run's charts."""
    run, awaited = run_ids["gradcam-cnn"], ["test image 0", "test image 3", 'role="slider"']
    url = f"{address}#/experiments/{run_ids['experiment']}/runs/{run}/model-metrics"
    shown = chromium.dom(url, tmp_path, awaited)
    assert [text for text in awaited if text not in shown] == []
    assert shown.count('role="slider"') == 2


def test_the_server_answers_on_loopback_alone(address) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    places = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in places
    assert f"00000000:{port:04X}" not in places
