"""params.yaml as frozen objects, checked for types and ranges.

There are no defaults here: every value is in params.yaml, where DVC tracks it. The file is read
with the parser that DVC uses (YAML 1.2), so that `1e-3` and `no` mean the same to both.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from cxr.documents import check_is_no_lfs_pointer, read_yaml, restoring
from cxr.errors import CxrError
from cxr.paths import PARAMS_FILE

NAME = re.compile(r"[\w -]+", re.ASCII)  # of a parameter; MLflow allows no other characters
WHOLE_FILE = "the file"  # in messages

Finite = Annotated[float, Field(allow_inf_nan=False)]
Bands = Annotated[tuple[Finite, ...], Field(strict=False, min_length=1, max_length=19)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Above 1000 AdamW's arithmetic overflows.
LearningRate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
AttributeName = Annotated[str, Field(pattern=r"^[\w -]{1,40}$")]
Meaning = Literal["unknown", "positive", "negative"]  # of a cell
SplitName = Literal["train", "val", "test"]
OnBadImage = Literal["stop", "skip"]
Fit = Literal["pad", "crop", "stretch"]  # how an image becomes square
Method = Literal["gradcam", "gradcam++", "hirescam", "rollout"]  # of heat maps
SHARED_BY_MODELS = {"inputs", "weights"}  # files in `cxr/models` that are not models


class Section(BaseModel):
    """A mapping in params.yaml: immutable, without type conversion, without unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Phantom(Section):
    """Images per split, and the share of labels that are unknown."""

    train: Annotated[int, Field(ge=1, le=1_000_000)]
    val: Annotated[int, Field(ge=1, le=1_000_000)]
    test: Annotated[int, Field(ge=1, le=1_000_000)]
    uncertain: Fraction


class Companion(Section):
    """The columns of a table that adds to what is known of each image, by their names in it."""

    path: str | None
    image_ids: str | None
    id: str
    patient: str | None
    attributes: Annotated[dict[AttributeName, str], Field(max_length=20)]
    labels: tuple[str, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _image_ids_belong_to_a_table(self) -> "Companion":
        if self.image_ids and not self.path:
            raise ValueError(
                f"image_ids names {self.image_ids}, but path is null, so no table is joined; set "
                "path, or image_ids: null"
            )
        return self


def _columns(value: Any) -> Any:
    """A list of columns as a mapping of labels to columns."""
    if isinstance(value, list | tuple):
        value = {name: name for name in value} if len(set(map(str, value))) == len(value) else None
    return _checked(value, "a column, a list of different columns, or {label: column}")


def _pattern(value: Any) -> Any:
    _checked(value, "a column, {regex: PATTERN} or null", keys=["regex"])
    if isinstance(value, dict):
        try:
            groups = re.compile(value["regex"]).groups
        except re.error as error:
            raise ValueError(f"{value['regex']!r} is not a regular expression: {error}") from None
        if groups > 1:
            raise ValueError(f"{value['regex']!r} has {groups} groups; expected at most one")
    return value


def _lists(value: Any) -> Any:
    return _checked(value, "a column, {train: FILE, test: FILE} or null", keys=get_args(SplitName))


def _checked(value: Any, expected: str, keys: Sequence[str] = ()) -> Any:
    """A text or a mapping of texts; pydantic would report one error per alternative."""
    content = [*value.keys(), *value.values()] if isinstance(value, dict) else [value]
    is_known = not keys or not isinstance(value, dict) or set(value) <= set(keys)
    if not (content and is_known and all(isinstance(each, str) and each for each in content)):
        raise ValueError(f"expected {expected}")
    return value


class Fractions(Section):
    """Shares of the images; the rest is for training."""

    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _leave_training_images(self) -> "Fractions":
        if self.val + self.test >= 1:
            raise ValueError("val and test leave no images for training; lower them")
        return self


class Table(Section):
    """Where a table of the user's own images has their files, labels, patients and splits."""

    image: str
    folders: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    labels: Annotated[str | dict[str, str], BeforeValidator(_columns)]
    separator: Annotated[str, Field(min_length=1)]
    uncertain: Meaning
    blank: Meaning
    patient: Annotated[str | dict[str, str], BeforeValidator(_pattern)] | None
    split: Annotated[str | dict[SplitName, str], BeforeValidator(_lists)] | None
    fractions: Fractions
    attributes: Annotated[dict[AttributeName, str], Field(max_length=20)]
    on_bad_image: OnBadImage


class Download(Section):
    source: Literal["medmnist", "file", "phantom", "table"]
    seed: Seed
    size: Annotated[int, Field(ge=28, le=1024)]
    fit: Fit
    path: str | None
    table: Table
    phantom: Phantom
    companion: Companion

    @model_validator(mode="after")
    def _path_fits_the_source(self) -> "Download":
        reads = {"file": "an npz in ChestMNIST's layout", "table": "a CSV, TSV or Parquet file"}
        if self.source in reads and not self.path:
            raise ValueError(f"source `{self.source}` needs `path`, {reads[self.source]}")
        if self.source not in reads and self.path:
            raise ValueError(
                f"path names {self.path}, but source is `{self.source}`, which does not read it; "
                "set source: file or table, or path: null"
            )
        return self


class TrainingRecipe(Section):
    """Training settings shared by all models, for a fair comparison."""

    epochs: Count
    batch_size: Count
    warmup_epochs: NonNegative
    patience: Count

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainingRecipe":
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) is longer than the training, so lr would "
                f"never be reached; set it to at most epochs ({self.epochs})"
            )
        return self


