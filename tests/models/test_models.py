"""Properties of every network, and saving and loading models."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cxr import models, params
from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.models import Network, SavedModel
from cxr.models.inputs import InputSpec, micro_batch_size, micro_batches
from cxr.models.weights import fill, load_weights, write_weights

PROJECT = Path(__file__).parents[2]
PARAMS = params.load(PROJECT / "params.yaml")
NAMES = params.model_names()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # results are not bit-identical across numbers of threads


def hyper(name: str, **changes: object) -> params.ModelParams:
    defaults = models.hyper_parameters(name, PARAMS.train.block(name))
    return defaults.model_copy(update=changes)


CHANNELS = {
    name: models.input_spec(name, hyper(name), 28, Statistics(0.5, 0.25)).channels for name in NAMES
}


def network(name: str, size: int = 28, planes: int | None = None, **changes: object) -> Network:
    torch.manual_seed(1)
    return models.build(
        name, hyper(name, **changes), size, planes or CHANNELS[name], len(CHESTMNIST)
    )


def images(name: str, n: int, size: int = 28, planes: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, planes or CHANNELS[name], size, size, generator=generator)


def saved_model(name: str) -> SavedModel:
    net = network(name)
    spec = InputSpec(
        28, "bicubic", 28, CHANNELS[name], (0.1,) * CHANNELS[name], (1 / 3,) * CHANNELS[name]
    )
    used = {
        "seed": 3,
        "threads": 1,
        "train": {
            "protocol": PARAMS.train.protocol.model_dump(mode="json"),
            name: hyper(name).model_dump(mode="json"),
        },
    }
    with torch.no_grad():  # running statistics that differ from those of a new batch norm
        for _ in range(3):
            net.train()(images(name, 8) * 2 + 1)
    return SavedModel(name, net.eval(), spec, CHESTMNIST, used)


@pytest.mark.parametrize(
    ("name", "size", "channels", "shape"),
    [
        ("cnn", 28, 1, (128, 7, 7)),
        ("cnn", 28, 3, (128, 7, 7)),
        ("cnn", 64, 1, (128, 16, 16)),
        ("cnn", 128, 1, (128, 32, 32)),
        ("cnn", 4, 1, (128, 1, 1)),
        ("vit", 28, 1, (64, 7, 7)),
        ("vit", 28, 3, (64, 7, 7)),
        ("vit", 64, 1, (64, 16, 16)),
        ("vit", 128, 1, (64, 32, 32)),
        ("squeezenet", 17, 3, (512, 1, 1)),
        ("squeezenet", 28, 3, (512, 1, 1)),
        ("squeezenet", 64, 3, (512, 3, 3)),
        ("squeezenet", 128, 3, (512, 7, 7)),
        ("squeezenet", 224, 3, (512, 13, 13)),
    ],
)
def test_feature_map_has_the_expected_shape(
    name: str, size: int, channels: int, shape: tuple[int, int, int]
) -> None:
    net = network(name, size, channels).eval()
    x = images(name, 2, size, channels)
    with torch.inference_mode():
        assert net.feature_map(x).shape == (2, *shape)
        assert net(x).shape == (2, len(CHESTMNIST))


@pytest.mark.parametrize(
    ("name", "size", "channels", "message"),
    [
        ("cnn", 3, 1, "at least 4 px; got 3 px"),
        ("vit", 30, 1, r"train\.vit\.patch \(4\) must divide the image size \(30 px\)"),
        ("squeezenet", 16, 3, "at least 17 px; got 16 px"),
        ("squeezenet", 28, 1, "3 channels, .*got 1"),
    ],
)
def test_an_unsupported_size_is_refused_with_its_value(
    name: str, size: int, channels: int, message: str
) -> None:
    with pytest.raises(CxrError, match=message):
        network(name, size, channels)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_classify_of_feature_map(name: str) -> None:
    net, x = network(name).eval(), images(name, 3)
    with torch.inference_mode():
        assert torch.equal(net(x), net.classify(net.feature_map(x)))


@pytest.mark.parametrize("name", NAMES)
def test_zero_feature_map_gives_the_bias_of_the_head_without_a_relu(name: str) -> None:
    net = network(name).eval()
    bias = torch.linspace(-6, 1, len(CHESTMNIST))
    with torch.inference_mode():
        net.head().bias.copy_(bias)
        zeros = torch.zeros_like(net.feature_map(images(name, 2)))
        assert torch.allclose(net.classify(zeros), bias.expand(2, -1), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_an_untrained_network_have_both_signs(name: str) -> None:
    with torch.inference_mode():
        logits = network(name).eval()(images(name, 16))
    assert (logits < 0).any() and (logits > 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_output_for_an_image_does_not_depend_on_other_images_in_the_batch(name: str) -> None:
    model = saved_model(name)
    x = images(name, 6)
    with torch.inference_mode():
        together = model.network(x)
        alone = torch.cat([model.network(x[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"), [("cnn", {}), ("vit", {}), ("squeezenet", {"freeze": False})]
)
def test_gradient_reaches_every_parameter(name: str, changes: dict[str, object]) -> None:
    net = network(name, 64, **changes).train()
    F.binary_cross_entropy_with_logits(net(images(name, 8, 64)), torch.ones(8, 14)).backward()
    without_gradient = [
        key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert not without_gradient
    assert all(p.requires_grad for p in net.parameters())


def test_gradient_reaches_only_the_head_of_a_frozen_squeezenet() -> None:
    net = network("squeezenet", 64, freeze=True).train()
    net(images("squeezenet", 4, 64)).sum().backward()
    trained = {key for key, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("name", "size", "lr", "steps", "changes"),
    [
        ("cnn", 28, 1e-2, 40, {}),
        ("vit", 28, 5e-3, 60, {}),
        ("squeezenet", 33, 3e-4, 100, {"freeze": False}),
        ("squeezenet", 33, 0.1, 300, {"freeze": True}),
    ],
    ids=["cnn", "vit", "squeezenet", "squeezenet-frozen"],
)
def test_a_network_can_overfit_eight_images(
    name: str, size: int, lr: float, steps: int, changes: dict[str, object]
) -> None:
    net, x = network(name, size, **changes), images(name, 8, size)
    labels = torch.rand(8, 14, generator=torch.Generator().manual_seed(3)).round()
    step = net
    if changes.get("freeze"):
        step, x = net.classify, net.feature_map(x).detach()
    optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=lr)
    net.train()
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(step(x), labels)
        if loss < 0.02:  # before a step that could overshoot
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode():
        assert F.binary_cross_entropy_with_logits(step(x), labels) < 0.05


@pytest.mark.parametrize(("size", "expected"), [(28, 334), (64, 64), (224, 5), (1024, 1)])
def test_micro_batches_bound_the_number_of_pixels_per_forward_pass(
    size: int, expected: int
) -> None:
    assert micro_batch_size(size) == expected
    images = torch.arange(expected + 1).view(-1, 1, 1, 1).expand(-1, 3, size, size)
    parts = micro_batches(images)
    assert [len(part) for part in parts] == [expected, 1]
    assert torch.equal(torch.cat(parts)[:, 0, 0, 0], torch.arange(expected + 1))


def test_n_parameters_counts_total_and_trainable() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    net[0].requires_grad_(False)
    assert models.n_parameters(net) == {"total": 12 + 4 + 8 + 2, "trainable": 8 + 2}


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_input_of_cnn_and_vit_is_normalised_by_the_training_statistics(name: str) -> None:
    spec = models.input_spec(name, hyper(name), 64, Statistics(0.4, 0.2))
    assert spec == InputSpec(64, "bicubic", 64, 1, (0.4,), (0.2,))


@pytest.mark.parametrize("name", NAMES)
def test_loaded_model_is_bit_identical_to_the_saved_one(name: str, tmp_path: Path) -> None:
    model = saved_model(name)
    models.save(model, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert replace(loaded, network=model.network) == model
    assert not loaded.network.training
    x = images(name, 5)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), model.network(x))


@pytest.mark.parametrize("name", NAMES)
def test_saving_twice_gives_identical_files(name: str, tmp_path: Path) -> None:
    model = saved_model(name)
    models.save(model, tmp_path / "a")
    models.save(model, tmp_path / "b")
    models.save(models.load(tmp_path / "a"), tmp_path / "c")
    for file in ("weights.safetensors", "model.json"):
        contents = {(tmp_path / folder / file).read_bytes() for folder in "abc"}
        assert len(contents) == 1, file


def test_model_json_contains_what_is_needed_to_use_the_model(tmp_path: Path) -> None:
    models.save(saved_model("cnn"), tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["name"] == "cnn"
    assert description["labels"] == list(CHESTMNIST)
    assert description["input"] == {
        "data_size": 28, "resampling": "bicubic", "image_size": 28, "channels": 1,
        "mean": [0.1], "std": [1 / 3], "fit": "pad",
    }  # fmt: skip
    assert description["params"]["train"]["cnn"]["channels"] == [32, 64, 128]


def test_a_model_of_an_older_version_pads_images(tmp_path: Path) -> None:
    models.save(saved_model("cnn"), tmp_path)
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace(',\n    "fit": "pad"', ""))
    assert '"fit"' not in path.read_text()
    assert models.load(tmp_path).input.fit == "pad"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_read_from_safetensors_and_torch_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    source, target = network("cnn"), network("cnn")
    torch.nn.init.normal_(target.head().weight)
    if suffix == ".pt":
        torch.save(source.state_dict(), path)
    else:
        write_weights(source, path)
    load_weights(target, path)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"channels": (32, 64, 96)},
            r"`features.8.weight` is \(96, 64, 3, 3\); expected \(128, 64, 3, 3\)",
        ),
        (
            {"channels": (8, 64, 96)},
            r"`features.0.weight` is \(8, 1, 3, 3\); expected \(32, 1, 3, 3\)",
        ),
    ],
)
def test_first_tensor_with_a_different_shape_is_named(
    changes: dict[str, object], difference: str, tmp_path: Path
) -> None:
    write_weights(network("cnn", **changes), tmp_path / "w.safetensors")
    with pytest.raises(CxrError, match=f"weights of another network: {difference}"):
        load_weights(network("cnn"), tmp_path / "w.safetensors")


def test_first_missing_and_first_surplus_tensor_are_named(tmp_path: Path) -> None:
    write_weights(network("vit"), tmp_path / "vit.safetensors")
    with pytest.raises(CxrError, match=r"another network: `features\.0\.weight` is missing"):
        load_weights(network("cnn"), tmp_path / "vit.safetensors")
    state = network("cnn").state_dict() | {"surplus": torch.zeros(1)}
    with pytest.raises(CxrError, match="another network: `surplus` is not part of this network"):
        fill(network("cnn"), state, "here")


class Exploit:
    """Content of a malicious file: a call that runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["torch.save", "pickle.dumps"])
