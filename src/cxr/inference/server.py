"""Serve one model with MLflow's scoring server, but with one-line errors for bad requests.

`mlflow models serve` runs the same server in a child process; its error messages may contain a copy
of the request or a traceback.
"""

import asyncio
import logging
import shlex
import socket
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server

from cxr.errors import CxrError
from cxr.inference import pyfunc
from cxr.inference.pyfunc import RequestError
from cxr.tracking import mlmodel, saved_models
from cxr.tracking.mlmodel import COLUMN
from cxr.tracking.store import open_for

PATH = "/invocations"
JSON = "application/json"
MAX_REQUEST_BYTES = 2**26  # in base64 a 16-bit X-ray of 3000 x 3000 pixels has 24 million
SHUTDOWN_TIMEOUT = 10  # seconds for running requests after a signal
EXAMPLE = "serving_input_example.json"  # next to MLmodel
UNREADABLE = (
    f"the request can't be read as a table with a column `{COLUMN}`; send JSON such as "
    '{"inputs": [FILE, …]}, each file base64-encoded'
)

log = logging.getLogger(__name__)


def serve(root: Path, address: str, host: str, port: int, threads: int) -> None:
    """Serve a registered model until a signal arrives.

    Parameters
    ----------
    root : the project whose MLflow store has the model.
    address : the model's URI in MLflow, such as `models:/NAME@champion`.
    threads : number of torch threads.
    """
    store = open_for(address, root)
    version = store.version_of(address)
    folder = store.fetch_model(address)
    name = saved_models.inside(folder, address).name
    if not (folder / mlmodel.FILE).exists():
        raise CxrError(f"{address} has no MLmodel file; run `cxr sync` to write it")
    torch.set_num_threads(threads)
    app = application(load(folder))
    with _listen(host, port) as listener:
        of_version = f", version {version}" if version else ""
        print(_usage(f"{address}{of_version} ({name})", host, port, folder / EXAMPLE), flush=True)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT
        )
        uvicorn.Server(config).run(sockets=[listener])


def load(folder: Path) -> PyFuncModel:
    """Load a registered model with this package's code; MLflow's loader would run the folder's."""
    return PyFuncModel(Model.load(folder / mlmodel.FILE), pyfunc.load(folder))


def application(model: PyFuncModel) -> FastAPI:
    """MLflow's scoring server, with a status and a one-line message for every refused request."""
    app = FastAPI(openapi_url=None)
    schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]

    @app.post(PATH)
    async def answer(request: Request) -> Response:
        try:
            _check_length(request.headers.get("content-length", ""))
            body = await request.body()
            result = await asyncio.to_thread(scoring_server.invocations, body, JSON, model, schema)
        except RequestError as error:
            return _error_response(error)
        except Exception as error:  # MLflow's parser raises errors of many types
            log.info("a request could not be read: %s", type(error).__name__)
            return _error_response(RequestError(UNREADABLE))
        return Response(result.response, result.status, media_type=result.mimetype)

    app.mount("/", scoring_server.init(model))  # /ping, /health and /version
    return app


def _check_length(length: str) -> None:
    if not length.isdecimal():
        raise RequestError("the request has no Content-Length; send it in one piece, not chunked")
    if int(length) > MAX_REQUEST_BYTES:
        raise RequestError(
            f"the request exceeds the limit of {MAX_REQUEST_BYTES:,} bytes; send fewer images"
        )


def _error_response(error: RequestError) -> Response:
    content = {"error_code": error.error_code, "message": error.message}
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return JSONResponse(content, status)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CxrError(
            f"can't listen on port {port} of {host}: {error.strerror}; choose another --port"
        ) from None


def _usage(model: str, host: str, port: int, example: Path) -> str:
    """The model, its URL and example commands."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
    curl = f"curl {url} -H 'Content-Type: {JSON}' --data-binary"
    encode = """(printf '{"inputs": ["'; base64 -w0 FILE; printf '"]}')"""
    return f"""Serving {model} at {url}

Predict a synthetic X-ray:

  {curl} @{shlex.quote(str(example))}

Predict an image file of your own (PNG, JPEG, TIFF, DICOM, …):

  {encode} | {curl} @-

Not a medical device. There is no password; press Ctrl-C to stop."""
