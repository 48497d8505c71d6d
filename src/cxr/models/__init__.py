"""Build, save and load networks by name. One file per network.

Every network is split where Grad-CAM reads it: `feature_map(x)` returns (N, D, h, w), and
`classify(feature_map)` returns logits (N, L). `encode` computes the feature map at the device's
precision; `forward` is `classify` after `encode`. A network takes the tensors that `InputSpec`
describes and knows nothing of paths, parameter files or devices.
"""

import importlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from cxr.data.splits import Statistics
from cxr.documents import read_output, validated
from cxr.errors import CxrError
from cxr.models.inputs import InputSpec, _input_spec
from cxr.models.weights import fill, load_weights, write_weights
from cxr.params import Fit, ModelBlock, ModelParams, model_names, validate
from cxr.paths import PARAMS_FILE

MAX_PARAMETERS = 2**28  # per network; in float32 they fill the largest weights file allowed


class Network(nn.Module):
    """Interface of a network in the pipeline."""

    def feature_map(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, h, w)
        raise NotImplementedError

    def classify(self, feature_map: Tensor) -> Tensor:  # (N, D, h, w) -> (N, L)
        raise NotImplementedError

    def head(self) -> nn.Linear:
        """The last layer; its bias is initialised to the logit of each label's prevalence."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of matrices without weight decay, such as position embeddings (as in timm).

        Biases and normalisation weights are never decayed and need not be listed.
        """
        return set()

    def encode(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, h, w)
        """The feature map, computed under autocast and returned in float32.

        A bf16 logit has 8 significant bits, so different images would get tied scores. Therefore
        `classify` and the loss use float32 on every device.
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
    """A network with everything needed to apply it to images: the content of `models/<name>/`."""

    name: str
    network: Network
    input: InputSpec
    labels: tuple[str, ...]
    params: dict[str, Any]  # the model's block, the training recipe, seed and threads


def hyper_parameters(name: str, block: ModelBlock) -> ModelParams:
    """The model's block of params.yaml, validated against the model's schema."""
    schema = _module(name).Hyper
    return cast(ModelParams, validate(schema, block.model_dump(), ("train", name)))


def build(name: str, hyper: ModelParams, image_size: int, channels: int, n_labels: int) -> Network:
    """A network with random weights from torch's global random state; CxrError if it is invalid."""
    module = _module(name)
    # Count the parameters first, without allocating memory or advancing the global random state.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            n = n_parameters(module.build(hyper, image_size, channels, n_labels))["total"]
        except (RuntimeError, OverflowError, TypeError):  # too many for torch to count
            n = MAX_PARAMETERS + 1
    if n > MAX_PARAMETERS:
        raise CxrError(
            f"{PARAMS_FILE}: train.{name} describes a network of more than {MAX_PARAMETERS:,} "
            "parameters; make it smaller"
        )
    return cast(Network, module.build(hyper, image_size, channels, n_labels))


def input_spec(
    name: str, hyper: ModelParams, data_size: int, statistics: Statistics, fit: Fit = "pad"
) -> InputSpec:
    """The model's input, given the size, statistics and fit of the training images."""
    spec = cast(InputSpec, _module(name).input_spec(hyper, data_size, statistics))
    return replace(spec, fit=fit)


def save(model: SavedModel, folder: Path) -> None:
    """Write `weights.safetensors` and `model.json`; equal models give identical files."""
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
    """Load a saved model onto the CPU, in evaluation mode."""

    def parse(content: Any) -> tuple[str, dict[str, Any], ModelParams, InputSpec, tuple[str, ...]]:
        name, params = str(content["name"]), dict(content["params"])
        hyper = validated(TypeAdapter(_module(name).Hyper), params["train"][name])
        labels = tuple(map(str, content["labels"]))
        return name, params, hyper, _input_spec(**content["input"]), labels

    name, params, hyper, spec, labels = read_output(folder / "model.json", parse)
    network = build(name, hyper, spec.image_size, spec.channels, len(labels))
    load_weights(network, folder / "weights.safetensors")
    return SavedModel(name, network.eval(), spec, labels, params)


def start_from(source: SavedModel, model: SavedModel) -> list[str]:
    """Copy the weights of `source` into `model`, except the head's rows of labels it lacks.

    Returns
    -------
    The labels whose rows were copied.

    Raises
    ------
    CxrError
        If the two are not the same network for images of the same size.
    """
    if source.name != model.name:
        raise CxrError(f"it is a {source.name}, not a {model.name}; name a model of the same kind")
    sizes = source.input.image_size, model.input.image_size
    if len(set(sizes)) > 1:
        raise CxrError(f"it was trained on images of {sizes[0]} px, and these have {sizes[1]} px")
    shared = [label for label in model.labels if label in source.labels]
    rows, source_rows = (
        torch.tensor([each.labels.index(label) for label in shared], dtype=torch.int64)
        for each in (model, source)
    )
    state = dict(source.network.state_dict())
    own = model.network.state_dict()
    for key in head_keys(model.network):
        head = own[key].clone()
        if state[key].shape[1:] == head.shape[1:]:  # if not, other layers don't fit either
            head[rows] = state[key][source_rows]
        state[key] = head
    fill(model.network, state, "it")
    return shared


def head_keys(network: Network) -> list[str]:
    """The names of the head's tensors in the network's state."""
    head = network.head()
    (name,) = (name for name, module in network.named_modules() if module is head)
    return [f"{name}.{key}" for key, _ in head.named_parameters()]


def n_parameters(network: nn.Module) -> dict[str, int]:
    """Number of parameters, total and trainable."""
    return {
        "total": sum(p.numel() for p in network.parameters()),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def _module(name: str) -> Any:
    if name not in model_names():
        raise CxrError(f"unknown model `{name}`; expected one of {', '.join(model_names())}")
    return importlib.import_module(f"cxr.models.{name}")
