"""The report: every result on one HTML page that works offline."""

from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from cxr import formatting
from cxr.documents import write_whole
from cxr.errors import CxrError
from cxr.paths import REPORTS
from cxr.report import content

NAME = "index.html"
DIGITS = 3


def write(project: Path) -> Path:
    """Write `reports/index.html` from the results in a working copy; CxrError if there are none.

    Nothing is computed again, so the page has the stages' own numbers.
    """
    try:
        page = _environment().get_template("page.html.j2").render(report=content.gather(project))
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise CxrError(
            f"the results in {project / REPORTS} can't be shown "
            f"({type(error).__name__}: {error}); `cxr audit` lists changed files, "
            "`dvc repro` makes them again"
        ) from None
    path = project / REPORTS / NAME
    write_whole(path, page.encode())
    return path


def _environment() -> Environment:
    """Templates in which all values are escaped and an undefined name is an error."""
    environment = Environment(
        loader=PackageLoader("cxr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": partial(formatting.number, digits=DIGITS),
        "percent": formatting.percent,
        "interval": partial(formatting.interval, digits=DIGITS),
        "signed": partial(formatting.signed, digits=DIGITS),
        "p": formatting.p_value,
    }
    return environment
