"""Files of weights: written, read and checked."""

import pickle  # for the name of its error alone  # nosec B403
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cxr.errors import CxrError, one_line

MOST_WEIGHTS_BYTES = 2**30  # of a file; SqueezeNet's have 5 MB
ZIP = b"PK\x03\x04"


def write_weights(network: nn.Module, path: Path) -> None:
    """A network's state as safetensors."""
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    path.write_bytes(to_safetensors(state))


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file, or from a torch file of nothing but tensors."""
    fill(network, read_weights(path), str(path))


def read_weights(path: Path) -> object:
    """Read a file of weights; CxrError where it can't be read or would run code."""
    try:
        if not path.is_file() and path.exists():
            raise CxrError(f"{path} is not a file of weights")
        if path.stat().st_size > MOST_WEIGHTS_BYTES:
            raise CxrError(f"{path} has more than {MOST_WEIGHTS_BYTES:,} bytes")
        if path.suffix == ".safetensors":
            return load_file(path)
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP  # as torch tells its two kinds of file apart
        if is_zip and _is_compressed(path):
            raise CxrError(f"{path} is not packed as torch.save packs; save it with torch.save")
        # Mapped: without mmap, torch reads beyond the end of a storage that states a wrong length.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CxrError:
        raise
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist") from None
    except pickle.UnpicklingError:  # torch's own text advises to load the file all the same
        raise CxrError(
            f"{path} is not a file of plain tensors and is not loaded; save the network's "
            "state_dict alone"
        ) from None
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise CxrError(f"{path} holds no weights that can be read: {one_line(error)}") from None


def fill(network: nn.Module, state: object, where: str) -> None:
    """Copy a mapping of tensors into a network; CxrError where names or shapes are another's."""
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CxrError(f"{where} holds no mapping of names to tensors")
    if difference := _first_difference(network, state):
        raise CxrError(f"{where} holds the weights of another network: {difference}")
    if broken := [key for key, value in state.items() if not _is_finite(value)]:
        raise CxrError(f"{where} holds values that are no finite real numbers, in `{broken[0]}`")
    network.load_state_dict(state)


def _is_compressed(path: Path) -> bool:
    """Whether a zip file must be unpacked, which mmap does not do and which may fill the memory."""
    with zipfile.ZipFile(path) as archive:
        return any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist())


def _is_finite(value: Tensor) -> bool:
    return not value.is_complex() and bool(torch.isfinite(value).all())


def _first_difference(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    own = network.state_dict()
    for key, value in own.items():
        if key not in state:
            return f"`{key}` is missing"
        if state[key].shape != value.shape:
            return f"`{key}` is {tuple(state[key].shape)}, {tuple(value.shape)} is needed"
        for what in ("layout", "is_meta", "is_quantized"):
            found, needed = getattr(state[key], what), getattr(value, what)
            if found != needed:
                return f"`{key}` has {what} {found}, {needed} is needed"
    surplus = [key for key in state if key not in own]
    return f"`{surplus[0]}` is not part of this one" if surplus else None
