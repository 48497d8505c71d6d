"""Files of weights: written, read and checked."""

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cxr.errors import CxrError

MOST_WEIGHTS_BYTES = 2**30  # of a file; SqueezeNet's have 5 MB
MOST_PICKLE_BYTES = 2**22  # of the names and shapes in a torch file; SqueezeNet's have 5 kB
# All that a pickle of plain tensors calls; others that torch allows take memory for the asking.
PLAIN = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
    }
)
STORAGE = re.compile("torch [A-Z][A-Za-z0-9]*Storage")  # of one type: torch FloatStorage
ZIP = b"PK\x03\x04"


def write_weights(network: nn.Module, path: Path) -> None:
    """A network's state as safetensors."""
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    path.write_bytes(to_safetensors(state))


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file, or from a torch file of nothing but tensors."""
    fill(network, read_weights(path), str(path))


def read_weights(path: Path) -> object:
    """What a file of weights holds; CxrError where it can't be read or would run code."""
    try:
        n_bytes = path.stat().st_size
        if not path.is_file() or n_bytes > MOST_WEIGHTS_BYTES:
            raise CxrError(
                f"{path} is no file of weights, or has more than {MOST_WEIGHTS_BYTES:,} bytes"
            )
        if path.suffix == ".safetensors":
            return load_file(path)
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP  # as torch tells its two kinds of file apart
        (_check_zip if is_zip else _check_old)(path, n_bytes)
        # Mapped: a storage that says it is longer than the file's is refused, and not read beyond.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CxrError:
        raise
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist") from None
    except Exception as error:  # a file that is no such thing raises whatever its bytes lead to
        raise CxrError(f"{path} holds no weights that can be read: {_short(error)}") from None


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


def _check_zip(path: Path, n_bytes: int) -> None:
    """CxrError where unpacking a torch file would take more memory than it, or call anything."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = any(each.compress_type != zipfile.ZIP_STORED for each in members)
        pickles = [each for each in members if each.filename.endswith(".pkl")]
        if packed or sum(each.file_size for each in members) > n_bytes or not pickles:
            raise CxrError(f"{path} is not packed as torch.save packs; save it with torch.save")
        if any(each.file_size > MOST_PICKLE_BYTES for each in pickles):
            raise CxrError(f"{path} names more tensors than any network has")
        for each in pickles:
            _check_pickle(path, io.BytesIO(archive.read(each)))


def _check_old(path: Path, n_bytes: int) -> None:
    """The same for a file from before torch 1.6: a row of pickles, and then the numbers."""
    with open(path, "rb") as file:
        head = io.BytesIO(file.read(MOST_PICKLE_BYTES))
    for _ in ("magic number", "protocol", "system"):
        _check_pickle(path, head)
    for _ in ("tensors", "names of the storages"):
        # A storage is laid out as long as it says, before its numbers are read.
        if _check_pickle(path, head) > n_bytes:
            raise CxrError(f"{path} states more numbers than it holds; get the file again")


def _check_pickle(path: Path, content: io.BytesIO) -> int:
    """CxrError where it calls more than plain tensors need; the greatest number in it.

    It is read, and not run.
    """
    greatest = 0
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name == "STACK_GLOBAL":
            argument = "a name that it makes up"
        elif name not in ("GLOBAL", "INST"):
            greatest = max(greatest, argument) if isinstance(argument, int) else greatest
            continue
        if argument not in PLAIN and not STORAGE.fullmatch(str(argument)):
            raise CxrError(
                f"{path} is no file of plain tensors and is not loaded, since it calls "
                f"{argument}; save the network's state_dict alone"
            )
    return greatest


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


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
