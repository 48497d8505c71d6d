"""All random parameters of an image except pixel noise, independent of its size in pixels."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from cxr.data.phantom.copula import draw_labels
from cxr.data.phantom.shapes import Field
from cxr.data.splits import SPLITS
from cxr.labels import CHESTMNIST

Rows = npt.NDArray[np.intp]
Anatomy = dict[str, Field]  # name -> (N, 1, 1)

BLOCK = 256  # images drawn from one generator
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
_UNIFORM = (
    "view", "breast", "gas", "gas_u", "rib_phase", "knob", "noise", "border", "border_side",
    "marker", "marker_u", "marker_v",
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

    def take(self, rows: slice | Rows) -> "Draws":
        anatomy = {name: value[rows] for name, value in self.anatomy.items()}
        return Draws(self.labels[rows], anatomy, self.signs[rows], self.waves[rows])

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
    labels = draw_labels(rng, BLOCK)
    normal = np.clip(rng.standard_normal((BLOCK, len(_NORMAL), 1, 1)), -2, 2)
    anatomy = {
        name: (mean + sd * normal[:, k]).astype(np.float32)
        for k, (name, (mean, sd)) in enumerate(_NORMAL.items())
    }
    uniform = rng.random((BLOCK, len(_UNIFORM), 1, 1), dtype=np.float32)
    anatomy |= {name: uniform[:, k] for k, name in enumerate(_UNIFORM)}
    signs = rng.random((BLOCK, len(CHESTMNIST), len(fields(Sign))), dtype=np.float32)
    waves = rng.random((BLOCK, len(NOISES), _WAVES_PER_NOISE, 2), dtype=np.float32)
    return Draws(labels, anatomy, signs, waves)
