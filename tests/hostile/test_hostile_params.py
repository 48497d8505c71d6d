"""A malicious params.yaml is refused quickly, in one line, and left unchanged."""

import importlib
import time
from pathlib import Path

import pytest
from valid import ROOT, refusal

from cxr import models, params

# Imported here, so that their memory is not counted as used by an invalid input.
NETWORKS = [importlib.import_module(f"cxr.models.{name}") for name in params.model_names()]
TEXT = (ROOT / "params.yaml").read_text()

BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "must contain a mapping"),
    "a list": ("- a\n- b\n", "must contain a mapping"),
    "a word": ("word", "must contain a mapping"),
    "a megabyte": (TEXT + "#" * 2**20, "has more than 262,144 bytes"),
    "a call of Python": (TEXT + "x: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    "two documents": (TEXT + "---\nseed: 1\n", "not valid YAML"),
    "keys twice": (TEXT + "seed: 1\n", "not valid YAML"),
    "a seed of 5000 digits": (TEXT.replace("seed: 0", "seed: " + "9" * 5000), "params.yaml"),
    "a seed of 40 digits": (TEXT.replace("seed: 0", "seed: " + "9" * 40), "seed is 999"),
    "a seed that is a day": (TEXT.replace("seed: 0", "seed: 2001-01-01"), "seed is"),
    "a seed that is a mapping": (TEXT.replace("seed: 0", "seed: {a: 1}"), "seed is"),
    "a seed in octal words": (TEXT.replace("seed: 0", "seed: 0o99"), "seed is '0o99'"),
    "a seed below zero": (TEXT.replace("seed: 0", "seed: -1"), "seed is -1"),
    "a million threads": (TEXT.replace("threads: 2 ", "threads: 1000000 "), "threads is 1000000"),
    "an infinite learning rate": (TEXT.replace("lr: 1e-3", "lr: .inf"), "train.vit.lr is inf"),
    "a path of a list": (TEXT.replace("path: null", "path: [a]"), "download.path is ['a']"),
    "a name that commands a terminal": (TEXT + '"\\e[31mred": 1\n', r"\x1b[31mred is not a known"),
    "a model above": (TEXT.replace("  vit:", "  ../x:"), "unknown model `../x`"),
    "a model in two lines": (TEXT.replace("  vit:", '  "a\\nb":'), r"unknown model `a\nb`"),
    "a million blocks": (TEXT.replace("depth: 6", "depth: 1000000"), "train.vit.depth is 1000000"),
    "a billion channels": (
        TEXT.replace("[32, 64, 128]", "[1000000000, 64, 128]"), "more than 268,435,456 parameters"),
    "channels beyond 64 bits": (
        TEXT.replace("[32, 64, 128]", f"[{10**30}, 64, 128]"), "more than 268,435,456 parameters"),
    "a width of a million": (
        TEXT.replace("width: 64", "width: 1000000"), "more than 268,435,456 parameters"),
    "an image of 100,000 pixels": (
        TEXT.replace("image_size: 224", "image_size: 100000"), "train.squeezenet.image_size is"),
}  # fmt: skip


def build_all(path: Path) -> None:
    """Read the parameters and build every network, as the stages do."""
    loaded = params.load(path)
    for name in params.model_names():
        hyper = models.hyper_parameters(name, loaded.train.block(name))
        spec = models.input_spec(name, hyper, 28, models.Statistics(0.5, 0.2))
        models.build(name, hyper, spec.image_size, spec.channels, 14)


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_malicious_parameters_are_refused_quickly(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    path = tmp_path / "params.yaml"
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(content)
    start = time.monotonic()
    assert words in refusal(build_all, path)
    assert time.monotonic() - start < 10
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_the_projects_own_parameters_are_accepted() -> None:
    build_all(ROOT / "params.yaml")


@pytest.mark.parametrize("key", ["nowhere", "seed.a", "train.gru.lr.x", "download.path.x", ""])
def test_a_record_can_not_set_unknown_parameters(tmp_path: Path, key: str) -> None:
    """`replay` writes the parameters of a record to the params.yaml of a commit."""
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    if "." in key:
        assert f"{key} has no section" in refusal(params.change, path, {key: 1})
        assert path.read_text() == TEXT
    else:  # a top-level key is added, and refused as unknown when the stage reads it
        params.change(path, {key: 1})
        assert "is not a known key" in refusal(params.load, path)
