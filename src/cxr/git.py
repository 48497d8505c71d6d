"""The git program: what it prints.

It runs in the project's folder, which may be any folder of a larger repository. Paths given to git
and printed by it are relative to that folder, never to the top of the repository.
"""

import os
import re
import subprocess
from pathlib import Path

from cxr.errors import CxrError

# Set by git for its hooks; with these it would use another repository or index than the folder's.
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE")
# The command in git's refusal, which has the path of the repository's top.
TRUST = re.compile(r"git config .*safe\.directory .*")


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """What git prints; CxrError with git's own last line where it fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
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
        if found := TRUST.search(str(error)):
            raise CxrError(
                f"git does not trust {folder}, which belongs to another user; run `{found[0]}`"
            ) from None
        return None
