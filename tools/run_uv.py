"""Run uv with the index, certificates and proxy that pip is configured with.

uv reads neither pip.conf nor PIP_* variables. Their settings are passed on in uv's environment and
not as arguments: an index URL can contain a password, and other users can read arguments. UV_*
variables that are already set win. Example:

    .venv/bin/python tools/run_uv.py pip list
"""

import ast
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

VENV = Path(__file__).resolve().parents[1] / ".venv"

# pip's setting, uv's variables, and the separator between several values.
SETTINGS = [
    ("index-url", ["UV_DEFAULT_INDEX"], " "),
    ("extra-index-url", ["UV_INDEX"], " "),
    ("find-links", ["UV_FIND_LINKS"], ","),
    ("trusted-host", ["UV_INSECURE_HOST"], " "),
    ("timeout", ["UV_HTTP_TIMEOUT"], ""),
    ("cert", ["SSL_CERT_FILE"], ""),
    ("client-cert", ["SSL_CLIENT_CERT"], ""),
    ("proxy", ["HTTP_PROXY", "HTTPS_PROXY"], ""),
]


def pip_settings(listing: str) -> dict[str, str]:
    """Values by name from the output of `pip config list`; variables win over files."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in sections:
            # PIP_DEFAULT_TIMEOUT is another spelling of PIP_TIMEOUT.
            sections[section][name.removeprefix("default-")] = ast.literal_eval(value)
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_environment(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make uv use pip's settings."""
    # As in pip, a version may come from any index; the hashes in the lock file identify it.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    if has_system_certificates():
        variables["UV_SYSTEM_CERTS"] = "1"
    if not has_home():
        variables["UV_CACHE_DIR"] = str(VENV / "cache")  # the default is the current folder
    for name, targets, separator in SETTINGS:
        values = settings.get(name, "").split() if separator else [settings.get(name, "")]
        if any(values):
            variables |= dict.fromkeys(targets, separator.join(values))
    return {**environ, **variables, **{k: v for k, v in environ.items() if k.startswith("UV_")}}


def has_system_certificates() -> bool:
    """Whether the system has CA certificates; small containers may not, and uv has its own."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())))


def has_home() -> bool:
    """Whether the user has a home folder."""
    try:
        return Path.home().is_dir()
    except RuntimeError:
        return False


def main() -> int:
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(pip, stdout=subprocess.PIPE, text=True, check=True).stdout
    settings = pip_settings(listing)
    uv = [str(VENV / "bin" / "uv"), *sys.argv[1:]]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        uv.append("--no-index")
    return subprocess.run(uv, env=uv_environment(settings, os.environ), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
