"""MLflow's pages in a real browser: the runs table, learning curves, Grad-CAM images."""

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


N_CURVES = "n => document.querySelectorAll('g.trace.scatter').length >= n"
VIEWS = ["phantom-28, models ranked by validation AUROC:", "phantom-28, learning curves:"]


@pytest.fixture(scope="module")
def pipeline(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    copy = Pipeline(once).copy(tmp_path_factory.mktemp("browser") / "p")
    assert copy.run("cxr", "sync").returncode == 0
    return copy


@pytest.fixture(scope="module")
def printed(pipeline: Pipeline) -> Iterator[list[str]]:
    """The lines that `cxr ui` prints, while it runs on a free port."""
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
    """The printed URLs by their titles."""
    return dict(zip(printed[1::2], printed[2::2], strict=True))


@pytest.fixture(scope="module")
def run_ids(pipeline: Pipeline) -> dict[str, str]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("phantom-28")
    runs = store.search_runs([experiment.experiment_id])
    ids = {run.info.run_name: run.info.run_id for run in runs}
    return ids | {"experiment": experiment.experiment_id}


def test_the_runs_table_shows_every_stage(address, run_ids) -> None:
    names = [
        "download",
        "train-cnn",
        "train-squeezenet",
        "train-vit",
        "evaluate-cnn",
        "maps-vit",
    ]
    shown = chromium.dom(f"{address}#/experiments/{run_ids['experiment']}/runs", names)
    assert [name for name in names if name not in shown] == []


def test_the_view_of_models_shows_evaluation_runs_with_their_metrics(views) -> None:
    assert list(views) == VIEWS
    models = ["evaluate-cnn", "evaluate-squeezenet", "evaluate-vit", "evaluate-all-negative"]
    columns = [
        "cxr.model",
        "cxr.experiment",
        "seed",
        "val/macro_auroc",
        "test/macro_auroc_low",
        "test/macro_auroc_high",
    ]
    columns += ["test/macro_ap", "test/accuracy_gain", "parameters/trainable"]
    # A wide window, because columns outside it are not rendered.
    shown = chromium.dom(views[VIEWS[0]], models + columns, window=(3200, 1200))
    assert [text for text in models + columns if text not in shown] == []
    assert "train-cnn" not in shown


def test_the_view_of_curves_shows_the_loss_of_all_three_models(views) -> None:
    curves = [f"train-{model} (loss/val)" for model in ("cnn", "squeezenet", "vit")]
    with chromium.page(views[VIEWS[1]]) as opened:
        opened.wait_for_function(N_CURVES, arg=len(curves))
        shown = opened.content()
    assert [curve for curve in curves if curve not in shown] == []


def test_a_grad_cam_image_is_shown(address, run_ids) -> None:
    run = run_ids["maps-cnn"]
    path = f"#/experiments/{run_ids['experiment']}/runs/{run}/artifacts/gradcam/cnn/0.png"
    shown = chromium.dom(f"{address}{path}", ["<img", "gradcam/cnn/0.png"])
    assert "gradcam/cnn/0.png" in shown
    assert "<img" in shown


def test_maps_are_shown_in_sliders(address, run_ids) -> None:
    """One slider per image, in a separate section of the run's charts."""
    run, awaited = run_ids["maps-cnn"], ["test image 0", "test image 3", 'role="slider"']
    url = f"{address}#/experiments/{run_ids['experiment']}/runs/{run}/model-metrics"
    shown = chromium.dom(url, awaited)
    assert [text for text in awaited if text not in shown] == []
    assert shown.count('role="slider"') == 2


def test_the_server_listens_on_loopback_only(address) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in addresses
    assert f"00000000:{port:04X}" not in addresses