class Augment(Section):
    """Random augmentation of training images, drawn per image and epoch."""

    hflip: bool
    translate: Annotated[float, Field(ge=0, le=0.5)]
    degrees: Annotated[float, Field(ge=0, le=180)]
    scale: Fraction
    contrast: Fraction

    @property
    def is_hflip_only(self) -> bool:
        return not (self.translate or self.degrees or self.scale or self.contrast)


class ModelParams(Section):
    """Parameters of every model; each model's module adds its own hyper-parameters."""

    lr: LearningRate
    weight_decay: NonNegative
    augment: Augment


class WithInit(ModelParams):
    """Parameters of a model that can start from the weights of a trained one."""

    init: Annotated[str, Field(min_length=1)] | None = None  # older models don't have it


class ModelBlock(ModelParams):
    """`train.<model>` before the model's module has checked its own keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class Train(Section):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow")
    __pydantic_extra__: dict[str, ModelBlock]

    protocol: TrainingRecipe

    @model_validator(mode="before")
    @classmethod
    def _models_exist(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in (*cls.model_fields, *model_names()):
                raise ValueError(
                    f"unknown model `{name}`; the models are {', '.join(model_names())}"
                )
        return values

    @property
    def models(self) -> tuple[str, ...]:
        """The models that have a block."""
        return tuple(self.__pydantic_extra__)

    def block(self, model: str) -> ModelBlock:
        """The block of one model; CxrError if params.yaml has none."""
        if model not in self.__pydantic_extra__:
            raise CxrError(f"{PARAMS_FILE}: train.{model} is missing; add the model's block")
        return self.__pydantic_extra__[model]


class Reading(Section):
    """What other readers say of one finding, in a column of their table."""

    labels: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]  # it is any of these
    column: str | None = None  # the name of the reading, if None
    positive: tuple[str, ...] | None = Field(None, strict=False)  # cells; yes, true or 1 if None
    negative: tuple[str, ...] | None = Field(None, strict=False)

    @model_validator(mode="after")
    def _both_or_none(self) -> "Reading":
        if (self.positive is None) != (self.negative is None):
            raise ValueError("set both positive and negative, or neither")
        if self.positive and self.negative and (both := {*self.positive} & {*self.negative}):
            raise ValueError(f"{sorted(both)[0]!r} is both positive and negative")
        return self


class Reference(Section):
    """A table of other readers' labels by image id, and what it says of our labels."""

    path: str
    id: str
    readings: Annotated[dict[str, Reading], Field(min_length=1)]


class Evaluate(Section):
    threshold_rule: Literal["youden", "f1", "sensitivity"]
    sensitivity: Annotated[float, Field(gt=0, le=1)]
    calibration: Literal["none", "temperature", "platt"]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    references: dict[AttributeName, Reference]
    bands: dict[str, Bands]

    @model_validator(mode="after")
    def _bands_increase(self) -> "Evaluate":
        for name, ends in self.bands.items():
            if list(ends) != sorted(set(ends)):
                raise ValueError(f"bands.{name} is {list(ends)}; expected increasing numbers")
        return self


class Boxes(Section):
    """A file of one expert's boxes around findings, and what its names of findings mean."""

    path: Annotated[str, Field(min_length=1)]
    # Any of these, by the name in the file.
    labels: dict[str, Annotated[tuple[str, ...], Field(strict=False, min_length=1)]] = {}


class GradCam(Section):
    method: dict[str, Method]
    split: Literal["train", "val", "test"]
    indices: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1, max_length=200)
    ]
    labels: Literal["all", "findings"]
    boxes: dict[AttributeName, Boxes]  # by expert
    max_images: Count
    max_findings: Count

    def out_of_range(self, n: Mapping[str, int]) -> str | None:
        """The problem if an index is not below the number of images in the split."""
        if max(self.indices) < n[self.split]:
            return None
        return (
            f"gradcam.indices has {max(self.indices)}, and {self.split} has {n[self.split]:,} "
            "images; give indices below that"
        )


