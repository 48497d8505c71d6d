"""Tracking whose failures never lose a result: the record keeps what MLflow does not get."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.lineage.run_log import RunLog
from cxr.tracking.tracker import Tracker


class BestEffort:
    """A Tracker that reports its first failure and then ignores all further calls."""

    def __init__(self, root: Path, experiment: str, report: Callable[[str], None]) -> None:
        self._report = report
        self._tracker: Tracker | None = None
        with self._guarded():
            self._tracker = Tracker(root, experiment)

    def start(self, log: RunLog) -> None:
        """As `Tracker.start`; after a failure `log` keeps its id."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.start(log)

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """As `Tracker.log_epoch`."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.log_epoch(log, values)

    def abandon(self, log: RunLog, status: str, reason: str, printed: Path) -> None:
        """As `Tracker.abandon`."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.abandon(log, status, reason, printed)

    def finish(
        self, log: RunLog, tags: dict[str, str], locate: Callable[[str], Path | None], end_time: int
    ) -> None:
        """As `Tracker.finish`."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.finish(log, tags, locate, end_time=end_time)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a tracking failure must never lose a result
            self._tracker = None
            self._report(
                f"note: {error}; the stage continues and its result and record are kept; run "
                "`cxr sync` to log it to MLflow later"
            )
