"""Errors for people."""


class CxrError(Exception):
    """Bad input or a call that can't be served; its text is one line that names what and the mend.

    Stages and the command line print that line to stderr and exit with status 2. Any other
    exception that reaches a person is a defect.
    """