class Params(Section):
    seed: Seed
    threads: Annotated[int, Field(ge=1, le=1024)]
    download: Download
    train: Train
    evaluate: Evaluate
    gradcam: GradCam

    @model_validator(mode="after")
    def _size_fits_the_source(self) -> "Params":
        source, size = self.download.source, self.download.size
        if source in ("medmnist", "phantom") and size not in (28, 64, 128, 224):
            raise ValueError(
                f"download.size is {size}; source `{source}` has images of 28, 64, 128 or 224 px"
            )
        return self

    @model_validator(mode="after")
    def _gradcam_fits_the_rest(self) -> "Params":
        """Refuse settings that would otherwise fail in the last stage, after all trainings."""
        explained, trained = set(self.gradcam.method), set(self.train.models)
        if missing := sorted(trained - explained):
            raise ValueError(f"gradcam.method.{missing[0]} is missing; add the model")
        if unknown := sorted(explained - set(model_names())):
            raise ValueError(f"gradcam.method.{unknown[0]} is not a model; remove it")
        n = self.download.phantom.model_dump()
        if self.download.source == "phantom" and (problem := self.gradcam.out_of_range(n)):
            raise ValueError(problem)
        return self


def model_names() -> list[str]:
    """The available models: one file each in `cxr/models`."""
    files = (Path(__file__).parent / "models").glob("[!_]*.py")
    return sorted({path.stem for path in files} - SHARED_BY_MODELS)


def load(path: Path) -> Params:
    """Read and check params.yaml; CxrError names the first invalid key and what is expected."""
    return cast(Params, validate(Params, read_yaml(path), ()))


def validate(schema: type[Section], values: dict[str, Any], prefix: tuple[str, ...]) -> Section:
    """Check `values`, from the key `prefix` of params.yaml, against `schema`."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        # If a key is mistyped, the correct key is missing too; report the typo.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise CxrError(_message(first, schema, prefix)) from None


def change(path: Path, changes: dict[str, Any]) -> None:
    """Set dotted keys in a params.yaml, keeping its comments."""
    read_yaml(path)  # the parser that keeps comments can raise any exception on a damaged file
    yaml = YAML()
    yaml.width = 4096
    content = yaml.load(path)
    try:
        assign(content, changes)
    except CxrError as error:
        raise CxrError(f"{error}; {restoring(path)}") from None
    yaml.dump(content, path)


def assign(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set dotted keys; CxrError if a section does not exist."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        section: Any = values
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise CxrError(f"{PARAMS_FILE}: {key} has no section {'.'.join(parents)}")
        section[last] = value


def named_file(key: str, name: str, root: Path) -> Path:
    """Path of the user's own file that a parameter names, relative to the project's `root`.

    Raises
    ------
    CxrError
        If the file does not exist or is a Git LFS pointer.
    """
    try:
        path = root / Path(name).expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError):  # the name is too long, or ~user is unknown
        path, exists = root / name, False
    if not exists:
        raise CxrError(
            f"{key}: {path} does not exist or is not a file; relative paths start at {root}"
        )
    check_is_no_lfs_pointer(path)
    return path


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted names; lists, and mappings of other texts, stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and all(map(NAME.fullmatch, map(str, value))):
            flat.update(flatten(value, name))
        else:
            flat[name] = value
    return flat


def _message(error: ErrorDetails, schema: type[Section], prefix: tuple[str, ...]) -> str:
    key = ".".join(str(part) for part in (*prefix, *error["loc"])) or WHOLE_FILE
    if error["type"] == "missing":
        return f"{PARAMS_FILE}: {key} is missing; add it"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(
            str(error["loc"][-1]), _sibling_keys(error["loc"], schema), 1
        )
        hint = f"; did you mean `{close[0]}`?" if close else "; remove it"
        return f"{PARAMS_FILE}: {key} is not a known key{hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return (
            f"{PARAMS_FILE}: {key}: {message}" if key != WHOLE_FILE else f"{PARAMS_FILE}: {message}"
        )
    return f"{PARAMS_FILE}: {key} is {error['input']!r}; {_expectation(message)}"


def _expectation(message: str) -> str:
    """Pydantic's message without its subject: `expected a number greater than 0`."""
    if "valid dictionary" in message:
        return "expected a section"
    expected = message.removeprefix("Input should be ").replace("valid tuple", "list")
    if expected == message:
        return f"{message[0].lower()}{message[1:]}"
    return f"expected {'a number ' * expected.startswith(('greater', 'less'))}{expected}"


def _sibling_keys(location: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    current: Any = schema
    for part in location[:-1]:
        fields = getattr(current, "model_fields", {})
        current = fields[part].annotation if part in fields else ModelBlock
    return list(getattr(current, "model_fields", {}))
