"""uv runs with the index, proxy and certificates that pip is configured with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import run_uv

CONFIG = """
[global]
index-url = https://user:secret@index.example/simple
timeout = 7
cert = /certificates of/ours.crt
[install]
extra-index-url = https://a.example/simple
    https://b.example/simple
find-links = /wheels
    /more
[list]
format = columns
"""


def pip_config_list(config: Path, **variables: str) -> str:
    """Output of `pip config list`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True,
        env=env | {"PIP_CONFIG_FILE": str(config)} | variables,
    )  # fmt: skip
    return done.stdout


def test_pip_settings_become_uv_variables(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(CONFIG)
    listing = pip_config_list(config, PIP_TIMEOUT="9", PIP_PROXY="http://p.example")
    environment = run_uv.uv_environment(
        run_uv.pip_settings(listing), {"PATH": "/bin", "SSL_CERT_FILE": "/other.crt"}
    )
    expected = {
        "UV_DEFAULT_INDEX": "https://user:secret@index.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "9",
        "SSL_CERT_FILE": "/certificates of/ours.crt",
        "HTTP_PROXY": "http://p.example",
        "HTTPS_PROXY": "http://p.example",
        "PATH": "/bin",
    }
    assert environment.items() >= expected.items()


def test_uvs_own_variables_take_precedence() -> None:
    variables = {"UV_DEFAULT_INDEX": "b"}
    environment = run_uv.uv_environment({"index-url": "https://a.example"}, variables)
    assert environment["UV_DEFAULT_INDEX"] == "b"


def test_without_pip_settings_only_the_index_strategy_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_uv, "has_system_certificates", lambda: False)
    assert run_uv.uv_environment({}, {}) == {"UV_INDEX_STRATEGY": "unsafe-best-match"}


def test_without_a_home_folder_the_cache_is_in_the_virtual_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_uv, "has_home", lambda: False)
    assert Path(run_uv.uv_environment({}, {})["UV_CACHE_DIR"]).parent == run_uv.VENV


def test_pip_no_index_becomes_an_argument_of_uv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit 3\n')
    uv.chmod(0o755)
    monkeypatch.setattr(run_uv, "VENV", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(sys, "argv", ["run_uv.py", "pip", "sync"])
    assert run_uv.main() == 3
    assert (tmp_path / "arguments").read_text() == "pip sync --no-index\n"
