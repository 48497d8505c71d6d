"""Seed, threads and determinism, set before any tensor work."""

import os

import torch

from cxr.params import Params


def set_up_device(params: Params) -> str:
    """Seed and threads set before any tensor work; the device, a GPU where there is one.

    Behind `cuda` stands the GPU's name, since another kind can round differently.
    """
    make_deterministic(params.seed)
    torch.set_num_threads(params.threads)
    return f"cuda {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"


def make_deterministic(seed: int) -> None:
    """Every random number of torch from `seed`, and only kernels that repeat their bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself with it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # All memory is written before it is read; to fill it first takes 7 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
