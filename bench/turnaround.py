"""How long an experiment takes that changes one number, and its maps and pictures.

The maps and pictures are compared to the plain way: pytorch-grad-cam for each label, and a figure
of matplotlib for each picture. The experiments run on synthetic images, through DVC.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from bench import stages
from bench.measure import Row, faster, in_turns, relative_to
from cxr import cam, models
from cxr.data.splits import Origin
from cxr.labels import CHESTMNIST
from cxr.models import Network
from cxr.params import Params
from cxr.paths import REPORTS
from cxr.pipeline.demo import COMMITTER
from cxr.plots import gradcam as figures
from cxr.plots.figure import DPI
from cxr.plots.sheet import PANEL

# As many images as the real ones of docs/results.md; the other parameters are the defaults.
CHANGES = {
    "download.source": "phantom",
    "download.phantom.train": 1500,
    "download.phantom.val": 200,
    "download.phantom.test": 700,
    "train.squeezenet.weights": "none",
    "threads": 1,
}
ORIGIN = Origin("bench", "file")
SIZES = {"cnn": (28, 1), "squeezenet": (224, 3), "vit": (28, 1)}


def measure(params: Params, n_images: int, with_experiments: bool) -> list[Row]:
    """Time the maps and pictures of `n_images` images, and two experiments."""
    rows = [_pictures(params, n_images)]
    return rows + (_experiments() if with_experiments else [])


def _pictures(params: Params, n: int) -> Row:
    torch.manual_seed(0)
    networks = {name: _network(params, name) for name in SIZES}
    inputs = {name: torch.randn(n, c, size, size) for name, (size, c) in SIZES.items()}
    grey = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = in_turns(
            {
                "ours": lambda: _ours(networks, inputs, grey, folder),
                "theirs": lambda: _theirs(networks, inputs, grey, folder),
            },
            1,
            warm_up=False,
        )
    what = f"maps and pictures of three models, {n} images"
    note = "vs. pytorch-grad-cam and matplotlib"
    return faster(what, seconds["ours"], seconds["theirs"], 5, note)


def _network(params: Params, name: str) -> Network:
    size, channels = SIZES[name]
    hyper = models.hyper_parameters(name, params.train.block(name))
    return models.build(name, hyper, size, channels, len(CHESTMNIST)).eval()


def _ours(
    networks: dict[str, Network],
    inputs: dict[str, torch.Tensor],
    grey: np.ndarray,
    folder: Path,
) -> None:
    nothing, undefined = np.zeros(len(CHESTMNIST), np.int8), np.full(len(CHESTMNIST), np.nan)
    for name, network in networks.items():
        maps = cam.explain(network, inputs[name])
        for i, image in enumerate(grey):
            case = figures.ImageCase(f"test image {i}", image, nothing, CHESTMNIST)
            probs = 1 / (1 + np.exp(-maps.logits[i].astype(np.float64)))
            output = figures.ModelOutput(name, "gradcam", probs, undefined, maps.attribution[i])
            for label, pair in figures.pairs(case, output, range(len(CHESTMNIST))).items():
                path = folder / f"{name}-{i}-{label}.png"
                figures.slide(case, output, pair, ORIGIN).save(path)


def _theirs(
    networks: dict[str, Network],
    inputs: dict[str, torch.Tensor],
    grey: np.ndarray,
    folder: Path,
) -> None:
    layers = {"cnn": "features", "squeezenet": "features", "vit": "norm"}
    for name, network in networks.items():
        peer = GradCAM(
            network,
            [network.get_submodule(layers[name])],
            reshape_transform=_grid if name == "vit" else None,
        )
        for label in range(len(CHESTMNIST)):
            # A frozen backbone passes no gradient on unless its input requires one.
            x = inputs[name].clone().requires_grad_()
            heats = peer(x, [ClassifierOutputTarget(label)] * len(grey))
            for i, (image, heat) in enumerate(zip(grey, heats, strict=True)):
                figure = Figure(figsize=(3 * PANEL / DPI, 2 * PANEL / DPI), dpi=DPI)
                for axes, shown in zip(figure.subplots(1, 3), (image, image, heat), strict=True):
                    axes.imshow(shown, cmap="gray" if shown is image else "inferno")
                    axes.set_title(f"{CHESTMNIST[label]}\np = 0.123", fontsize=7)
                    axes.axis("off")
                figure.savefig(folder / f"{name}-{i}-{label}.png")


def _grid(tokens: torch.Tensor) -> torch.Tensor:
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _experiments() -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        stages.clone(folder, CHANGES)
        commit = ["git", "commit", "--quiet", "--all", "--message", "parameters"]
        subprocess.run(commit, cwd=folder, env=os.environ | COMMITTER, check=True)
        first = _seconds(folder, "first")
        second = _seconds(folder, "second", "-S", "train.cnn.lr=1e-3")
        training = json.loads((folder / REPORTS / "cnn/train.json").read_text())["seconds"]
    return [
        relative_to("experiment on train.cnn.lr", [second], [training], 6, "vs. CNN training"),
        relative_to("second experiment", [second], [first], 0.5, "vs. the first"),
    ]


def _seconds(folder: Path, name: str, *settings: str) -> float:
    python = Path(sys.executable)
    env = stages.environment() | COMMITTER
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    started = time.perf_counter()
    subprocess.run(
        [python, "-m", "dvc", "exp", "run", "--quiet", "--name", name, *settings],
        cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - started
