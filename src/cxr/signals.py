"""Handle Ctrl-C, SIGTERM, SIGHUP and Ctrl-Z during long work."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130  # exit status after Ctrl-C, as in a shell
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class _State:
    """The signals received; a process has one set of signal handlers."""

    def __init__(self) -> None:
        self.delays = False  # whether signals are delayed
        self.received = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.delays or self.received:  # a second signal is not delayed
            raise KeyboardInterrupt
        self.received = True


_state = _State()


@contextmanager
def handled(
    handler: Handler = _state.handle, signals: Iterable[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """Install a signal handler, and restore the earlier ones at the end.

    A signal that the process ignores, such as SIGHUP under nohup, stays ignored.

    Parameters
    ----------
    handler : raises KeyboardInterrupt by default, later if within `delayed`.
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
    """Delay a signal until the work can stop safely; a second signal interrupts it immediately.

    Yields
    ------
    A function that returns whether a signal was received. If so, the work should raise
    KeyboardInterrupt as soon as it can; otherwise it is raised at the end of this context.
    """
    _state.delays, _state.received = True, False
    try:
        yield lambda: _state.received
    finally:
        _state.delays = False
    if _state.received:
        raise KeyboardInterrupt


@contextmanager
def suspended_together(send: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let Ctrl-Z also suspend child process groups, and `fg` resume them.

    A terminal sends signals to the foreground process group only.

    Parameters
    ----------
    send : sends a signal to the child process groups.
    """

    def suspend(signum: int, frame: FrameType | None) -> None:
        send(signal.SIGSTOP)  # a group without a terminal would ignore SIGTSTP
        os.kill(os.getpid(), signal.SIGSTOP)

    def resume(signum: int, frame: FrameType | None) -> None:
        send(signal.SIGCONT)

    with handled(suspend, [signal.SIGTSTP]), handled(resume, [signal.SIGCONT]):
        yield
