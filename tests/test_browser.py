"""MLflow's pages in a real browser: the runs table, the curves, a Grad-CAM picture."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from pipeline import Pipeline, create

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1800,3600", "--virtual-time-budget=60000",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = create(tmp_path_factory.mktemp("browser"))
    made.repro()
    return made


@pytest.fixture(scope="module")
def address(pipeline: Pipeline) -> Iterator[str]:
    """`cxr ui` on a free port; what it prints is the address."""
    port = free_port()
    env = os.environ | {"PYTHONPATH": str(pipeline.folder / "src")}
    env.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(
        [Path(sys.executable).parent / "cxr", "ui", "--port", str(port)],
        cwd=pipeline.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    printed = server.stdout.readline().strip()
    assert printed.startswith(f"http://127.0.0.1:{port}/")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def run_ids(pipeline: Pipeline) -> dict[str, str]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("phantom-28")
    found = store.search_runs([experiment.experiment_id])
    ids = {run.info.run_name: run.info.run_id for run in found}
    return ids | {"experiment": experiment.experiment_id}


def page(url: str, folder: Path, awaited: list[str]) -> str:
    """The page's elements once it is drawn; a busy machine gets up to five looks."""
    for attempt in range(5):
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / str(attempt)}", "--dump-dom"]
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=180)
        if all(text in done.stdout for text in awaited):
            break
    return done.stdout


def test_the_runs_table_shows_every_stage(address, run_ids, tmp_path) -> None:
    names = [
        "download",
        "train-cnn",
        "train-squeezenet",
        "train-vit",
        "evaluate-cnn",
        "gradcam-vit",
    ]
    shown = page(f"{address}#/experiments/{run_ids['experiment']}/runs", tmp_path, names)
    assert [name for name in names if name not in shown] == []


def test_the_three_loss_curves_stand_over_each_other(address, run_ids, tmp_path) -> None:
    training = quote('attributes.run_name LIKE "train-%"')
    query = f"searchFilter={training}&compareRunsMode=CHART"
    curves = [f"train-{model} (loss/val)" for model in ("cnn", "squeezenet", "vit")]
    url = f"{address}#/experiments/{run_ids['experiment']}/runs?{query}"
    shown = page(url, tmp_path, curves)
    assert [curve for curve in curves if curve not in shown] == []
    assert shown.count('class="trace scatter') >= len(curves)


def test_a_grad_cam_picture_is_shown(address, run_ids, tmp_path) -> None:
    run = run_ids["gradcam-cnn"]
    place = f"#/experiments/{run_ids['experiment']}/runs/{run}/artifacts/gradcam/cnn/0.png"
    shown = page(f"{address}{place}", tmp_path, ["<img", "gradcam/cnn/0.png"])
    assert "gradcam/cnn/0.png" in shown
    assert "<img" in shown


def test_maps_stand_in_sliders(address, run_ids, tmp_path) -> None:
    """One for each image, in a section of their own among the run's charts."""
    run, awaited = run_ids["gradcam-cnn"], ["test image 0", "test image 3", 'role="slider"']
    url = f"{address}#/experiments/{run_ids['experiment']}/runs/{run}/model-metrics"
    shown = page(url, tmp_path, awaited)
    assert [text for text in awaited if text not in shown] == []
    assert shown.count('role="slider"') == 2


def test_the_server_answers_on_loopback_alone(address) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    places = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in places
    assert f"00000000:{port:04X}" not in places
