"""Ctrl-C, SIGTERM, SIGHUP and Ctrl-Z while work is under way."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130  # the exit status, as a shell has it of Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class _State:
    """Which signals have come; a process has one set of signal handlers."""

    def __init__(self) -> None:
        self.delays = False  # the work must not be interrupted now
        self.came = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.delays or self.came:  # a second signal is not delayed
            raise KeyboardInterrupt
        self.came = True


_state = _State()


@contextmanager
def handled(
    handler: Handler = _state.handle, signals: Iterable[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """Install a signal handler, and restore the earlier ones at the end.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored.

    Parameters
    ----------
    handler : default: raise KeyboardInterrupt, or wait for `delayed`.
    """
    earlier = {
        each: signal.signal(each, handler)
        for each in signals
        if signal.getsignal(each) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for each, before in earlier.items():
            signal.signal(each, before)


@contextmanager
def delayed() -> Iterator[Callable[[], bool]]:
    """Let work reach a point where it can stop; a second signal interrupts it at once.

    Yields
    ------
    Whether a signal has come, as a function. The work should then raise KeyboardInterrupt as soon
    as it can; if it ends first, leaving this context does.
    """
    _state.delays, _state.came = True, False
    try:
        yield lambda: _state.came
    finally:
        _state.delays = False
    if _state.came:
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

    with handled(suspend, [signal.SIGTSTP]), handled(resume, [signal.SIGCONT]):
        yield
