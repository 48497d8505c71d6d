"""Errors for people, and how a text from a file may be shown to them."""

MOST_SHOWN = 1000  # characters of one message; a file may hold a name of a gigabyte


class CxrError(Exception):
    """Bad input or a call that can't be served; its text is one line that names what and the mend.

    Stages and the command line print that line to stderr and exit with status 2. Any other
    exception that reaches a person is a defect. Names out of a file are shown as `shown` has them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


def shown(text: str) -> str:
    """A text in one line that commands no terminal.

    What does not print (line ends, escape sequences, marks that turn the direction of writing, lone
    surrogates) stands as its escape, and of a long text the middle is left out.
    """
    if len(text) > MOST_SHOWN:
        text = f"{text[: MOST_SHOWN // 2]} … {text[-MOST_SHOWN // 2 :]}"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
