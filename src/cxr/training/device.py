"""Seed, threads, determinism and choice of device; set up before any tensor operation."""

import os

import torch

from cxr.params import Params


def set_up_device(params: Params) -> str:
    """Set seed, threads and determinism; return the device: a GPU if there is one.

    The name of the GPU follows `cuda`, because other GPU models can round differently.
    """
    make_deterministic(params.seed)
    torch.set_num_threads(params.threads)
    return f"cuda {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"


def make_deterministic(seed: int) -> None:
    """Seed torch's random state and allow only deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS deterministic
    torch.manual_seed(seed)
    # As use_deterministic_algorithms(True), but without importing torch's compiler for 2 s.
    torch.set_deterministic_debug_mode("error")
    # All memory is written before it is read; filling it first would take 7% of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
