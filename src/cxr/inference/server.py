"""MLflow's scoring server around one model, in this process and behind a door of ours.

`mlflow models serve` starts the same server, through a shell and in a child, and tells who sends
what it can't read with a copy of it, with MLflow's own traceback, or with status 500.
"""

import json
import logging
import shlex
import socket
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from cxr import documents
from cxr.errors import CxrError, shown
from cxr.inference import predict, pyfunc
from cxr.tracking import mlmodel
from cxr.tracking.mlmodel import COLUMN
from cxr.tracking.store import open_for

PATH = "/invocations"
FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")  # MLflow's protocol
JSON = "application/json"
MOST_REQUEST_BYTES = 2**26  # as text; an X-ray of 3000 x 3000 pixels of 16 bits has 24 million
PATIENCE = 10  # seconds that a signal gives to what is being answered
BAD_REQUEST = "BAD_REQUEST"  # as MLflow calls it
EXAMPLE = "serving_input_example.json"  # beside MLmodel

log = logging.getLogger(__name__)


def serve(root: Path, address: str, host: str, port: int, threads: int) -> None:
    """Answer for a registered model until a signal comes.

    Parameters
    ----------
    root : folder of the project whose store has the model.
    address : MLflow's, as `models:/NAME@champion`.
    threads : of torch.
    """
    store = open_for(address, root)
    version = store.version_of(address)
    folder = store.fetch_model(address)
    name = predict.folder_of(folder, address).name
    if not (folder / mlmodel.FILE).exists():
        raise CxrError(f"MLflow can't load {address}, which has no MLmodel; `cxr sync` makes it")
    torch.set_num_threads(threads)
    app = application(load(folder))
    with _listening(host, port) as door:
        of_version = f", version {version}" if version else ""
        print(_told(f"{address}{of_version} ({name})", host, port, folder / EXAMPLE), flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
        uvicorn.Server(config).run(sockets=[door])


def load(folder: Path) -> PyFuncModel:
    """A registered model, by this package's code; MLflow's own loader would run the folder's."""
    return PyFuncModel(Model.load(folder / mlmodel.FILE), pyfunc.load(folder))


def application(model: PyFuncModel) -> FastAPI:
    """MLflow's scoring server, whose every refusal is a status and one sentence."""
    app: FastAPI = scoring_server.init(model)
    app.add_middleware(BaseHTTPMiddleware, dispatch=_door)
    return app


async def _door(request: Request, handler: RequestResponseEndpoint) -> Response:
    if request.url.path != PATH or request.method != "POST":
        return await handler(request)
    try:
        _check_head(request)
        await run_in_threadpool(_check, await request.body())
    except CxrError as error:
        return _refusal(400, BAD_REQUEST, str(error))
    try:
        answer = await handler(request)
    except Exception:  # MLflow's own reader lets out whatever a request leads it to
        log.exception("a request could not be read")
        return _refusal(400, BAD_REQUEST, "the request can't be read as a table of images")
    if answer.status_code < 400:
        return answer
    said = b"".join([part async for part in answer.body_iterator])  # type: ignore[attr-defined]
    return _refusal(answer.status_code, *_in_one_sentence(said.decode(errors="replace")))


def _check_head(request: Request) -> None:
    kind = request.headers.get("content-type", "")
    if kind.replace(" ", "").lower() not in (JSON, f"{JSON};charset=utf-8"):
        raise CxrError(f"the request is {kind or 'of no type'}; send JSON as Content-Type: {JSON}")
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise CxrError("the request does not say its Content-Length; send it in one piece")
    if int(length) > MOST_REQUEST_BYTES:
        raise CxrError(f"the request is too big; at most {MOST_REQUEST_BYTES:,} bytes are read")


def _check(body: bytes) -> None:
    """That a request is of one of the forms that MLflow reads."""
    try:
        content = documents.parse_json(body)
    except ValueError as error:
        raise CxrError(f"the request is not valid JSON: {error}") from None
    asked = [form for form in FORMS if form in content] if isinstance(content, dict) else []
    if len(asked) != 1:
        raise CxrError(f"the request must be a JSON object with one of {', '.join(FORMS)}")
    if not content[asked[0]]:
        raise CxrError(f"there is no image in `{asked[0]}`")


def _in_one_sentence(said: str) -> tuple[str, str]:
    """Code and reason of what MLflow says, which may repeat the request and hold a traceback."""
    try:
        told: dict[str, Any] = json.loads(said)
        code, message = str(told["error_code"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "INTERNAL_ERROR", said
    _, its_own, reason = message.rpartition("Error: ")
    sentence = reason.strip().split("\n")[0]
    return code, f"the request is no table with a column `{COLUMN}`: " * bool(its_own) + sentence


def _refusal(status: int, code: str, sentence: str) -> Response:
    return JSONResponse({"error_code": code, "message": shown(sentence)}, status)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CxrError(
            f"port {port} of {host} can't be listened on: {error.strerror}; take another --port"
        ) from None


def _told(model: str, host: str, port: int, example: Path) -> str:
    """What a person types next."""
    named = f"[{host}]" if ":" in host else host
    ask = f"curl http://{named}:{port}{PATH} -H 'Content-Type: {JSON}' --data-binary"
    mine = """(printf '{"inputs": ["'; base64 -w0 FILE; printf '"]}')"""
    return f"""{model} answers at http://{named}:{port}{PATH}

  {ask} @{shlex.quote(str(example))}

asks for a synthetic X-ray, and of an image file of yours (PNG, JPEG, TIFF, DICOM, …)

  {mine} | {ask} @-

Not a medical device. There is no password; Ctrl-C ends it."""
