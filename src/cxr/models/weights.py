"""Write, read and check weights files."""

import pickle  # only for its exception class  # nosec B403
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cxr.errors import CxrError, one_line

MAX_WEIGHTS_BYTES = 2**30  # per file; SqueezeNet's weights have 5 MB
ZIP = b"PK\x03\x04"


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state as safetensors."""
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    path.write_bytes(to_safetensors(state))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a network's weights from a safetensors file or from a torch file of plain tensors."""
    fill(network, read_weights(path), str(path))


def read_weights(path: Path) -> object:
    """Read a weights file; CxrError if it cannot be read or would run code."""
    try:
        if not path.is_file() and path.exists():
            raise CxrError(f"{path} is not a regular file; expected a weights file")
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise CxrError(f"{path} is larger than the limit of {MAX_WEIGHTS_BYTES:,} bytes")
        if path.suffix == ".safetensors":
            return load_file(path)
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP  # torch distinguishes its two formats the same way
        if is_zip and _is_compressed(path):
            raise CxrError(f"{path} is a compressed zip file; save the weights with torch.save")
        # Without mmap, torch reads beyond the end of a storage that states a wrong length.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CxrError:
        raise
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist") from None
    except pickle.UnpicklingError:  # torch's own message advises loading the file anyway
        raise CxrError(
            f"{path} is not a file of plain tensors, so it was not loaded; save only the "
            "network's state_dict"
        ) from None
    except Exception as error:  # a damaged file can raise any exception
        raise CxrError(f"{path} is not a readable weights file: {one_line(error)}") from None


def fill(network: nn.Module, state: object, source: str) -> None:
    """Copy a mapping of tensors into a network; CxrError if names, shapes or values do not fit.

    Parameters
    ----------
    source : where the state comes from, for error messages.
    """
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CxrError(f"{source} does not contain a mapping of names to tensors")
    if difference := _first_difference(network, state):
        raise CxrError(f"{source} contains the weights of another network: {difference}")
    if invalid := [key for key, value in state.items() if not _is_finite(value)]:
        raise CxrError(
            f"{source} contains values that are not finite real numbers, in `{invalid[0]}`"
        )
    network.load_state_dict(state)


def _is_compressed(path: Path) -> bool:
    """Whether a zip file is compressed, so that mmap cannot read it and it may fill the memory."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _is_finite(value: Tensor) -> bool:
    return not value.is_complex() and bool(torch.isfinite(value).all())


def _first_difference(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    own = network.state_dict()
    for key, value in own.items():
        if key not in state:
            return f"`{key}` is missing"
        if state[key].shape != value.shape:
            return f"`{key}` is {tuple(state[key].shape)}; expected {tuple(value.shape)}"
        for name in ("layout", "is_meta", "is_quantized"):
            actual, expected = getattr(state[key], name), getattr(value, name)
            if actual != expected:
                return f"`{key}` has {name} {actual}; expected {expected}"
    surplus = [key for key in state if key not in own]
    return f"`{surplus[0]}` is not part of this network" if surplus else None
