"""MLflow loads a registered model, and its server answers with the pipeline's own probabilities."""

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
from test_predict import CHESTS, pipelines_logits, project, write

from cxr import cli
from cxr.errors import CxrError
from cxr.inference import predict, server
from cxr.inference.pyfunc import MOST_IMAGES, Refused
from cxr.inference.server import UNREADABLE
from cxr.labels import LABELS
from cxr.tracking import mlmodel

__all__ = ["project"]  # the fixture

REGISTERED = "cxr-phantom-28"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def registered(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registered model."""
    folder = tmp_path_factory.mktemp("registered") / "model"
    mlmodel.write(folder, datetime(2026, 1, 2, tzinfo=UTC), 7)
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
    """Of a server in this process."""
    config = uvicorn.Config(server.application(served), log_level="critical")
    answering = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=answering.run, kwargs={"sockets": [door]})
        thread.start()
        yield int(door.getsockname()[1])
        answering.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def expected(project: Path) -> np.ndarray:
    """Of the first chests, by the pipeline's own batches."""
    model = predict.load("cnn", project)
    logits = pipelines_logits(model.saved.network, model.saved.input)
    return model.decision.calibration.probs(logits)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chests(folder: Path, n: int = 20) -> list[str]:
    """The first chests as a client sends them."""
    return [encoded(path.read_bytes()) for path in write(folder, n)]


def ask(port: int, content: Any, headers: dict[str, str | None] | None = None) -> requests.Response:
    """Send a request, as JSON unless it is bytes already."""
    body = content if isinstance(content, bytes | Iterator) else json.dumps(content).encode()
    return requests.post(
        f"http://127.0.0.1:{port}/invocations", data=body,
        headers=JSON if headers is None else headers, timeout=60,
    )  # fmt: skip


def answered(reply: Any) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    rows = json.loads(reply.text)["predictions"]
    assert all(tuple(row) == (*LABELS, "assumed") for row in rows)
    return np.array([[row[label] for label in LABELS] for row in rows])


def test_probabilities_are_the_pipelines(
    served: PyFuncModel, expected: np.ndarray, tmp_path: Path
) -> None:
    probs = served.predict(pd.DataFrame({"image": chests(tmp_path)}))
    assert tuple(probs.columns) == (*LABELS, "assumed") and set(probs["assumed"]) == {""}
    np.testing.assert_allclose(probs[list(LABELS)], expected, atol=1e-6)


def test_an_answer_says_what_was_assumed_of_each_image(port: int, tmp_path: Path) -> None:
    window = {"WindowCenter": 128, "WindowWidth": 256, "PixelPaddingValue": 255}
    dicom(tmp_path / "a.dcm", 255 - CHESTS[0], PhotometricInterpretation="MONOCHROME1", **window)
    Image.fromarray(CHESTS[0].astype(np.uint16) * 16).save(tmp_path / "b.png")
    Image.fromarray(CHESTS[0]).save(tmp_path / "c.png")
    contents = [encoded((tmp_path / name).read_bytes()) for name in ("a.dcm", "b.png", "c.png")]
    rows = json.loads(ask(port, {"inputs": contents}).text)["predictions"]
    window_and_more, deep, plain = (row["assumed"] for row in rows)
    assert "window: WindowCenter 128, WindowWidth 256, LINEAR" in window_and_more
    assert "inverted: MONOCHROME1" in window_and_more
    assert deep.startswith("depth: does not state which value is white")
    assert plain == ""


def test_every_form_of_mlflows_protocol_is_answered(
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


def test_jpeg_and_dicom_are_read_and_base64_may_have_line_ends(
    port: int, expected: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(CHESTS[0]).save(tmp_path / "a.jpg", quality=100)
    # A window over all grey levels, so that nothing is stretched.
    dicom(tmp_path / "a.dcm", CHESTS[0], WindowCenter=128, WindowWidth=256)
    files = [(tmp_path / name).read_bytes() for name in ("a.dcm", "a.jpg")]
    lines = [base64.encodebytes(each).decode() for each in files]
    assert "\n" in lines[0][:-1]
    read, near = answered(ask(port, {"inputs": lines}))
    np.testing.assert_allclose(read, expected[0], atol=1e-6)
    np.testing.assert_allclose(near, expected[0], atol=0.05)


def test_the_model_tells_its_inputs_outputs_example_and_exact_requirements(
    registered: Path, served: PyFuncModel
) -> None:
    signature = served.metadata.signature
    assert [(each.name, each.type.name) for each in signature.inputs] == [("image", "string")]
    assert [each.name for each in signature.outputs] == [*LABELS, "assumed"]
    assert served.metadata.utc_time_created == "2026-01-02 00:00:00"
    probs = served.predict(served.input_example)[list(LABELS)].to_numpy()
    assert probs.shape == (1, 14) and probs.min() > 0 and probs.max() < 1
    lines = (registered / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines} == set(mlmodel.PACKAGES)
    assert all(len(line.split("==")) == 2 for line in lines)


def test_there_is_no_pickle_and_no_other_file_of_data(registered: Path) -> None:
    files = {path.relative_to(registered).as_posix() for path in registered.rglob("*.*")}
    data = {path for path in files if not path.startswith("code/")}
    assert data == {
        "models/cnn/weights.safetensors", "models/cnn/model.json", "decisions/cnn.json",
        "requirements.txt", "conda.yaml", "python_env.yaml", "input_example.json",
        "serving_input_example.json",
    }  # fmt: skip
    of_the_page = {".css", ".j2", ".js"}  # the report's
    assert {Path(path).suffix for path in files - data} == {".py", ".typed", *of_the_page}


ALONE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("cxr") is None
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[2])
probs = model.predict(model.input_example).drop(columns="assumed").to_numpy()[0].tolist()
files = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "cxr"]
print(json.dumps({"probs": probs, "files": files}))
"""


def test_what_is_logged_is_all_that_an_environment_without_the_package_needs(
    registered: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    # -S leaves out the link to the installed package, -I PYTHONPATH.
    packages = str(Path(np.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-B", "-c", ALONE, packages, str(registered)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    np.testing.assert_allclose(told["probs"], expected[0], atol=1e-6)
    files = {Path(file) for file in told["files"]}
    assert all(file.is_relative_to(registered / "code/cxr") for file in files)
    imported = {
        name
        for file in {*files, *(registered / "code/cxr/models").glob("*.py")}
        for name in imported_on_top(file) - sys.stdlib_module_names
    }
    bringers = metadata.packages_distributions()
    brought = [{dist.lower() for dist in bringers[name]} for name in imported - {"cxr"}]
    wanted = set(mlmodel.PACKAGES)
    assert [each for each in brought if not each & wanted] == [{"pydantic_core"}]  # of pydantic
    assert wanted <= set().union(*brought)


def imported_on_top(path: Path) -> set[str]:
    """What a file imports when it is imported itself, by the first part of the name."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_server_runs_no_code_of_the_models_folder(registered: Path, tmp_path: Path) -> None:
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
    assert probs.shape == (1, 15)
    assert not (tmp_path / "ran").exists() and str(folder / "code") not in sys.path


def png(width: int, height: int) -> bytes:
    """A grey PNG's head that states a size, and little behind it."""
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
    "an empty batch": ({"inputs": []}, "there are 0 images"),
    "an empty column": ({"inputs": {"image": []}}, "there are 0 images"),
    "an empty table": ({"dataframe_split": {"columns": ["image"], "data": []}}, "0 images"),
    "too many": ({"inputs": ["a"] * (MOST_IMAGES + 1)}, f"takes 1 to {MOST_IMAGES}"),
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
def test_a_bad_request_is_answered_with_400_and_one_sentence(port: int, case: str) -> None:
    request, words = BAD[case]
    reply = ask(port, request)
    check_refusal(reply.status_code, reply.text, words)


def check_refusal(status: int, text: str, words: str) -> None:
    assert status == 400, text
    told = json.loads(text)
    assert set(told) == {"error_code", "message"}
    assert words in told["message"]
    assert 10 < len(told["message"]) < 300 and told["message"].isprintable()
    assert "Traceback" not in text and "site-packages" not in text


def test_a_table_of_another_kind_is_not_read(port: int) -> None:
    reply = ask(port, b"image\nYQ==\n", {"Content-Type": "text/csv"})
    check_refusal(reply.status_code, reply.text, UNREADABLE)


def test_ping_answers(port: int) -> None:
    assert requests.get(f"http://127.0.0.1:{port}/ping", timeout=60).status_code == 200


def test_a_request_of_unknown_length_is_not_read(port: int) -> None:
    reply = ask(port, iter([b"{}"]))
    check_refusal(reply.status_code, reply.text, "Content-Length")


def test_a_request_that_is_too_big_is_refused_before_it_is_sent(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/invocations")
    for name, value in (JSON | {"Content-Length": str(2**26 + 1)}).items():
        connection.putheader(name, value)
    connection.endheaders(b"{")
    reply = connection.getresponse()
    check_refusal(reply.status, reply.read().decode(), "at most 67,108,864 bytes are read")


def test_a_defect_of_the_model_is_no_fault_of_the_request_and_shows_no_traceback(
    port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(predict, "predict_pictures", fail)
    reply = ask(port, {"inputs": chests(tmp_path, 1)})
    assert reply.status_code == 500
    assert json.loads(reply.text) == {
        "error_code": "INTERNAL_ERROR",
        "message": "the model failed on this request; the server's log says why",
    }


def test_a_refusal_keeps_its_sentence_where_mlflow_would_set_the_request_before_it() -> None:
    refused = Refused("image 0 is odd")
    refused.message = f"Failed to predict data '…'. \nError: {refused.message}"
    assert json.loads(refused.serialize_as_json())["message"] == "image 0 is odd"


def test_in_python_a_refusal_is_mlflows_exception_with_the_same_sentence(
    served: PyFuncModel,
) -> None:
    with pytest.raises(MlflowException, match=r"^image 0 is not valid base64"):
        served.predict(pd.DataFrame({"image": ["?"]}))


def test_many_at_once_get_what_each_would_get_alone(port: int, tmp_path: Path) -> None:
    files = chests(tmp_path, 8)

    def said(i: int) -> str:
        reply = ask(port, {"inputs": [files[i % 8]]})
        assert reply.status_code == 200
        return reply.text

    alone = [said(i) for i in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(said, range(200)))
    assert together == [alone[i % 8] for i in range(200)]


class Served:
    """`cxr serve` in a pipeline of its own, whose champion is the working copy's SqueezeNet."""

    model = "squeezenet"  # whose probabilities the pipeline makes from features, not from images

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.store = f"sqlite:///{pipeline.folder / 'mlflow.db'}"
        runs = pipeline.json("records/evaluate.json")["runs"]
        self.run_ids = {run["model"]: run["run_id"] for run in runs}
        registry = MlflowClient(self.store)
        versions = registry.search_model_versions(f"name = '{REGISTERED}'")
        mine = next(each for each in versions if each.run_id == self.run_ids[self.model])
        registry.set_registered_model_alias(REGISTERED, "champion", mine.version)
        self.version = mine.version
        self.port = free_port()
        self.process = subprocess.Popen(
            ["cxr", "serve", "--port", str(self.port)], cwd=pipeline.folder,
            env=pipeline.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.told = [next(lines), *takewhile(lambda line: "Ctrl-C" not in line, lines)]

    def images(self, n: int) -> list[str]:
        """The first of the test split, as a client sends them."""
        files = []
        for pixels in np.load(self.pipeline.folder / "data/processed/test_images.npy")[:n]:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            files.append(encoded(file.getvalue()))
        return files

    def expected(self, model: str) -> np.ndarray:
        """Of the test split, by hand."""
        logits = np.load(self.pipeline.folder / f"predictions/{model}.npz")["test_logits"]
        calibration = self.pipeline.json(f"decisions/{model}.json")["calibration"]
        slope, intercept = (
            np.array([calibration[key][label] for label in LABELS])
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
def test_mlflow_loads_every_evaluated_model_and_it_says_what_evaluate_found(
    running: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.store)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(running.store)
    table = pd.DataFrame({"image": running.images(20)})
    for name in ("cnn", "squeezenet", "vit"):
        model = mlflow.pyfunc.load_model(f"runs:/{running.run_ids[name]}/model")
        probs = model.predict(table)[list(LABELS)]
        np.testing.assert_allclose(probs, running.expected(name)[:20], atol=1e-5)
    champion = mlflow.pyfunc.load_model(f"models:/{REGISTERED}@champion")
    probs = champion.predict(table)[list(LABELS)]
    np.testing.assert_allclose(probs, running.expected(running.model)[:20], atol=1e-5)


@pytest.mark.slow
def test_the_server_answers_with_evaluates_and_predicts_probabilities(
    running: Served, tmp_path: Path
) -> None:
    files = running.images(20)
    probs = answered(ask(running.port, {"inputs": files}))
    np.testing.assert_allclose(probs, running.expected(running.model)[:20], atol=1e-5)
    for i, file in enumerate(files[:3]):
        (tmp_path / f"{i}.png").write_bytes(base64.b64decode(file))
    address = f"models:/{REGISTERED}@champion"
    done = running.pipeline.run("cxr", "predict", str(tmp_path), "--model", address, "--json")
    told = [
        [each["labels"][label]["probability"] for label in LABELS]
        for each in json.loads(done.stdout)["images"]
    ]
    np.testing.assert_allclose(probs[:3], told, atol=1e-5)


@pytest.mark.slow
def test_it_tells_model_version_and_commands_that_work_as_printed(
    running: Served, tmp_path: Path
) -> None:
    first, *lines = running.told
    assert first.startswith(
        f"models:/{REGISTERED}@champion, version {running.version} (squeezenet)"
    )
    assert f"http://127.0.0.1:{running.port}/invocations" in first
    of_example, of_file = (line.strip() for line in lines if "curl" in line)
    (tmp_path / "a chest.png").write_bytes(base64.b64decode(running.images(1)[0]))
    expected = running.expected(running.model)[0]
    for command in (of_example, of_file.replace("FILE", "'a chest.png'")):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        (row,) = json.loads(done.stdout)["predictions"]
        assert tuple(row) == (*LABELS, "assumed")
    np.testing.assert_allclose([row[label] for label in LABELS], expected, atol=1e-5)


@pytest.mark.slow
def test_the_command_refuses_as_the_server_in_this_process_does(running: Served) -> None:
    for request, words in BAD.values():
        reply = ask(running.port, request)
        check_refusal(reply.status_code, reply.text, words)


@pytest.mark.slow
def test_eight_clients_at_once_get_what_each_would_get_alone(running: Served) -> None:
    files = running.images(20)

    def said(i: int) -> str:
        reply = ask(running.port, {"inputs": [files[i % 20]]})
        assert reply.status_code == 200, reply.text
        return reply.text

    alone = [said(i) for i in range(20)]
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(said, range(200))) == [alone[i % 20] for i in range(200)]


@pytest.mark.slow
def test_a_port_that_is_taken_and_a_model_that_is_not_there_are_one_line(running: Served) -> None:
    serve = ("cxr", "serve", "--port")
    for command, words in (
        ((*serve, str(running.port)), f"port {running.port} of 127.0.0.1 can't be listened on"),
        ((*serve, str(free_port()), "--model", "models:/none@champion"), "`cxr sync` registers"),
        ((*serve, str(free_port()), "--model", "none"), "none is no model's address"),
    ):
        done = running.pipeline.run(*command)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("cxr: ") and words in line


@pytest.mark.slow
def test_mlflows_own_command_serves_the_model_in_any_folder(
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
def test_it_listens_on_loopback_alone_and_a_signal_ends_all_of_it(running: Served) -> None:
    """The last of these tests, since it ends the server."""
    family = [psutil.Process(running.process.pid)]
    family += family[0].children(recursive=True)
    listening = [
        each.laddr
        for process in family
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", running.port)]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == -signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=10)
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


def test_where_there_is_no_model_yet_the_command_says_what_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(Path(__file__).parents[2] / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    code = "from cxr.cli import main; main()"
    for option, words in (([], "`make repro` makes some"), (["--demo"], "`make demo` makes some")):
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
    """A project with a store, whose params.yaml names ChestMNIST."""
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
def test_the_champion_is_that_of_the_data_evaluated_last(
    unserved: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """params.yaml names the data of the next run, which may be other data."""
    evaluated_on(unserved, name)
    expected = {"my data (1)": "my_data__1_"}.get(name, name)
    assert address_served(monkeypatch) == f"models:/cxr-{expected}@champion"


def test_a_model_that_is_named_needs_no_evaluation(
    unserved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address_served(monkeypatch, "--model", "models:/a/3") == "models:/a/3"


def test_before_the_first_evaluation_one_line_says_what_to_run(unserved: Path) -> None:
    with pytest.raises(CxrError) as caught:
        cli.app(["serve"], standalone_mode=False)
    assert str(caught.value) == (
        f"{unserved} has no evaluated model yet; run `dvc repro`, or name a model with --model"
    )
