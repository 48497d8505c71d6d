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

__all__ = ["app", "ask", "main", "run", "share"]  # importing a module registers its commands

# Errors of a path on the command line, or of a file that the clone lacks.
PATH_ERRNOS = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
)


def main() -> None:
    """Entry point: an error of the user is one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals without Unicode
    try:
        status = app(standalone_mode=False)
    except CxrError as error:
        _fail(str(error))
    except TyperException as error:  # such as an unknown option, or a word for a number
        message = error.format_message().rstrip(".")
        if not message:  # `cxr` without arguments has printed its help
            sys.exit(2)
        _fail(f"{message}; see `cxr --help` or `cxr COMMAND --help`")
    except BrokenPipeError:  # `cxr audit | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if not (is_refused_by_disk(error) or _is_path_error(error)):
            raise
        _fail(f"{error.filename or 'while writing'}: {error.strerror or error}")
    except (Abort, KeyboardInterrupt):
        status = STOPPED
    if status == STOPPED:  # also typer's own status after Ctrl-C
        print("cxr: stopped", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _is_path_error(error: OSError) -> bool:
    return is_from_system(error) and error.errno in PATH_ERRNOS and error.filename is not None


def _fail(reason: str) -> NoReturn:
    print(f"cxr: {shown(reason)}", file=sys.stderr)
    sys.exit(2)
