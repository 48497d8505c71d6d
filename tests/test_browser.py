"""MLflow's pages in a real browser: the runs table, the curves, a Grad-CAM picture."""

import json
import shutil
import socket
import subprocess
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
    "--window-size=1800,1200", "--virtual-time-budget=25000",
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
    import os
    import sys

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


def dom(url: str, profile: Path) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=180).stdout


def test_the_runs_table_shows_every_stage(address, run_ids, tmp_path) -> None:
    page = dom(f"{address}#/experiments/{run_ids['experiment']}/runs", tmp_path)
    for name in ("train-cnn", "train-squeezenet", "train-vit", "evaluate-cnn", "gradcam-vit"):
        assert name in page


def test_the_three_loss_curves_stand_over_each_other(address, run_ids, tmp_path) -> None:
    ids = [run_ids[f"train-{model}"] for model in ("cnn", "squeezenet", "vit")]
    query = "&".join(
        f"{key}={quote(json.dumps(value))}"
        for key, value in {
            "runs": ids,
            "metric": "loss/val",
            "experiments": [run_ids["experiment"]],
            "plot_metric_keys": ["loss/val"],
        }.items()
    )
    page = dom(f"{address}#/metric?{query}", tmp_path)
    assert page.count("scatterlayer") >= 1
    assert page.count('class="trace scatter') == 3


def test_a_grad_cam_picture_is_shown(address, run_ids, tmp_path) -> None:
    run = run_ids["gradcam-cnn"]
    place = f"#/experiments/{run_ids['experiment']}/runs/{run}/artifacts/gradcam/cnn/0.png"
    page = dom(f"{address}{place}", tmp_path)
    assert "<img" in page
    assert "0.png" in page


def test_the_server_answers_on_loopback_alone(address) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    places = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in places
    assert f"00000000:{port:04X}" not in places
