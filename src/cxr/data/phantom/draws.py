"""All random parameters of an image except pixel noise, independent of its size in pixels."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from cxr.data.phantom.copula import draw_labels
from cxr.data.phantom.shapes import Field
from cxr.data.splits import SPLITS
from cxr.labels import CHESTMNIST

Rows = npt.NDArray[np.intp]
Anatomy = dict[str, Field]  # name -> (N, 1, 1)

BLOCK = 256  # images drawn from one generator; no patient is in two blocks
AP_SHARE = 0.4  # of the images, as in NIH's table; the others are PA
FEMALE_SHARE = 0.45
NEW_PATIENT = 0.5  # probability that an image is the first of its patient
AGE = (47.0, 17.0)  # years, mean and standard deviation
AGES = (1, 94)
FOLLOW_UP_YEARS = 0.4  # between two images of a patient
KNOB_OF_AGE = 0.8  # correlation of the aortic knob's prominence with age

NOISES = {"cloud": (0.7, 1.6), "strands": (1.6, 3.2), "mesh": (5.0, 7.0)}  # cycles per unit
_WAVES_PER_NOISE = 10

# Mean and standard deviation of each normal parameter; clipped at two standard deviations.
_NORMAL: dict[str, tuple[float, float]] = {
    "turn": (0.0, 0.03),  # radians
    "shift_u": (0.0, 0.06),
    "shift_v": (0.0, 0.07),
    "zoom": (1.06, 0.07),
    "thorax": (0.66, 0.04),  # half the inner width of the thorax
    "apex": (-0.70, 0.04),  # v of the lung's top
    "dome": (0.40, 0.07),  # v of the right diaphragm's top
    "dome_step": (0.06, 0.02),  # how much lower the left one is
    "dome_drop": (0.25, 0.035),  # from the dome's top to the costophrenic angle
    "heart_ratio": (0.44, 0.027),  # cardiothoracic ratio
    "heart_left": (0.68, 0.04),  # fraction of the heart left of the midline
    "heart_height": (0.66, 0.04),
    "habitus": (0.0, 1.0),  # thin < 0 < obese
    "shoulder": (-0.92, 0.08),
    "arm_slope": (2.0, 0.7),
    "rib_pitch": (0.165, 0.012),
    "rib_tone": (0.06, 0.018),
    "clavicle_tilt": (-0.18, 0.08),
    "depth": (0.42, 0.045),  # reduction of brightness by a fully aerated lung
    "haze": (0.0, 0.15),  # density of the whole lung: inspiration and scatter
    "patchiness": (0.10, 0.04),  # density of the normal lung's slow variation
    "gain": (0.98, 0.08),
    "offset": (0.06, 0.04),
    "gamma": (1.0, 0.16),
}
# The same in all images of a patient.
_OF_PATIENT = (
    "thorax", "apex", "dome_step", "dome_drop", "heart_ratio", "heart_left", "heart_height",
    "habitus", "shoulder", "rib_pitch", "rib_tone", "knob",
)  # fmt: skip
_UNIFORM = (
    "gas", "gas_u", "rib_phase", "knob", "noise", "border", "border_side", "marker", "marker_u",
    "marker_v",
)  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """Position and strength of one finding in N images: (N, 1, 1), uniform on 0..1 except side."""

    strength: Field
    side: Field  # -1 right lung (image left), +1 left lung
    high: Field  # position from the top down, within the heights where the finding occurs
    wide: Field  # position from the midline outwards
    size: Field
    shape: Field
    tilt: Field
    both: Field  # large if both sides are affected


@dataclass(frozen=True)
class Draws:
    """The random parameters of N images, the same at every size."""

    labels: npt.NDArray[np.uint8]  # (N, L)
    anatomy: Anatomy
    signs: Field  # (N, L, draws of a Sign), uniform on 0..1
    waves: Field  # (N, noises, waves, 2), uniform on 0..1: direction, phase
    doubt: Field  # (N, L), uniform on 0..1; where it is low, the label may count as uncertain
    patient: Rows  # (N,), the number of the image's patient in its block
    age: Rows  # (N,), years

    @property
    def is_female(self) -> npt.NDArray[np.bool_]:
        return self.anatomy["breast"].ravel() > 1 - FEMALE_SHARE

    @property
    def is_ap(self) -> npt.NDArray[np.bool_]:
        return self.anatomy["view"].ravel() < AP_SHARE

    def take(self, rows: slice | Rows) -> "Draws":
        anatomy = {name: value[rows] for name, value in self.anatomy.items()}
        return Draws(
            self.labels[rows],
            anatomy,
            self.signs[rows],
            self.waves[rows],
            self.doubt[rows],
            self.patient[rows],
            self.age[rows],
        )

    def positive(self, label: str) -> Rows:
        return np.flatnonzero(self.labels[:, CHESTMNIST.index(label)])

    def without(self, label: str) -> "Draws":
        """The same images with one finding removed."""
        labels = self.labels.copy()
        labels[:, CHESTMNIST.index(label)] = 0
        return replace(self, labels=labels)

    def sign(self, label: str, rows: slice | Rows = slice(None)) -> Sign:
        """The parameters of a finding in these images, whether it is present or not."""
        columns = self.signs[rows, CHESTMNIST.index(label)][:, :, None, None]
        parameters = {field.name: columns[:, k] for k, field in enumerate(fields(Sign))}
        parameters["side"] = np.where(parameters["side"] < 0.5, np.float32(-1), np.float32(1))
        return Sign(**parameters)


def draw(seed: int, split: str, block: int) -> Draws:
    """Draw the images from `block * BLOCK` to `(block + 1) * BLOCK` of a split."""
    rng = np.random.default_rng([seed, SPLITS.index(split), block])
    is_first = rng.random(BLOCK) < NEW_PATIENT
    is_first[0] = True
    first = np.maximum.accumulate(np.where(is_first, np.arange(BLOCK), 0))
    ap, female, old = rng.standard_normal((3, BLOCK))
    female, old = female[first], old[first]
    labels = draw_labels(rng, np.stack([ap, female, old], axis=1), first)
    normal = np.clip(rng.standard_normal((BLOCK, len(_NORMAL), 1, 1)), -2, 2)
    anatomy = {
        name: (mean + sd * normal[:, k]).astype(np.float32)
        for k, (name, (mean, sd)) in enumerate(_NORMAL.items())
    }
    uniform = rng.random((BLOCK, len(_UNIFORM), 1, 1), dtype=np.float32)
    anatomy |= {name: uniform[:, k] for k, name in enumerate(_UNIFORM)}
    anatomy |= {name: anatomy[name][first] for name in _OF_PATIENT}
    knob = ndtri(anatomy["knob"].ravel()) * np.sqrt(1 - KNOB_OF_AGE**2) + KNOB_OF_AGE * old
    for name, z in {"view": -ap, "breast": female, "knob": knob}.items():
        anatomy[name] = ndtr(z)[:, None, None].astype(np.float32)
    signs = rng.random((BLOCK, len(CHESTMNIST), len(fields(Sign))), dtype=np.float32)
    waves = rng.random((BLOCK, len(NOISES), _WAVES_PER_NOISE, 2), dtype=np.float32)
    doubt = rng.random((BLOCK, len(CHESTMNIST)), dtype=np.float32)
    years = AGE[0] + AGE[1] * old + FOLLOW_UP_YEARS * (np.arange(BLOCK) - first)
    age = np.clip(years, *AGES).astype(np.intp)
    return Draws(labels, anatomy, signs, waves, doubt, np.cumsum(is_first) - 1, age)
