"""MLflow loads a registered model, and the server returns the pipeline's probabilities."""

import ast
import base64
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import uvicorn
from image_files import dicom
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from PIL import Image
from pipeline import Pipeline
from servers import free_port
from test_predict import CHESTS, pipeline_logits, project, write

from cxr import cli
from cxr.errors import CxrError
from cxr.inference import predict, server
from cxr.inference.pyfunc import MAX_IMAGES, RequestError
from cxr.inference.server import UNREADABLE
from cxr.labels import CHESTMNIST
from cxr.tracking import mlmodel

__all__ = ["project"]  # the fixture

REGISTERED = "cxr-phantom-28"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def registered(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registered model."""
    folder = tmp_path_factory.mktemp("registered") / "model"
    mlmodel.write(folder, CHESTMNIST, datetime(2026, 1, 2, tzinfo=UTC), 7)
    for name in ("models", "decisions"):
        shutil.copytree(project / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def served(registered: Path) -> PyFuncModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(registered))


@pytest.fixture(scope="module")
def port(served: PyFuncModel) -> Iterator[int]:
    """The port of a server in this process."""
    config = uvicorn.Config(server.application(served), log_level="critical")
    uvicorn_server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield int(listener.getsockname()[1])
        uvicorn_server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def expected(project: Path) -> np.ndarray:
    """Probabilities of the first X-rays, by the pipeline's own code."""
    model = predict.load("cnn", project)
    logits = pipeline_logits(model.saved.network, model.saved.input)
    return model.operating_point.calibration.probs(logits)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chests(folder: Path, n: int = 20) -> list[str]:
    """The first X-rays as a client sends them."""
    return [encoded(path.read_bytes()) for path in write(folder, n)]


def ask(port: int, content: Any, headers: dict[str, str | None] | None = None) -> requests.Response:
    """Send a request, encoded as JSON unless it is bytes."""
    body = content if isinstance(content, bytes | Iterator) else json.dumps(content).encode()
    return requests.post(
        f"http://127.0.0.1:{port}/invocations", data=body,
        headers=JSON if headers is None else headers, timeout=60,
    )  # fmt: skip


def answered(reply: Any) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    rows = json.loads(reply.text)["predictions"]
    assert all(tuple(row) == (*CHESTMNIST, "assumed", "warnings") for row in rows)
    return np.array([[row[label] for label in CHESTMNIST] for row in rows])


def test_probabilities_equal_the_pipelines(
    served: PyFuncModel, expected: np.ndarray, tmp_path: Path
) -> None:
    probs = served.predict(pd.DataFrame({"image": chests(tmp_path)}))
    assert tuple(probs.columns) == (*CHESTMNIST, "assumed", "warnings") and set(
        probs["assumed"]
    ) == {""}
    np.testing.assert_allclose(probs[list(CHESTMNIST)], expected, atol=1e-6)


def test_a_response_says_what_was_assumed_of_each_image(port: int, tmp_path: Path) -> None:
    window = {"WindowCenter": 128, "WindowWidth": 256, "PixelPaddingValue": 255}
    dicom(tmp_path / "a.dcm", 255 - CHESTS[0], PhotometricInterpretation="MONOCHROME1", **window)
    Image.fromarray(CHESTS[0].astype(np.uint16) * 16).save(tmp_path / "b.png")
    Image.fromarray(CHESTS[0]).save(tmp_path / "c.png")
    contents = [encoded((tmp_path / name).read_bytes()) for name in ("a.dcm", "b.png", "c.png")]
    rows = json.loads(ask(port, {"inputs": contents}).text)["predictions"]
    windowed, deep, plain = (row["assumed"] for row in rows)
    assert "window: WindowCenter 128, WindowWidth 256, LINEAR" in windowed
    assert "inverted: MONOCHROME1" in windowed
    assert deep.startswith("depth: does not state which value is white")
    assert plain == ""


def test_every_request_format_of_mlflow_is_accepted(
    port: int, expected: np.ndarray, tmp_path: Path
) -> None:
    three = chests(tmp_path, 3)
    for request in (
        {"inputs": three},
        {"inputs": {"image": three}},
        {"instances": [{"image": each} for each in three]},
        {"dataframe_records": [{"image": each} for each in three]},
        {"dataframe_split": {"columns": ["image"], "data": [[each] for each in three]}},
        {"dataframe_split": {"columns": ["id", "image"], "data": [[7, each] for each in three]}},
    ):
        probs = answered(ask(port, request))
        np.testing.assert_allclose(probs, expected[:3], atol=1e-6)
    alone = answered(ask(port, {"inputs": three[:1]}))
    np.testing.assert_allclose(alone, expected[:1], atol=1e-6)


def test_jpeg_and_dicom_are_read_and_base64_may_have_line_breaks(
    port: int, expected: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(CHESTS[0]).save(tmp_path / "a.jpg", quality=100)
    # The window covers all grey levels, so that none change.
    dicom(tmp_path / "a.dcm", CHESTS[0], WindowCenter=128, WindowWidth=256)
    files = [(tmp_path / name).read_bytes() for name in ("a.dcm", "a.jpg")]
    lines = [base64.encodebytes(each).decode() for each in files]
    assert "\n" in lines[0][:-1]
    lossless, lossy = answered(ask(port, {"inputs": lines}))
    np.testing.assert_allclose(lossless, expected[0], atol=1e-6)
    np.testing.assert_allclose(lossy, expected[0], atol=0.05)


def test_the_model_has_a_signature_an_example_and_exact_requirements(
    registered: Path, served: PyFuncModel
) -> None:
    signature = served.metadata.signature
    assert [(each.name, each.type.name) for each in signature.inputs] == [("image", "string")]
    assert [each.name for each in signature.outputs] == [*CHESTMNIST, "assumed", "warnings"]
    assert served.metadata.utc_time_created == "2026-01-02 00:00:00"
    probs = served.predict(served.input_example)[list(CHESTMNIST)].to_numpy()
    assert probs.shape == (1, 14) and probs.min() > 0 and probs.max() < 1
    lines = (registered / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines} == set(mlmodel.PACKAGES)
    assert all(len(line.split("==")) == 2 for line in lines)


def test_the_model_folder_holds_no_pickle_and_no_other_data(registered: Path) -> None:
    files = {path.relative_to(registered).as_posix() for path in registered.rglob("*.*")}
    data = {path for path in files if not path.startswith("code/")}
    assert data == {
        "models/cnn/weights.safetensors", "models/cnn/model.json", "decisions/cnn.json",
        "requirements.txt", "conda.yaml", "python_env.yaml", "input_example.json",
        "serving_input_example.json",
    }  # fmt: skip
    of_the_report = {".css", ".j2", ".js"}
    assert {Path(path).suffix for path in files - data} == {".py", ".typed", *of_the_report}


ALONE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("cxr") is None
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[2])
answer = model.predict(model.input_example).drop(columns=["assumed", "warnings"])
probs = answer.to_numpy()[0].tolist()
files = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "cxr"]
print(json.dumps({"probs": probs, "files": files}))
"""


def test_the_logged_model_works_without_the_package_installed(
    registered: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    # -S ignores the installed package, -I ignores PYTHONPATH.
    packages = str(Path(np.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-B", "-c", ALONE, packages, str(registered)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    np.testing.assert_allclose(result["probs"], expected[0], atol=1e-6)
    files = {Path(file) for file in result["files"]}
    assert all(file.is_relative_to(registered / "code/cxr") for file in files)
    imported = {
        name
        for file in {*files, *(registered / "code/cxr/models").glob("*.py")}
        for name in top_level_imports(file) - sys.stdlib_module_names
    }
    distributions = metadata.packages_distributions()
    needed = [{dist.lower() for dist in distributions[name]} for name in imported - {"cxr"}]
    required = set(mlmodel.PACKAGES)
    assert [each for each in needed if not each & required] == [{"pydantic_core"}]  # of pydantic
    assert required <= set().union(*needed)


def top_level_imports(path: Path) -> set[str]:
    """The packages that a file imports at module level."""
    packages = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


def test_the_server_runs_no_code_from_the_model_folder(registered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(registered, folder)
    (folder / "code/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    changed = (folder / "MLmodel").read_text().replace("cxr.inference.pyfunc", "evil")
    (folder / "MLmodel").write_text(changed)
    with pytest.raises(AttributeError, match="evil"):
        mlflow.pyfunc.load_model(str(folder))
    (tmp_path / "ran").unlink()
    sys.path.remove(str(folder / "code"))
    probs = server.load(folder).predict(mlmodel.example())
    assert probs.shape == (1, 16)
    assert not (tmp_path / "ran").exists() and str(folder / "code") not in sys.path


def png(width: int, height: int) -> bytes:
    """A small PNG file of an image of this size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


