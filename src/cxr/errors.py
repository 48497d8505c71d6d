"""One-line errors for users, and safe display of text from files."""

from __future__ import annotations

import errno
import getpass
import os
import re
import sys
from pathlib import Path
from types import TracebackType

# In a URL, such as of a database, a proxy or a remote.
PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*):[^\s'\"]*@", re.IGNORECASE)
MOST_SHOWN = 1000  # characters of a message; a name in a file can be a gigabyte long
DISK_ERRNOS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
)
# In messages of the dynamic linker, the operating system and torch.
OUT_OF_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory")
# numpy's message for a full disk, which has no errno.
WRITTEN_IN_PART = re.compile(r"\d+ requested and \d+ written")


class CxrError(Exception):
    """Bad input or an unusable environment; one line that names the problem and the fix.

    Stages and the command line print that line to stderr and exit with status 2. Any other
    exception that reaches a user is a bug. `shown` makes text from files safe to print.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


def is_from_system(error: OSError) -> bool:
    """Whether the error comes from the operating system.

    Libraries also derive errors from OSError: without an errno (Pillow, requests, shutil), or with
    error numbers of their own (ssl).
    """
    return type(error).__module__ == "builtins" and isinstance(error.errno, int)


def is_refused_by_disk(error: OSError) -> bool:
    """Whether a disk is full or damaged, or access is denied; any other OSError is a bug."""
    if is_from_system(error):
        return error.errno in DISK_ERRNOS
    return type(error) is OSError and WRITTEN_IN_PART.fullmatch(str(error)) is not None


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def without_passwords(text: str) -> str:
    """Replace the password in every URL by `***`."""
    return PASSWORD.sub(r"\1:***@", text)


def shown(text: str) -> str:
    """Make text safe to print: one line, without terminal control sequences and passwords.

    Unprintable characters (line breaks, escape sequences, bidirectional marks, lone surrogates) are
    escaped, and the middle of a long text is left out.
    """
    text = without_passwords(text)
    if len(text) > MOST_SHOWN:
        text = f"{text[: MOST_SHOWN // 2]} … {text[-MOST_SHOWN // 2 :]}"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; many libraries show it only by the error's name or message."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, (ImportError, OSError, RuntimeError))
            and any(each in str(error) for each in OUT_OF_MEMORY)
        )
    )


def user_problem() -> tuple[str, str] | None:
    """The problem and the fix if the user has no home folder or name, as in many containers.

    DVC and MLflow need both, and fail with a traceback without them.
    """
    settings = []
    try:
        Path.home()
    except RuntimeError:
        settings.append("HOME=/tmp")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # an OSError since Python 3.13
        settings.append("USER=cxr")
    if not settings:
        return None
    names = " and ".join(each.partition("=")[0] for each in settings)
    return (
        f"user {os.getuid()} has no passwd entry, and DVC and MLflow need {names} to be set",
        f"export {' '.join(settings)}",
    )


def check_user() -> None:
    """Raise CxrError if DVC would fail because the user has no home folder or name."""
    if problem := user_problem():
        raise CxrError(f"{problem[0]}; run `{problem[1]}`")


def excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Replace `sys.excepthook`: errors that stop an import become one line and exit status 2.

    These are too little memory to import torch, and a user without a home folder.
    """
    if is_out_of_memory(error):
        reason = f": {error}" if str(error) else ""
        problem = f"out of memory{reason}"
        fix = "raise the memory limit (`ulimit -v`, or the container's) or close other programs"
    elif isinstance(error, (RuntimeError, KeyError, OSError)) and (user := user_problem()):
        problem, fix = user[0], f"run `{user[1]}`"
    else:
        sys.__excepthook__(kind, error, trace)
        return
    name = os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem
    print(shown(f"{name}: {problem}; {fix}"), file=sys.stderr)
    sys.exit(2)
