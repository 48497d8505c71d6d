"""Every result on one HTML page that opens offline."""

from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from cxr import formatting
from cxr.documents import write_atomically
from cxr.errors import CxrError
from cxr.paths import REPORTS
from cxr.report import content

NAME = "index.html"
DIGITS = 3


def write(project: Path) -> Path:
    """Write `reports/index.html` from what stands in a working copy; CxrError where nothing does.

    It shows what is there and makes nothing anew, so that its numbers are those of the stages.
    """
    try:
        page = _environment().get_template("page.html.j2").render(report=content.gather(project))
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise CxrError(
            f"what stands in {project / REPORTS} can't be shown "
            f"({type(error).__name__}: {error}); `cxr audit` names what was changed, "
            "`dvc repro` makes it again"
        ) from None
    path = project / REPORTS / NAME
    write_atomically(path, page.encode())
    return path


def _environment() -> Environment:
    """Everything from a file is escaped, and a name that is not there is a bug."""
    made = Environment(
        loader=PackageLoader("cxr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": partial(formatting.number, digits=DIGITS),
        "percent": formatting.percent,
        "interval": partial(formatting.interval, digits=DIGITS),
        "signed": partial(formatting.signed, digits=DIGITS),
        "p": formatting.p_value,
    }
    return made
