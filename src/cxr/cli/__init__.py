"""The `cxr` command."""

import errno
import io
import os
import sys
from typing import NoReturn

from typer.exceptions import Abort, TyperException

from cxr.cli import ask, run, share
from cxr.cli.app import app
from cxr.errors import CxrError, is_from_system, is_refused_by_disk, shown
from cxr.signals import STOPPED

__all__ = ["app", "ask", "main", "run", "share"]  # a room's commands are there once it is imported

# Of a path that a call names, or of a file that is missing from the clone.
PATH_ERRNOS = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
)


def main() -> None:
    """Entry point: what is wrong with a call is one line and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    try:
        status = app(standalone_mode=False)
    except CxrError as error:
        _refuse(str(error))
    except TyperException as error:  # the call itself: an unknown option, a word for a number
        said = error.format_message().rstrip(".")
        if not said:  # `cxr` alone has shown its help
            sys.exit(2)
        _refuse(f"{said}; `cxr --help` and `cxr COMMAND --help` tell more")
    except BrokenPipeError:  # `cxr audit | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if not (is_refused_by_disk(error) or _is_of_path(error)):
            raise
        _refuse(f"{error.filename or 'while writing'}: {error.strerror or error}")
    except (Abort, KeyboardInterrupt):
        status = STOPPED
    if status == STOPPED:  # what typer makes of Ctrl-C
        print("cxr: stopped", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _is_of_path(error: OSError) -> bool:
    return is_from_system(error) and error.errno in PATH_ERRNOS and error.filename is not None


def _refuse(reason: str) -> NoReturn:
    print(f"cxr: {shown(reason)}", file=sys.stderr)
    sys.exit(2)
