"""Networks by name: build, save, load. One file a network, found by its name.

Every network is cut in two where Grad-CAM looks: `feature_map(x)` gives (N, C, h, w), and
`classify(feature_map)` gives logits (N, L). `encode` computes the first at the device's precision,
`forward` is `classify` after `encode`. A network gets tensors that `InputSpec` describes and never
sees a path, a parameter file or a device.
"""

import importlib
import io
import json
import pickletools  # it reads what a pickle would do and does none of it  # nosec B403
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cxr.data.splits import Statistics
from cxr.documents import read_json
from cxr.errors import CxrError
from cxr.params import PARAMS_FILE, ModelBlock, ModelParams, model_names, validate

# A pass through a network keeps every layer's output: 1 kB a pixel of the three models here.
PIXELS_AT_ONCE = 2**18

MOST_WEIGHTS_BYTES = 2**30  # of a file; SqueezeNet's have 5 MB
MOST_PARAMETERS = 2**28  # of a network: as float32 what such a file holds
MOST_PICKLE_BYTES = 2**22  # of the names and shapes in a torch file; SqueezeNet's have 5 kB
SIDES = range(1, 1025)  # pixels that an image is brought to
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's
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


@dataclass(frozen=True)
class InputSpec:
    """How a grey uint8 image becomes what the network takes."""

    data_size: int  # pixels of the stored images, to which a foreign image is brought first
    resampling: str  # filter that brings a foreign image to data_size
    image_size: int  # pixels at the network's input; bilinear from data_size where they differ
    channels: int  # a grey image is repeated
    mean: tuple[float, ...]  # per channel, on the scale 0..1
    std: tuple[float, ...]


class Network(nn.Module):
    """What the pipeline asks of a network."""

    def feature_map(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, h, w)
        raise NotImplementedError

    def classify(self, feature_map: Tensor) -> Tensor:  # (N, D, h, w) -> (N, L)
        raise NotImplementedError

    def head(self) -> nn.Linear:
        """The last layer, whose bias starts at the labels' prior."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of matrices that must not decay, such as position embeddings (timm's convention).

        Biases and the weights of norms never decay; they need no name.
        """
        return set()

    def encode(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, h, w)
        """The feature map, computed under autocast and returned in float32.

        A logit in bf16 has 8 significant bits: images that the network ranks apart would tie. So
        `classify` and the loss work in float32 on every device.
        """
        with autocast(x.device):
            return self.feature_map(x).float()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, L)
        return self.classify(self.encode(x))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, float32 on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@dataclass(frozen=True)
class SavedModel:
    """A network with all that is needed to use it on an image: the content of `models/<name>/`."""

    name: str
    network: Network
    input: InputSpec
    labels: tuple[str, ...]
    params: dict[str, Any]  # the model's block, the protocol, seed and threads


def hyper_parameters(name: str, block: ModelBlock) -> ModelParams:
    """The model's block of params.yaml, checked against its own schema."""
    schema = _module(name).Hyper
    return cast(ModelParams, validate(schema, block.model_dump(), ("train", name)))


def build(name: str, hyper: ModelParams, image_size: int, channels: int, n_labels: int) -> Network:
    """A network with fresh weights from torch's global random state; CxrError where it can't be."""
    module = _module(name)
    # Without memory first, and without a draw from the global random state.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            n = n_parameters(module.build(hyper, image_size, channels, n_labels))["total"]
        except (RuntimeError, OverflowError, TypeError):  # more than torch itself counts
            n = MOST_PARAMETERS + 1
    if n > MOST_PARAMETERS:
        raise CxrError(
            f"{PARAMS_FILE}: train.{name} asks for a network of more than {MOST_PARAMETERS:,} "
            "parameters; make it smaller"
        )
    return cast(Network, module.build(hyper, image_size, channels, n_labels))


def input_spec(name: str, hyper: ModelParams, data_size: int, statistics: Statistics) -> InputSpec:
    """The input that the model asks for, given the size and statistics of the training images."""
    spec = _module(name).input_spec(hyper, data_size, statistics)
    return cast(InputSpec, spec)


def save(model: SavedModel, folder: Path) -> None:
    """Write `weights.safetensors` and `model.json`; equal models give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(model.network, folder / "weights.safetensors")
    description = {
        "name": model.name,
        "labels": model.labels,
        "input": asdict(model.input),
        "params": model.params,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def load(folder: Path) -> SavedModel:
    """A saved model, on the CPU and in evaluation mode."""
    path = folder / "model.json"
    try:
        description = read_json(path)
        name, params = str(description["name"]), dict(description["params"])
        block = ModelBlock.model_validate(params["train"][name], strict=False)
        spec = _input_spec(**description["input"])
        labels = tuple(map(str, description["labels"]))
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; `dvc repro` makes it") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CxrError(f"{path} is damaged; `dvc repro` makes it again") from None
    network = build(
        name, hyper_parameters(name, block), spec.image_size, spec.channels, len(labels)
    )
    load_weights(network, folder / "weights.safetensors")
    return SavedModel(name, network.eval(), spec, labels, params)


def at_once(image_size: int) -> int:
    """How many images of a size go through a network in one pass, for memory's sake.

    Hundreds at 28 px; 5 at 224 px, where a batch of 128 would take 5 GB.
    """
    return max(1, PIXELS_AT_ONCE // image_size**2)


def passes(inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs (N, C, S, S) in parts that go through a network at once."""
    return torch.split(inputs, at_once(inputs.shape[-1]))


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


def n_parameters(network: nn.Module) -> dict[str, int]:
    """Number of parameters, in all and trainable."""
    return {
        "total": sum(p.numel() for p in network.parameters()),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def _module(name: str) -> Any:
    if name not in model_names():
        raise CxrError(f"there is no model `{name}`")
    return importlib.import_module(f"cxr.models.{name}")


def _input_spec(
    data_size: int, resampling: str, image_size: int, channels: int, mean: Any, std: Any
) -> InputSpec:
    """As `model.json` holds it; ValueError where no network takes such an input."""
    spec = InputSpec(
        data_size, resampling, image_size, channels, tuple(map(float, mean)), tuple(map(float, std))
    )
    sizes = (spec.data_size, spec.image_size)
    if any(type(size) is not int or size not in SIDES for size in sizes):
        raise ValueError("a size that no image has")
    if spec.channels not in (1, 3) or {len(spec.mean), len(spec.std)} != {spec.channels}:
        raise ValueError("other channels than mean and std")
    if spec.resampling not in RESAMPLINGS or min(spec.std) <= 0:
        raise ValueError("no such filter, or no deviation")
    return spec


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
