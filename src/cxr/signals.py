"""Ctrl-C, SIGTERM, SIGHUP and Ctrl-Z while work is under way."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130  # the exit status, as a shell has it of Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Signals:
    """What has come; a process has one set of signal handlers."""

    def __init__(self) -> None:
        self.waits = False  # the work is at a point where it must not be broken off
        self.came = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.waits or self.came:  # a second one is in earnest
            raise KeyboardInterrupt
        self.came = True


_signals = _Signals()


@contextmanager
def heeded() -> Iterator[None]:
    """Each signal raises KeyboardInterrupt; one that the process ignores stays ignored."""
    earlier = {
        each: signal.signal(each, _signals.handle)
        for each in SIGNALS
        if signal.getsignal(each) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Let work come to a point where it can stop; a second signal breaks it off all the same.

    Yields
    ------
    Tells whether a signal has come. The work then raises KeyboardInterrupt as soon as it can;
    where it ends first, leaving does.
    """
    _signals.waits, _signals.came = True, False
    try:
        yield lambda: _signals.came
    finally:
        _signals.waits = False
    if _signals.came:
        raise KeyboardInterrupt


@contextmanager
def suspended_together(send: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Ctrl-Z suspends what was started in process groups of its own, too, and `fg` resumes it.

    A terminal sends its signals to the foreground's group alone.

    Parameters
    ----------
    send : sends a signal to those groups.
    """

    def suspend(signum: int, frame: FrameType | None) -> None:
        send(signal.SIGSTOP)  # a group without a terminal would ignore SIGTSTP
        os.kill(os.getpid(), signal.SIGSTOP)

    def resume(signum: int, frame: FrameType | None) -> None:
        send(signal.SIGCONT)

    if signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN:
        yield
        return
    earlier = {
        signal.SIGTSTP: signal.signal(signal.SIGTSTP, suspend),
        signal.SIGCONT: signal.signal(signal.SIGCONT, resume),
    }
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)
