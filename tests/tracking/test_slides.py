"""Images that MLflow shows as the steps of a slider."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from cxr.tracking import database, slides

KEY = "maps/test image 0"
# What differs between two images of the same key and step.
TIMESTAMP = r"(?<=\+timestamp\+)\d+"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store with one experiment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(empty_store, tmp_path)
    client = database.connect(f"sqlite:///{tmp_path / empty_store.name}")
    client.create_experiment("phantom-28", artifact_location=str(tmp_path / "mlruns"))
    return client


def new_run(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("phantom-28").experiment_id
    return str(client.create_run(experiment).info.run_id)


def pictures(folder: Path, n: int, size: tuple[int, int] = (600, 300)) -> list[Path]:
    """PNG files of noise, each another one."""
    files = [folder / f"{i}.png" for i in range(n)]
    for i, file in enumerate(files):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return files


def stored(client: MlflowClient, run_id: str) -> dict[str, Path]:
    """The files in a run's folder of images by name."""
    folder = Path(client.get_run(run_id).info.artifact_uri) / "images"
    return {path.name: path for path in folder.iterdir()}


def patterns(names: dict[str, Path]) -> list[str]:
    """File names without times and random parts."""
    return sorted(re.sub(UUID, "UUID", re.sub(TIMESTAMP, "TIME", name)) for name in names)


def test_logged_files_are_listed_with_their_keys_and_steps(
    client: MlflowClient, tmp_path: Path
) -> None:
    run_id = new_run(client)
    first, second, third = pictures(tmp_path, 3)
    other = "maps/test image 3"
    slides.log(client, run_id, [(first, KEY, 0), (second, KEY, 13)], timestamp=1_000)
    slides.log(client, run_id, [(third, other, 2)], timestamp=2_000)
    assert slides.of_run(client, run_id) == {(KEY, 0), (KEY, 13), (other, 2)}
    assert slides.of_run(client, new_run(client)) == set()


def test_a_logged_file_is_stored_unchanged_with_a_small_copy(
    client: MlflowClient, tmp_path: Path
) -> None:
    run_id = new_run(client)
    wide, small = *pictures(tmp_path, 1), tmp_path / "small.png"
    Image.new("L", (100, 40)).save(small)
    slides.log(client, run_id, [(wide, KEY, 0), (small, KEY, 1)], timestamp=1_000)
    files = stored(client, run_id)
    assert len(files) == 4
    for step, (original, size) in enumerate(((wide, (256, 128)), (small, (100, 40)))):
        (name,) = (each for each in files if f"+step+{step}+" in each and each.endswith(".png"))
        assert files[name].read_bytes() == original.read_bytes()
        thumbnail = files[name.removesuffix(".png") + "+compressed.webp"]
        with Image.open(thumbnail) as opened:
            assert (opened.format, opened.size) == ("WEBP", size)


def test_the_stored_files_are_named_as_by_mlflows_own_log_image(
    client: MlflowClient, tmp_path: Path
) -> None:
    (file,) = pictures(tmp_path, 1)
    ours, theirs = new_run(client), new_run(client)
    slides.log(client, ours, [(file, KEY, 7)], timestamp=1_000)
    with Image.open(file) as picture:
        client.log_image(theirs, picture, key=KEY, step=7, timestamp=2_000, synchronous=True)
    names = patterns(stored(client, ours))
    assert names == patterns(stored(client, theirs))
    assert names == [
        "maps~test image 0+step+7+timestamp+TIME+UUID+compressed.webp",
        "maps~test image 0+step+7+timestamp+TIME+UUID.png",
    ]
    assert slides.of_run(client, theirs) == {(KEY, 7)}
    tag = "mlflow.loggedImages"  # without it, the run's page has no sliders
    tags = [client.get_run(run_id).data.tags for run_id in (ours, theirs)]
    assert tags[0][tag] == tags[1][tag]