def test_code_in_a_weights_file_is_refused_and_never_run(how: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"features.0.weight": Exploit(marker)}
    if how == "torch.save":
        torch.save(content, path)
        torch.load(path, weights_only=False)  # shows that the exploit works if it is not refused
        assert marker.exists()
        marker.unlink()
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CxrError, match=r"evil\.pt is not a file of plain tensors"):
        load_weights(network("cnn"), path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"# just some words\n", b"\x00\xff" * 50, None])
def test_file_without_weights_is_refused_in_one_line(
    suffix: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        CxrError,
        match=rf"w\{suffix} (does not exist|is not a (readable weights|file of plain))",
    ) as caught:
        load_weights(network("cnn"), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"G", b"K", b"eC1", b"X{X\n", b"q*|0!SvUH"])
def test_short_text_that_resembles_a_pickle_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(
        CxrError, match=r"w\.pt is not a (readable weights file|file of plain tensors)"
    ):
        load_weights(network("cnn"), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"a": 1}])
def test_torch_file_without_a_mapping_of_tensors_is_refused(
    content: object, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CxrError, match="does not contain a mapping of names to tensors"):
        load_weights(network("cnn"), tmp_path / "w.pt")


def test_mapping_whose_keys_are_not_names_is_refused() -> None:
    with pytest.raises(CxrError, match="does not contain a mapping of names to tensors"):
        fill(network("cnn"), {1: torch.zeros(1)}, "here")


