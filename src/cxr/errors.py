"""Errors for people, each one line, and how text from a file may be shown."""

from __future__ import annotations

import errno
import getpass
import os
import re
import sys
from pathlib import Path
from types import TracebackType

# In an address, as of a database, a proxy or a remote.
PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*):[^\s'\"]*@", re.IGNORECASE)
MOST_SHOWN = 1000  # characters of one message; a file may hold a name of a gigabyte
DISK_ERRNOS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
)
# The words of the dynamic linker, the system and torch.
OUT_OF_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory")
# numpy's own words for a full disk, which come without an errno.
WRITTEN_IN_PART = re.compile(r"\d+ requested and \d+ written")


class CxrError(Exception):
    """Bad input or a call that can't be served; one line that names the problem and the fix.

    Stages and the command line print that line to stderr and exit with status 2. Any other
    exception that reaches a person is a defect. Names out of a file are shown as `shown` has them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


def is_from_system(error: OSError) -> bool:
    """Whether the operating system raised it: libraries derive their own from OSError.

    They come without an errno (Pillow, requests, shutil) or with a number of another list (ssl).
    """
    return type(error).__module__ == "builtins" and isinstance(error.errno, int)


def is_refused_by_disk(error: OSError) -> bool:
    """Whether a disk is full, damaged or may not be read or written; any other is a defect."""
    if is_from_system(error):
        return error.errno in DISK_ERRNOS
    return type(error) is OSError and WRITTEN_IN_PART.fullmatch(str(error)) is not None


def one_line(error: BaseException) -> str:
    """The first line of what an exception says; the name of its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def without_passwords(text: str) -> str:
    """A text with `***` for the password of every address in it."""
    return PASSWORD.sub(r"\1:***@", text)


def shown(text: str) -> str:
    """A text in one line that commands no terminal and holds no password.

    What does not print (line ends, escape sequences, marks that turn the direction of writing, lone
    surrogates) stands as its escape, and of a long text the middle is left out.
    """
    text = without_passwords(text)
    if len(text) > MOST_SHOWN:
        text = f"{text[: MOST_SHOWN // 2]} … {text[-MOST_SHOWN // 2 :]}"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is used up or limited; many libraries say so by name or in words alone."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, (ImportError, OSError, RuntimeError))
            and any(each in str(error) for each in OUT_OF_MEMORY)
        )
    )


def user_problem() -> tuple[str, str] | None:
    """What a user without a passwd entry lacks, as in many containers, and the command to set it.

    DVC and MLflow ask for a home folder and a name, and end in a traceback where there is none.
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
    """CxrError where DVC would fail for lack of a home folder or a name."""
    if problem := user_problem():
        raise CxrError(f"{problem[0]}; run `{problem[1]}`")


def excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Replaces `sys.excepthook`: what stops even an import is one line and status 2.

    That is too little memory for torch, and a user without a home, before a stage or a command
    starts.
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
