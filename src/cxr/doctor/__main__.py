"""`python -m cxr.doctor`: like `cxr doctor`, but works if dependencies are missing."""

import io
import sys
from pathlib import Path

from cxr.doctor import examine, find_project, has_blockers
from cxr.doctor.finding import print_findings
from cxr.errors import CxrError

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal's encoding may lack characters.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        findings = examine(find_project(Path.cwd()))
    except CxrError as error:
        print(f"cxr: {error}", file=sys.stderr)
        sys.exit(2)
    print_findings(findings)
    sys.exit(int(has_blockers(findings)))
