"""Run git and return its output.

It runs in the project's folder, which may be any folder of a larger repository. Paths given to git
and printed by it are relative to that folder, never to the top of the repository.
"""

import os
import re
import subprocess
from pathlib import Path

from cxr.errors import CxrError

# Git sets these for its hooks; they would make it use another repository or index.
HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE")
# The command in git's error message, which has the path of the top of the repository.
TRUST_COMMAND = re.compile(r"git config .*safe\.directory .*")


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """Run git and return its output; CxrError with git's last line if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=inherited | (env or {}),
            input=stdin.encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise CxrError("git is not installed; install it, then run again") from None
    if done.returncode != 0:
        line = (done.stderr.decode(errors="replace").strip().splitlines() or ["unknown cause"])[-1]
        raise CxrError(f"git {arguments[0]} failed in {folder}: {line}")
    # `text=True` would change the line endings in a patch.
    return done.stdout.decode(errors="surrogateescape")


def ask(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str | None:
    """Run git and return its output, or None if it fails.

    It fails without git, without a repository, or if the repository lacks the object asked for.

    Raises
    ------
    CxrError
        If git refuses the repository because it belongs to another user.
    """
    try:
        return run(folder, *arguments, env=env)
    except CxrError as error:
        if match := TRUST_COMMAND.search(str(error)):
            raise CxrError(
                f"git does not trust {folder}, which belongs to another user; run `{match[0]}`"
            ) from None
        return None
