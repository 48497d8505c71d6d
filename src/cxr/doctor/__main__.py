"""`python -m cxr.doctor`: as `cxr doctor`, where the packages of `cxr` itself may be missing."""

import io
import sys
from pathlib import Path

from cxr.doctor import examine, find_project, has_blockers
from cxr.doctor.finding import tell
from cxr.errors import CxrError

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    try:
        findings = examine(find_project(Path.cwd()))
    except CxrError as error:
        print(f"cxr: {error}", file=sys.stderr)
        sys.exit(2)
    tell(findings)
    sys.exit(int(has_blockers(findings)))
