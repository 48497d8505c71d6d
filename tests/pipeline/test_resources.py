"""Resource usage is measured correctly for known work."""

import os
import time

import numpy as np
import pytest

from cxr.pipeline.resources import ResourceUsage


def test_a_busy_process_uses_one_core_and_a_sleeping_one_none() -> None:
    usage = ResourceUsage()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    busy = usage.read()
    assert busy["system/cores_busy"] * busy["system/seconds"] == pytest.approx(0.3, abs=0.1)
    sleeping = ResourceUsage()
    time.sleep(0.3)
    assert sleeping.read()["system/cores_busy"] < 0.2
    assert busy["system/cores"] == len(os.sched_getaffinity(0))


def test_allocated_memory_counts() -> None:
    usage = ResourceUsage()
    before = usage.read()["system/peak_memory_megabytes"]
    megabytes = before + 100
    np.ones(int(megabytes * 1e6), np.uint8)
    assert usage.read()["system/peak_memory_megabytes"] >= megabytes