def test_sparse_weights_are_refused() -> None:
    state = network("cnn").state_dict()
    state["classifier.weight"] = state["classifier.weight"].to_sparse()
    with pytest.raises(CxrError, match=r"here .*classifier\.weight"):
        fill(network("cnn"), state, "here")


def test_missing_model_is_reported_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match=r"model\.json is missing"):
        models.load(tmp_path)


@pytest.mark.parametrize("content", ['{"name": "cnn"', "[]", "{}"])
def test_damaged_model_is_reported_with_its_file(content: str, tmp_path: Path) -> None:
    models.save(saved_model("cnn"), tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(CxrError, match=r"model\.json"):
        models.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    state = network("cnn").state_dict()
    state["classifier.bias"] = torch.full_like(state["classifier.bias"], value)
    with pytest.raises(CxrError, match=r"not finite real numbers, in `classifier\.bias`"):
        fill(network("cnn"), state, "here")


def test_weights_without_values_are_refused() -> None:
    state = {key: value.to("meta") for key, value in network("cnn").state_dict().items()}
    with pytest.raises(CxrError, match="here"):
        fill(network("cnn"), state, "here")


def test_message_for_a_refused_file_does_not_advise_running_its_code(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"# just some words\n")
    with pytest.raises(CxrError) as caught:
        load_weights(network("cnn"), tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)


def test_model_whose_package_is_missing_is_not_reported_as_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "cxr.models.squeezenet", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises((CxrError, ImportError), match="torchvision"):
        models.build("squeezenet", hyper("cnn"), 28, 3, 14)


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    known = ", ".join(NAMES)
    with pytest.raises(CxrError, match=f"unknown model `nobody`; expected one of {known}"):
        models.build("nobody", hyper("cnn"), 28, 1, 14)


def test_same_seed_gives_identical_weights_in_another_process(tmp_path: Path) -> None:
    """torch's global random state is the only source of randomness in build()."""
    code = (
        "import sys, torch; from pathlib import Path; from cxr import models, params\n"
        "train = params.load(Path(sys.argv[1])).train\n"
        "for name, channels in zip(sys.argv[3::2], map(int, sys.argv[4::2])):\n"
        "    hyper = models.hyper_parameters(name, train.block(name))\n"
        "    torch.manual_seed(1)\n"
        "    net = models.build(name, hyper, 28, channels, 14)\n"
        "    models.write_weights(net, Path(sys.argv[2]) / name)\n"
    )
    command = [sys.executable, "-c", code, str(PROJECT / "params.yaml"), str(tmp_path)]
    command += [word for name in NAMES for word in (name, str(CHANNELS[name]))]
    subprocess.run(command, check=True)
    for name in NAMES:
        write_weights(network(name), tmp_path / "here")
        assert (tmp_path / name).read_bytes() == (tmp_path / "here").read_bytes(), name


def saved(
    name: str, labels: tuple[str, ...], seed: int, size: int = 28, **changes: object
) -> SavedModel:
    torch.manual_seed(seed)
    spec = models.input_spec(name, hyper(name), size, Statistics(0.5, 0.25))
    net = models.build(name, hyper(name, **changes), size, spec.channels, len(labels))
    return SavedModel(name, net, spec, labels, {})


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_a_start_keeps_all_weights_but_the_head_of_new_labels(name: str) -> None:
    source = saved(name, ("edema", "mass", "hernia"), 1)
    model = saved(name, ("mass", "Erguss", "edema"), 2)
    fresh = {key: value.clone() for key, value in model.network.state_dict().items()}
    assert models.start_from(source, model) == ["mass", "edema"]
    theirs, ours = source.network.state_dict(), model.network.state_dict()
    heads = models.head_keys(model.network)
    assert len(heads) == 2
    for key in heads:
        assert torch.equal(ours[key][0], theirs[key][1])  # mass
        assert torch.equal(ours[key][1], fresh[key][1])  # Erguss
        assert torch.equal(ours[key][2], theirs[key][0])  # edema
    for key in theirs.keys() - set(heads):
        assert (
            torch.equal(ours[key], theirs[key]) and theirs[key].data_ptr() != ours[key].data_ptr()
        )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (lambda: saved("vit", CHESTMNIST, 1), "it is a vit, not a cnn; name a model of the same"),
        (
            lambda: saved("cnn", CHESTMNIST, 1, size=64),
            "trained on images of 64 px, and thes",
        ),
        (
            lambda: saved("cnn", CHESTMNIST, 1, channels=(8, 8, 16)),
            r"weights of another network: `features.0.weight` is \(8, 1, 3, 3\); expected \(32, 1",
        ),
    ],
)
def test_a_start_from_another_network_is_refused(
    source: Callable[[], SavedModel], sentence: str
) -> None:
    model = saved("cnn", CHESTMNIST, 2)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    with pytest.raises(CxrError, match=sentence):
        models.start_from(source(), model)
    after = model.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # nothing half done
