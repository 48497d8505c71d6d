"""MLflow's scoring server around one model, in this process, with answers of ours to bad requests.

`mlflow models serve` starts the same server through a shell and in a child; its refusals may hold
a copy of the request or a traceback.
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
from cxr.inference import predict, pyfunc
from cxr.inference.pyfunc import Refused
from cxr.tracking import mlmodel
from cxr.tracking.mlmodel import COLUMN
from cxr.tracking.store import open_for

PATH = "/invocations"
JSON = "application/json"
MOST_REQUEST_BYTES = 2**26  # as text; an X-ray of 3000 x 3000 pixels of 16 bits has 24 million
PATIENCE = 10  # seconds that a signal gives to what is being answered
EXAMPLE = "serving_input_example.json"  # beside MLmodel
UNREADABLE = (
    f"the request can't be read as a table with a column `{COLUMN}`; send JSON such as "
    '{"inputs": [FILE, …]}, each file base64-encoded'
)

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
    """MLflow's scoring server, except that every refusal of images is a status and one sentence."""
    app = FastAPI(openapi_url=None)
    schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]

    @app.post(PATH)
    async def answer(request: Request) -> Response:
        try:
            _check_length(request.headers.get("content-length", ""))
            body = await request.body()
            said = await asyncio.to_thread(scoring_server.invocations, body, JSON, model, schema)
        except Refused as error:
            return _refusal(error)
        except Exception as error:  # MLflow's reader lets out whatever a request leads it to
            log.info("a request could not be read: %s", type(error).__name__)
            return _refusal(Refused(UNREADABLE))
        return Response(said.response, said.status, media_type=said.mimetype)

    app.mount("/", scoring_server.init(model))  # /ping, /health and /version
    return app


def _check_length(length: str) -> None:
    if not length.isdecimal():
        raise Refused("the request does not state its Content-Length; send it in one piece")
    if int(length) > MOST_REQUEST_BYTES:
        raise Refused(f"the request is too big; at most {MOST_REQUEST_BYTES:,} bytes are read")


def _refusal(error: Refused) -> Response:
    content = {"error_code": error.error_code, "message": error.message}
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return JSONResponse(content, status)


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
