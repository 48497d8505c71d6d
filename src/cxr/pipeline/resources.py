"""What a stage takes of the machine; MLflow shows it among a run's system metrics."""

import os
import resource
import time


class Meter:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._processor, self._wall = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        """Seconds since the start, cores that were busy on average, and the most memory by now.

        Memory counts mapped files, too, as the system itself counts it.
        """
        processor = time.process_time() - self._processor
        seconds = time.monotonic() - self._wall
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "system/seconds": seconds,
            "system/cores_busy": processor / seconds,
            "system/cores": float(len(os.sched_getaffinity(0))),
            "system/peak_memory_megabytes": kilobytes * 1024 / 1e6,
        }
