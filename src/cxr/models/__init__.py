"""Networks by name: build, save, load. One file per network.

Every network is cut in two where Grad-CAM looks: `feature_map(x)` gives (N, C, h, w), and
`classify(feature_map)` gives logits (N, L). `encode` computes the first at the device's precision,
`forward` is `classify` after `encode`. A network gets tensors that `InputSpec` describes and never
sees a path, a parameter file or a device.
"""

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from cxr.data.splits import Statistics
from cxr.documents import read_output, validated
from cxr.errors import CxrError
from cxr.models.inputs import InputSpec, _input_spec
from cxr.models.weights import load_weights, write_weights
from cxr.params import ModelBlock, ModelParams, model_names, validate
from cxr.paths import PARAMS_FILE

MOST_PARAMETERS = 2**28  # of a network: as float32 what such a file holds


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

    def parse(content: Any) -> tuple[str, dict[str, Any], ModelParams, InputSpec, tuple[str, ...]]:
        name, params = str(content["name"]), dict(content["params"])
        hyper = validated(TypeAdapter(_module(name).Hyper), params["train"][name])
        labels = tuple(map(str, content["labels"]))
        return name, params, hyper, _input_spec(**content["input"]), labels

    name, params, hyper, spec, labels = read_output(folder / "model.json", parse)
    network = build(name, hyper, spec.image_size, spec.channels, len(labels))
    load_weights(network, folder / "weights.safetensors")
    return SavedModel(name, network.eval(), spec, labels, params)


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
