"""Resources used by a stage, logged to MLflow as system metrics."""

import os
import resource
import time


def gpu_uuid() -> str:
    """The UUID of the GPU that torch uses, as nvidia-smi prints it."""
    import torch  # slow, and only stages with a GPU need it

    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


class ResourceUsage:
    """Resources used since this object was created."""

    def __init__(self) -> None:
        self._processor, self._wall = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        """Elapsed seconds, average number of busy cores, and peak memory so far.

        Memory includes mapped files, as the operating system counts it.
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
