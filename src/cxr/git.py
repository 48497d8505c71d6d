"""The git program: what it prints."""

import os
import subprocess
from pathlib import Path

from cxr.errors import CxrError


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """What git prints; CxrError with git's own last line where it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=os.environ | (env or {}),
            input=stdin.encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise CxrError("git is not installed; install it, then run again") from None
    if done.returncode != 0:
        line = (done.stderr.decode(errors="replace").strip().splitlines() or ["unknown cause"])[-1]
        raise CxrError(f"git {arguments[0]} failed in {folder}: {line}")
    # Not as text, which would change the line ends in a patch.
    return done.stdout.decode(errors="surrogateescape")


def ask(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str | None:
    """What git prints, or None where it fails: no git, no repository, no such thing in it.

    Raises
    ------
    CxrError
        Where git refuses a repository that belongs to somebody else: it would look like none.
    """
    try:
        return run(folder, *arguments, env=env)
    except CxrError as error:
        if "safe.directory" in str(error) or "dubious ownership" in str(error):
            raise CxrError(
                f"git does not trust {folder}, which is another user's; "
                f"`git config --global --add safe.directory {folder}` lets it"
            ) from None
        return None
