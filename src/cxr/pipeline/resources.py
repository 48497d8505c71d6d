"""The GPUs of this machine, and the resources that a stage used, as MLflow's system metrics."""

import os
import resource
import subprocess
import time
from contextlib import suppress

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them; asking torch would take a second."""
    visible = os.environ.get(VISIBLE_GPUS)
    if visible is not None:
        return [each for each in visible.split(",") if each]
    with suppress(OSError, subprocess.CalledProcessError):
        listing = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, text=True)
        return [str(n) for n in range(listing.stdout.count("GPU "))]
    return []


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