BAD: dict[str, tuple[Any, str]] = {
    "no base64": ({"inputs": ["not base64!"]}, "image 0 is not valid base64"),
    "not even ASCII": ({"inputs": ["bäse"]}, "image 0 is not valid base64"),
    "an empty text": ({"inputs": [""]}, "image 0 is not a supported image"),
    "a text file": ({"inputs": [encoded(b"a text")]}, "image 0 is not a supported image"),
    "the second of two": (
        {"inputs": [encoded(png(30, 30)), encoded(b"a text")]}, "image 1 is not a supported image",
    ),
    "a cut PNG": ({"inputs": [encoded(png(99, 99)[:-30])]}, "image 0 is damaged"),
    "too wide an image": ({"inputs": [encoded(png(10_001, 30))]}, "the limit is 10,000 per side"),
    "too large an image": ({"inputs": [encoded(png(9_000, 9_000))]}, "the limit is 67,108,864"),
    "too small an image": ({"inputs": [encoded(png(9, 9))]}, "the minimum is 28 per side"),
    "a broken DICOM": (
        {"inputs": [encoded(b"\0" * 128 + b"DICM" + b"x" * 99)]}, "image 0 is",
    ),
    "a missing column": ({"dataframe_records": [{"picture": "a"}]}, "with a column `image`"),
    "a number": ({"dataframe_records": [{"image": 5}]}, "image"),
    "a null": ({"dataframe_records": [{"image": None}]}, "image 0 is not valid base64"),
    "a list": ({"dataframe_records": [{"image": ["a"]}]}, "image"),
    "an object": ({"inputs": [{"image": {"a": 1}}]}, "image"),
    "a text for a table": ({"dataframe_split": "a"}, UNREADABLE),
    "a number for a table": ({"inputs": 5}, "image"),
    "a row too long": (
        {"dataframe_split": {"columns": ["image"], "data": [["a", "b"]]}}, UNREADABLE,
    ),
    "twice the column": (
        {"dataframe_split": {"columns": ["image", "image"], "data": [["a", "b"]]}}, UNREADABLE,
    ),
    "an empty batch": ({"inputs": []}, "the request has 0 images"),
    "an empty column": ({"inputs": {"image": []}}, "the request has 0 images"),
    "an empty table": ({"dataframe_split": {"columns": ["image"], "data": []}}, "0 images"),
    "too many": ({"inputs": ["a"] * (MAX_IMAGES + 1)}, f"send 1 to {MAX_IMAGES} per request"),
    "no form": ({"image": "a"}, UNREADABLE),
    "two forms": ({"inputs": ["a"], "instances": ["a"]}, UNREADABLE),
    "a language model's": ({"messages": [{"role": "user", "content": "a"}]}, UNREADABLE),
    "two and a language model's": ({"inputs": ["a"], "messages": ["b"]}, "image"),
    "a list of images": (["a"], UNREADABLE),
    "a text for a list": ({"inputs": {"image": "a", "params": {}}}, UNREADABLE),
    "unknown parameters": ({"inputs": ["?"], "params": {"b": 1}}, "not valid base64"),
    "no JSON": (b'{"inputs": [', UNREADABLE),
    "nothing": (b"", UNREADABLE),
    "no text": (b"\xff\xfe", UNREADABLE),
    "half a character": (b'{"inputs": ["\\ud800"]}', UNREADABLE),
    "not a number": (b'{"inputs": [NaN]}', "image 0 is not valid base64"),
    "a long number": (b'{"inputs": [' + b"9" * 10_000 + b"]}", UNREADABLE),
    "a deep text": (b'{"inputs": ' + b"[" * 100_000, UNREADABLE),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_answered_with_400_and_a_one_line_message(port: int, case: str) -> None:
    request, words = BAD[case]
    reply = ask(port, request)
    check_refusal(reply.status_code, reply.text, words)


def check_refusal(status: int, text: str, words: str) -> None:
    assert status == 400, text
    error = json.loads(text)
    assert set(error) == {"error_code", "message"}
    assert words in error["message"]
    assert 10 < len(error["message"]) < 300 and error["message"].isprintable()
    assert "Traceback" not in text and "site-packages" not in text


def test_a_csv_request_is_refused(port: int) -> None:
    reply = ask(port, b"image\nYQ==\n", {"Content-Type": "text/csv"})
    check_refusal(reply.status_code, reply.text, UNREADABLE)


def test_ping_answers(port: int) -> None:
    assert requests.get(f"http://127.0.0.1:{port}/ping", timeout=60).status_code == 200


def test_a_request_without_content_length_is_refused(port: int) -> None:
    reply = ask(port, iter([b"{}"]))
    check_refusal(reply.status_code, reply.text, "Content-Length")


def test_a_request_that_is_too_large_is_refused_before_its_body_is_sent(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/invocations")
    for name, value in (JSON | {"Content-Length": str(2**26 + 1)}).items():
        connection.putheader(name, value)
    connection.endheaders(b"{")
    reply = connection.getresponse()
    check_refusal(reply.status, reply.read().decode(), "exceeds the limit of 67,108,864 bytes")


def test_an_error_in_the_model_is_answered_with_500_and_no_traceback(
    port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(predict, "predict_pictures", fail)
    reply = ask(port, {"inputs": chests(tmp_path, 1)})
    assert reply.status_code == 500
    assert json.loads(reply.text) == {
        "error_code": "INTERNAL_ERROR",
        "message": "the model failed on this request; see the server's log for the cause",
    }


def test_an_error_message_never_includes_the_request() -> None:
    """MLflow would prepend it."""
    error = RequestError("image 0 is odd")
    error.message = f"Failed to predict data '…'. \nError: {error.message}"
    assert json.loads(error.serialize_as_json())["message"] == "image 0 is odd"


def test_in_python_an_error_is_mlflows_exception_with_the_same_message(
    served: PyFuncModel,
) -> None:
    with pytest.raises(MlflowException, match=r"^image 0 is not valid base64"):
        served.predict(pd.DataFrame({"image": ["?"]}))


def test_concurrent_requests_get_the_same_answers_as_single_ones(port: int, tmp_path: Path) -> None:
    files = chests(tmp_path, 8)

    def answer(i: int) -> str:
        reply = ask(port, {"inputs": [files[i % 8]]})
        assert reply.status_code == 200
        return reply.text

    single = [answer(i) for i in range(8)]
    assert len(set(single)) == 8
    with ThreadPoolExecutor(8) as clients:
        concurrent = list(clients.map(answer, range(200)))
    assert concurrent == [single[i % 8] for i in range(200)]


def shared_run(store: MlflowClient, recorded: str) -> str:
    """MLflow's id of the run that a record names by its content."""
    experiments = [each.experiment_id for each in store.search_experiments()]
    (run,) = store.search_runs(experiments, f"tags.`cxr.original_run_id` = '{recorded}'")
    return str(run.info.run_id)


class Served:
    """`cxr serve` in its own pipeline, whose champion is the SqueezeNet."""

    model = "squeezenet"  # the pipeline predicts it from features, not from images

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.store = f"sqlite:///{pipeline.folder / 'mlflow.db'}"
        registry = MlflowClient(self.store)
        logged = pipeline.json("records/evaluate.json")["runs"]
        self.run_ids = {  # MLflow's own, by model; the tag holds the record's
            log["model"]: shared_run(registry, log["run_id"]) for log in logged if log["shared"]
        }
        versions = registry.search_model_versions(f"name = '{REGISTERED}'")
        version = next(each for each in versions if each.run_id == self.run_ids[self.model])
        registry.set_registered_model_alias(REGISTERED, "champion", version.version)
        self.version = version.version
        self.port = free_port()
        self.process = subprocess.Popen(
            ["cxr", "serve", "--port", str(self.port)], cwd=pipeline.folder,
            env=pipeline.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.output = [next(lines), *takewhile(lambda line: "Ctrl-C" not in line, lines)]

    def images(self, n: int) -> list[str]:
        """The first images of the test split, as a client sends them."""
        files = []
        for pixels in np.load(self.pipeline.folder / "data/processed/test_images.npy")[:n]:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            files.append(encoded(file.getvalue()))
        return files

    def expected(self, model: str) -> np.ndarray:
        """Probabilities of the test split, computed from its logits."""
        logits = np.load(self.pipeline.folder / f"predictions/{model}.npz")["test_logits"]
        calibration = self.pipeline.json(f"decisions/{model}.json")["calibration"]
        slope, intercept = (
            np.array([calibration[key][label] for label in CHESTMNIST])
            for key in ("slope", "intercept")
        )
        return 1 / (1 + np.exp(-(slope * logits.astype(np.float64) + intercept)))


@pytest.fixture(scope="module")
def running(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pipeline = Pipeline(kept).copy(tmp_path_factory.mktemp("serve") / "p")
    assert pipeline.run("cxr", "sync").returncode == 0
    running = Served(pipeline)
    yield running
    with suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()


@pytest.mark.slow
def test_mlflow_loads_every_model_with_the_probabilities_of_evaluate(
    running: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.store)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(running.store)
    table = pd.DataFrame({"image": running.images(20)})
    for name in ("cnn", "squeezenet", "vit"):
        model = mlflow.pyfunc.load_model(f"runs:/{running.run_ids[name]}/model")
        probs = model.predict(table)[list(CHESTMNIST)]
        np.testing.assert_allclose(probs, running.expected(name)[:20], atol=1e-5)
    champion = mlflow.pyfunc.load_model(f"models:/{REGISTERED}@champion")
    probs = champion.predict(table)[list(CHESTMNIST)]
    np.testing.assert_allclose(probs, running.expected(running.model)[:20], atol=1e-5)


@pytest.mark.slow
def test_the_server_returns_the_probabilities_of_evaluate_and_predict(
    running: Served, tmp_path: Path
) -> None:
    files = running.images(20)
    probs = answered(ask(running.port, {"inputs": files}))
    np.testing.assert_allclose(probs, running.expected(running.model)[:20], atol=1e-5)
    for i, file in enumerate(files[:3]):
        (tmp_path / f"{i}.png").write_bytes(base64.b64decode(file))
    address = f"models:/{REGISTERED}@champion"
    done = running.pipeline.run("cxr", "predict", str(tmp_path), "--model", address, "--json")
    predicted = [
        [each["labels"][label]["probability"] for label in CHESTMNIST]
        for each in json.loads(done.stdout)["images"]
    ]
    np.testing.assert_allclose(probs[:3], predicted, atol=1e-5)


@pytest.mark.slow
def test_it_prints_the_model_version_and_commands_that_work(
    running: Served, tmp_path: Path
) -> None:
    first, *lines = running.output
    assert first.startswith(
        f"Serving models:/{REGISTERED}@champion, version {running.version} (squeezenet)"
    )
    assert f"http://127.0.0.1:{running.port}/invocations" in first
    example, own_file = (line.strip() for line in lines if "curl" in line)
    (tmp_path / "a chest.png").write_bytes(base64.b64decode(running.images(1)[0]))
    expected = running.expected(running.model)[0]
    for command in (example, own_file.replace("FILE", "'a chest.png'")):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        (row,) = json.loads(done.stdout)["predictions"]
        assert tuple(row) == (*CHESTMNIST, "assumed", "warnings")
    np.testing.assert_allclose([row[label] for label in CHESTMNIST], expected, atol=1e-5)


@pytest.mark.slow
def test_the_command_refuses_the_same_requests(running: Served) -> None:
    for request, words in BAD.values():
        reply = ask(running.port, request)
        check_refusal(reply.status_code, reply.text, words)


@pytest.mark.slow
def test_eight_concurrent_clients_get_the_same_answers_as_one(running: Served) -> None:
    files = running.images(20)

    def answer(i: int) -> str:
        reply = ask(running.port, {"inputs": [files[i % 20]]})
        assert reply.status_code == 200, reply.text
        return reply.text

    single = [answer(i) for i in range(20)]
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(answer, range(200))) == [single[i % 20] for i in range(200)]


@pytest.mark.slow
def test_a_port_in_use_and_a_missing_model_are_refused_in_one_line(running: Served) -> None:
    serve = ("cxr", "serve", "--port")
    for command, words in (
        ((*serve, str(running.port)), f"can't listen on port {running.port} of 127.0.0.1"),
        ((*serve, str(free_port()), "--model", "models:/none@champion"), "`cxr sync` restores"),
        ((*serve, str(free_port()), "--model", "none"), "none is not a model URI"),
    ):
        done = running.pipeline.run(*command)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("cxr: ") and words in line


@pytest.mark.slow
def test_mlflow_models_serve_serves_the_model_from_any_folder(
    running: Served, tmp_path: Path
) -> None:
    port, env = free_port(), running.pipeline.environment()
    env["MLFLOW_TRACKING_URI"] = running.store
    env.pop("PYTHONPATH")
    address = f"models:/{REGISTERED}@champion"
    command = ["mlflow", "models", "serve", "-m", address, "--env-manager", "local"]
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=tmp_path, env=env,
            stdout=log, stderr=log, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            wait_for(port, process)
            probs = answered(ask(port, {"inputs": running.images(5)}))
            np.testing.assert_allclose(probs, running.expected(running.model)[:5], atol=1e-5)
            for case in ("no base64", "a text file", "too large an image", "too many"):
                request, words = BAD[case]
                reply = ask(port, request)
                assert reply.status_code == 400
                message = json.loads(reply.text)["message"]
                assert words in message and message.isprintable() and "predict data" not in message
                assert "Traceback" not in reply.text
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_it_listens_on_loopback_only_and_a_signal_stops_all_processes(running: Served) -> None:
    """Must run last, since it stops the server."""
    processes = [psutil.Process(running.process.pid)]
    processes += processes[0].children(recursive=True)
    listening = [
        each.laddr
        for process in processes
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", running.port)]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == -signal.SIGTERM
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port))


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(requests.ConnectionError):
            if requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok:
                return
        assert process.poll() is None
        time.sleep(0.2)
    raise AssertionError("the server does not answer")


def test_without_a_model_the_command_says_how_to_train_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(Path(__file__).parents[2] / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    code = "from cxr.cli import main; main()"
    for option, words in (([], "run `make repro`"), (["--demo"], "run `make demo`")):
        done = subprocess.run(
            [sys.executable, "-c", code, "serve", *option],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("cxr: ") and words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml"]


@pytest.fixture
def unserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an MLflow store; its params.yaml names ChestMNIST."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy2(Path(__file__).parents[2] / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "reports").mkdir()
    return tmp_path


def evaluated_on(unserved: Path, name: str) -> None:
    score = {split: {"macro_auroc": 0.7} for split in ("val", "test")}
    report = {"data": {"name": name, "source": "file"}, "models": {"cnn": score}}
    (unserved / "reports/metrics.json").write_text(json.dumps(report))


def address_served(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    served: list[str] = []
    monkeypatch.setattr(server, "serve", lambda root, address, *_: served.append(address))
    assert cli.app(["serve", *options], standalone_mode=False) in (None, 0)
    return served[0]


@pytest.mark.parametrize("name", ["nih_real_28", "phantom-28", "my data (1)"])
def test_the_default_is_the_champion_of_the_data_evaluated_last(
    unserved: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """params.yaml names the data of the next run, which may differ."""
    evaluated_on(unserved, name)
    expected = {"my data (1)": "my_data__1_"}.get(name, name)
    assert address_served(monkeypatch) == f"models:/cxr-{expected}@champion"


def test_an_explicit_model_needs_no_evaluation(
    unserved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address_served(monkeypatch, "--model", "models:/a/3") == "models:/a/3"


def test_before_the_first_evaluation_the_error_says_what_to_run(unserved: Path) -> None:
    with pytest.raises(CxrError) as caught:
        cli.app(["serve"], standalone_mode=False)
    assert str(caught.value) == (
        f"{unserved} has no evaluated model yet; run `dvc repro`, or name a model with --model"
    )
