"""Tracking that never costs a result: what MLflow does not take, the record keeps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.lineage.run_log import RunLog
from cxr.tracking.tracker import Tracker


class BestEffort:
    """A Tracker that a stage can trust: its first failure is told, and it then keeps silent."""

    def __init__(self, root: Path, experiment: str, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._tracker: Tracker | None = None
        with self._tried():
            self._tracker = Tracker(root, experiment)

    def start(self, log: RunLog) -> None:
        """As `Tracker.start`; where it fails, `log` keeps the id that it has."""
        if self._tracker is not None:
            with self._tried():
                self._tracker.start(log)

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        """As `Tracker.log_epoch`."""
        if self._tracker is not None:
            with self._tried():
                self._tracker.log_epoch(log, values)

    def abandon(self, log: RunLog, status: str, reason: str, printed: Path) -> None:
        """As `Tracker.abandon`."""
        if self._tracker is not None:
            with self._tried():
                self._tracker.abandon(log, status, reason, printed)

    def finish(
        self, log: RunLog, tags: dict[str, str], file: Callable[[str], Path | None], at: int
    ) -> None:
        """As `Tracker.finish`."""
        if self._tracker is not None:
            with self._tried():
                self._tracker.finish(log, tags, file, at=at)

    @contextmanager
    def _tried(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it is not worth a result
            self._tracker = None
            self._tell(
                f"note: {error}; the work goes on, its result and record are kept, and `cxr sync` "
                "tells MLflow later"
            )
