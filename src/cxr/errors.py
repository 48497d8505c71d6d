"""Errors for people, and how a text from a file may be shown to them."""

from __future__ import annotations

import errno
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
# numpy's own words for a full disk, which come without an errno.
# The words of the dynamic linker, the system and torch.
OUT_OF_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory")
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


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replaces `sys.excepthook`: running out of memory is one line and status 2.

    Even the import of torch can run out of memory, before a stage or a command starts.
    """
    if not is_out_of_memory(error):
        sys.__excepthook__(kind, error, trace)
        return
    name = os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem
    reason = f": {error}" if str(error) else ""
    fix = "raise its limit (`ulimit -v`, the container's) or close other programs"
    print(shown(f"{name}: out of memory{reason}; {fix}"), file=sys.stderr)
    sys.exit(2)
