"""Downloads are complete, resume after an interruption, and report why they failed."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import medmnist
import numpy as np
import pytest

from cxr import params
from cxr.data import source, splits
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.params import Download, Phantom

DEFAULTS = params.load(Path(__file__).parents[2] / "params.yaml")
CONTENT = bytes(range(256)) * 4096
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers with CONTENT; each request consumes one of `faults`."""

    faults: list[str]
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        range_header = self.headers.get("Range")
        self.server.ranges.append(range_header)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "503":
            self.send_error(503)
            return
        if fault == "no ranges":
            range_header = None
        start = int(range_header.removeprefix("bytes=").rstrip("-")) if range_header else 0
        if start == len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if range_header else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("break", "stall") else body)
        if fault == "stall":
            time.sleep(1)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.faults, server.ranges = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def fetch(server: Server, folder: Path, md5: str = MD5) -> Path:
    target = folder / "chest.npz"
    url = f"http://127.0.0.1:{server.server_port}/chest.npz"
    source.fetch(url, md5, target, folder / "scratch", lambda done, total: None)
    return target


def refusal(server: Server, folder: Path, md5: str = MD5) -> str:
    with pytest.raises(CxrError) as caught:
        fetch(server, folder, md5)
    assert not (folder / "chest.npz").exists()
    text = str(caught.value)
    assert "\n" not in text
    for alternative in ("try again", "download.source=file", "download.source=phantom"):
        assert alternative in text
    return text


def test_a_file_is_downloaded(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def get(server: Server, folder: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Get ChestMNIST as the stage does."""
    monkeypatch.setitem(source.URLS, 28, f"http://127.0.0.1:{server.server_port}/chest.npz")
    monkeypatch.setitem(source.MD5S, 28, MD5)
    target, scratch = folder / "chest.npz", folder / "scratch"
    source.get(DEFAULTS, target, scratch, folder, lambda md5: cached / md5, lambda done, of: None)
    return target


def test_a_cached_file_is_not_downloaded_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MD5).write_bytes(CONTENT)
    assert get(server, tmp_path, tmp_path, monkeypatch).read_bytes() == CONTENT
    assert server.ranges == []


@pytest.mark.parametrize("content", [None, b"", CONTENT[:-1] + b"x"])
def test_an_invalid_cached_file_is_downloaded_again(
    content: bytes | None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / MD5).write_bytes(content)
    assert get(server, tmp_path, tmp_path, monkeypatch).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_failed_copy_from_the_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / MD5).write_bytes(CONTENT)
    with pytest.raises(OSError, match="nowhere"):
        source.copy_if_valid(tmp_path / MD5, MD5, tmp_path / "nowhere" / "chest.npz")


def test_an_interrupted_download_resumes(server: Server, tmp_path: Path) -> None:
    server.faults = ["break"]
    assert "the connection was interrupted" in refusal(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "no ranges"]
    refusal(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[1] is not None


@pytest.mark.parametrize("kept", [CONTENT, CONTENT[:-1] + b"?"], ids=["right", "wrong"])
def test_a_complete_partial_file_is_checked_by_its_md5(
    server: Server, tmp_path: Path, kept: bytes
) -> None:
    part = tmp_path / "scratch" / f"{MD5}.part"
    part.parent.mkdir()
    part.write_bytes(kept)
    if kept == CONTENT:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    else:
        assert "was deleted" in refusal(server, tmp_path)
    assert server.ranges == [f"bytes={len(CONTENT)}-"] and not part.exists()


def test_a_timeout_of_the_server_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "TIMEOUT_SECONDS", (1, 0.3))
    server.faults = ["stall"]
    assert "the server did not respond in time" in refusal(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_with_a_wrong_md5_is_deleted(server: Server, tmp_path: Path) -> None:
    assert f"has MD5 {MD5}, expected {'0' * 32}, and was deleted" in refusal(
        server, tmp_path, "0" * 32
    )
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_servers_status_is_reported(server: Server, tmp_path: Path) -> None:
    server.faults = ["503"]
    assert "503 Service Unavailable" in refusal(server, tmp_path)


def test_a_failed_connection_is_reported(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    assert "could not connect to the server" in refusal(server, tmp_path)


def test_urls_md5s_and_labels_match_medmnist() -> None:
    info = medmnist.INFO["chestmnist"]
    for size in source.URLS:
        suffix = "" if size == 28 else f"_{size}"
        assert source.URLS[size] == info[f"url{suffix}"]
        assert source.MD5S[size] == info[f"MD5{suffix}"]
    assert tuple(info["label"][str(i)] for i in range(14)) == CHESTMNIST


def test_medmnist_reads_the_phantoms_raw_file(tmp_path: Path) -> None:
    counts = {"train": 30, "val": 20, "test": 10}
    progress: list[tuple[int, int]] = []
    source.write_phantom(
        0,
        Phantom(**counts, uncertain=0.0),
        28,
        tmp_path / "chestmnist.npz",
        lambda *done: progress.append(done),
    )
    assert progress[-1] == (60, 60)
    raw = np.load(tmp_path / "chestmnist.npz")
    for split, n in counts.items():
        theirs = medmnist.ChestMNIST(split=split, root=str(tmp_path), download=False)
        assert len(theirs.imgs) == n
        np.testing.assert_array_equal(theirs.imgs, raw[f"{split}_images"])
        np.testing.assert_array_equal(theirs.labels, raw[f"{split}_labels"])


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    counts = Phantom(train=5, val=5, test=5, uncertain=0.0)
    files = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for seed, path in zip((0, 0, 1), files, strict=True):
        source.write_phantom(seed, counts, 28, path, lambda done, total: None)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("medmnist", None, "chestmnist-64"),
        ("phantom", None, "phantom-64"),
        ("file", "/x/nih_real_28.npz", "nih_real_28"),
        ("table", "/x/Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020"),
    ],
)
def test_data_is_named_by_its_source(kind: str, path: str | None, name: str) -> None:
    changes = {"source": kind, "size": 64, "path": path}
    download = Download.model_validate(DEFAULTS.download.model_dump() | changes)
    assert splits.origin(download) == Origin(name, kind)
