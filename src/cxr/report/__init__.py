"""Every result on one HTML page that opens offline."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from cxr.errors import CxrError
from cxr.report import content

NAME = "index.html"


def write(project: Path) -> Path:
    """Write `reports/index.html` from what stands in a working copy; CxrError where nothing does.

    It shows what is there and makes nothing anew, so that its numbers are those of the stages.
    """
    try:
        page = _environment().get_template("page.html.j2").render(report=content.gather(project))
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise CxrError(
            f"what stands in {project / content.REPORTS} can't be shown "
            f"({type(error).__name__}: {error}); `cxr audit` names what was changed, "
            "`dvc repro` makes it again"
        ) from None
    path = project / content.REPORTS / NAME
    part = path.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
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
        "number": _number,
        "percent": _percent,
        "interval": _interval,
        "signed": _signed,
        "p": _p,
    }
    return made


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "undefined" if value is None else f"{100 * value:.{digits}f} %"


def _interval(value: list[float] | None, digits: int = 3) -> str:
    return "" if value is None else f"[{value[0]:.{digits}f}, {value[1]:.{digits}f}]"


def _signed(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:+.{digits}f}"


def _p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
