"""A synthetic ChestMNIST: grey chest X-rays whose 14 findings are painted where they show in life.

Image i of a split depends on (seed, split, i, size) alone. Everything about it but the pixel noise
is drawn in size-free units, so index i shows the same chest at 28 and at 224 pixels. The picture is
a film: soft tissue and bone brighten it, the air of the thoracic cavity darkens it by
`depth * cavity * exp(-density)`, and heart, vessels and findings are densities in that air. So
overlapping findings saturate as they do on film, and a finding never shows outside the chest.

Chest frame: u runs from the midline to the image's right (the patient's left), v downwards; the
image spans about -1..1 in both, and 0.045 is about a centimetre (a thorax of 30 cm).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.errors import CxrError
from cxr.labels import LABELS

Field = npt.NDArray[np.floating[Any]]  # float32 in every place
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Anatomy = dict[str, Field]  # name -> (N, 1, 1)

LOCAL_SIGNS: tuple[str, ...] = tuple(
    label for label in LABELS if label not in ("cardiomegaly", "edema", "emphysema")
)
SPLITS = ("train", "val", "test")
MIN_SIZE, MAX_SIZE = 28, 224

_BLOCK = 256  # images whose parameters come from one generator
_PART_PIXELS = 128 * 28 * 28  # rendered at once: bounds memory at 224, fits the cache at 28
_ORGAN = {"cardiomegaly": "heart", "emphysema": "lungs"}  # findings of a whole organ
_MASK_SHARE = 0.25  # a mask holds what changed by at least this share of the largest change

# Positives per label among the 78,468 training images of ChestMNIST, that is ChestX-ray14 (Wang et
# al., ChestX-ray8, CVPR 2017) in the split of MedMNIST.
_TRAIN_IMAGES = 78_468
_TRAIN_POSITIVES = (
    7996, 1950, 9261, 13914, 3988, 4375, 978, 3705, 3263, 1690, 1799, 1158, 2279, 144,
)  # fmt: skip

# Tetrachoric correlations (in 1/100, lower triangle without the diagonal) of the same labels: each
# is the correlation of two standard normals whose joint upper tail holds as many images as have
# both labels. Fitted pair by pair; the matrix is positive definite (least eigenvalue 0.27).
_TETRACHORIC = (
    (7,),
    (36, 38),
    (21, 7, 25),
    (6, -6, 20, 5),
    (-3, -6, 7, 11, 29),
    (16, -2, 13, 29, -3, -5),
    (10, -18, 15, 0, 11, 3, -12),
    (29, 9, 28, 13, 26, 12, 15, 3),
    (-1, 14, 23, 32, 1, 0, 56, -20, 9),
    (15, -3, 6, -1, 10, -7, -5, 51, 1, -7),
    (7, 7, -2, 4, 7, 12, -5, 2, 3, -18, -1),
    (9, 8, 25, 7, 25, 19, 3, 13, 13, -3, 15, 25),
    (9, -7, -11, -3, 13, -4, 1, 0, -6, 0, -20, 8, 5),
)

# Mean and standard deviation of each normal parameter; draws are cut at two deviations.
_NORMAL: dict[str, tuple[float, float]] = {
    "turn": (0.0, 0.03),  # radians
    "shift_u": (0.0, 0.06),
    "shift_v": (0.0, 0.07),
    "zoom": (1.06, 0.07),
    "thorax": (0.66, 0.04),  # half the inner width of the thorax
    "apex": (-0.70, 0.04),  # v of the lung's top
    "dome": (0.40, 0.07),  # v of the right diaphragm's top
    "dome_step": (0.06, 0.02),  # how much lower the left one stands
    "dome_drop": (0.25, 0.035),  # from the dome's top to the costophrenic angle
    "heart_ratio": (0.44, 0.027),  # cardiothoracic ratio
    "heart_left": (0.68, 0.04),  # share of the heart that lies left of the midline
    "heart_height": (0.66, 0.04),
    "habitus": (0.0, 1.0),  # thin < 0 < obese
    "shoulder": (-0.92, 0.08),
    "arm_slope": (2.0, 0.7),
    "rib_pitch": (0.165, 0.012),
    "rib_tone": (0.06, 0.018),
    "clavicle_tilt": (-0.18, 0.08),
    "depth": (0.42, 0.045),  # brightness that a lung full of air takes away
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
_SIGN_DRAWS = ("strength", "side", "high", "wide", "size", "shape", "tilt", "both")
_WAVES = {"cloud": (0.7, 1.6), "strands": (1.6, 3.2), "mesh": (5.0, 7.0)}  # cycles per unit
_WAVES_PER_FIELD = 10


@dataclass(frozen=True)
class Batch:
    """Images, uint8 of shape (N, S, S), and their labels, uint8 of shape (N, 14)."""

    images: U8
    labels: U8


@dataclass(frozen=True)
class _Draws:
    """What is drawn for N images, the same at every size."""

    labels: U8  # (N, L)
    anatomy: Anatomy
    signs: Field  # (N, L, draws), uniform on 0..1
    waves: Field  # (N, fields, waves, 2), uniform on 0..1: direction, phase

    def take(self, rows: slice | Rows) -> "_Draws":
        anatomy = {name: value[rows] for name, value in self.anatomy.items()}
        return _Draws(self.labels[rows], anatomy, self.signs[rows], self.waves[rows])


@dataclass(frozen=True)
class _Chest:
    """The fields that signs are painted with, all (N, S, S), and scalars as (N, 1, 1)."""

    u: Field
    v: Field
    a: Anatomy
    pixel: float  # the side of a pixel in chest units
    wall: Field  # |u| of the chest wall at this height
    dome: Field  # v of the top of the diaphragm on this side
    floor: Field  # v of the diaphragm here
    cavity: Field  # 0..1, all between the chest walls: lungs, heart and great vessels
    inner: Field  # |u| of the lung's inner border at this height
    cloud: Field  # slow noise, standard deviation 1
    strands: Field  # quicker noise
    mesh: Field  # fine noise

    def take(self, rows: Rows) -> "_Chest":
        cut: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, a={k: value[rows] for k, value in self.a.items()}, **cut)


@dataclass(frozen=True)
class _Sign:
    """Where and how strong one finding is in N images: uniform draws as (N, 1, 1)."""

    strength: Field
    side: Field  # -1 right lung (image left), +1 left lung
    high: Field
    wide: Field
    size: Field
    shape: Field
    tilt: Field
    both: Field


def _edge(distance: Field, softness: float) -> Field:
    """A smooth step from 0 to 1, `softness` wide, at distance 0."""
    t = distance * np.float32(1 / softness)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    step = t * np.float32(-2)
    step += 3
    step *= t
    step *= t
    return step


def _bump(distance: Field) -> Field:
    """A bell that is 1 at 0 and 0 from 1 on; `distance` is squared."""
    t = _positive(1 - distance)
    return t * t


def _clip(t: Field, low: float, high: float) -> Field:
    clipped: Field = np.clip(t, low, high)
    return clipped


def _positive(t: Field) -> Field:
    positive: Field = np.maximum(t, 0)
    return positive


def _arch(t: Field) -> Field:
    """A quarter of an ellipse, from 0 at 0, where it is steep, to 1 at 1, where it is flat."""
    t = _clip(t, 0, 1)
    root: Field = np.sqrt(t * (2 - t))
    return root


def _between(low: float, high: float, t: Field) -> Field:
    return low + (high - low) * t


# --- anatomy ------------------------------------------------------------------------------------


def _wall_at(v: Field, a: Anatomy) -> Field:
    return 0.27 + (a["thorax"] - 0.27) * _arch((v - a["apex"]) / 0.85)


def _inner_at(v: Field, a: Anatomy) -> Field:
    return 0.27 - 0.17 * _arch((v - a["apex"]) / 0.22)


def _dome_at(left: Field, a: Anatomy) -> Field:
    """v of the top of the diaphragm, on the right where `left` is 0, on the left where it is 1."""
    return a["dome_right"] + left * (a["dome_left"] - a["dome_right"])


def _floor_at(across: Field, dome: Field, a: Anatomy) -> Field:
    """v of the diaphragm; `across` is |u| over the thorax's half width."""
    lateral = _positive(across - 0.48) * (1 / 0.52)
    medial = _positive(0.48 - across)
    floor: Field = dome + a["dome_drop"] * lateral * lateral + 0.3 * medial * medial
    return floor


def _chest(draws: _Draws, anatomy: Anatomy, size: int) -> _Chest:
    a = anatomy
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    cos, sin = np.cos(a["turn"]) / a["zoom"], np.sin(a["turn"]) / a["zoom"]
    u = cos * x + sin * y - a["shift_u"]
    v = cos * y - sin * x - a["shift_v"]
    wall, inner = _wall_at(v, a), _inner_at(v, a)
    dome = _dome_at(_edge(u, 0.3), a)
    beside = np.abs(u)
    floor = _floor_at(beside / a["thorax"], dome, a)
    pixel = 2 / size
    inside = np.minimum(np.minimum(wall - beside, v - a["apex"]), floor - v)
    cavity = _edge(inside, max(0.04, 1.2 * pixel))
    noise = [_field(draws.waves[:, k], axis, band) for k, band in enumerate(_WAVES.values())]
    return _Chest(u, v, a, pixel, wall, dome, floor, cavity, inner, *noise)


def _field(waves: Field, axis: Field, band: tuple[float, float]) -> Field:
    """Smooth noise: a sum of plane waves, as one product of matrices per image."""
    n_waves = waves.shape[1]
    angle, phase = 2 * np.pi * waves[..., 0:1], 2 * np.pi * waves[..., 1:2]
    turns = 2 * np.pi * np.linspace(*band, n_waves, dtype=np.float32)[:, None]
    along = turns * np.cos(angle) * axis + phase  # (N, waves, S)
    down = axis[:, None] * (turns * np.sin(angle)).transpose(0, 2, 1)  # (N, S, waves)
    rows = np.concatenate([np.cos(down), -np.sin(down)], axis=2)
    columns = np.concatenate([np.cos(along), np.sin(along)], axis=1)
    field: Field = rows @ columns
    return field * math.sqrt(2 / n_waves)


def _tissue(c: _Chest) -> Field:
    """Brightness of the body without its lungs: outline, shoulders, arms, abdomen."""
    a, beside = c.a, np.abs(c.u)
    half = a["thorax"] + 0.15 + 0.05 * a["habitus"]
    half = half + (0.10 + 0.05 * a["habitus"]) * _positive(c.v - 0.1)
    off_neck = _positive(beside - 0.2)
    top = a["shoulder"] + 0.42 * off_neck * np.sqrt(off_neck)
    under = -0.30 + a["arm_slope"] * (beside - half)
    below_skin = np.minimum(c.v - top, np.maximum(half - beside, under - c.v))
    neck = 0.19 + 0.02 * a["habitus"] - beside
    body = _edge(np.maximum(below_skin, neck), 0.12)
    round_off = np.square(np.square(np.minimum(beside, 1)))
    thickness = 0.60 + 0.03 * a["habitus"] - 0.14 * round_off
    abdomen = _edge(c.v - c.floor, 0.14) * _edge(half - 0.1 - beside, 0.2)
    gas_u, gas_v = 0.30 + 0.2 * a["gas_u"], a["dome_left"] + 0.16
    bubble = _bump(((c.u - gas_u) * 6) ** 2 + ((c.v - gas_v) * 9) ** 2)
    thickness = thickness - 0.5 * _positive(a["gas"] - 0.5) * bubble
    lit = thickness + 0.16 * abdomen + 0.06 * _edge(c.v - 0.1, 1.0) + _breasts(c, beside)
    return body * lit


def _breasts(c: _Chest, beside: Field) -> Field:
    """Soft tissue over the lower lungs of some, with a sharp lower fold."""
    bulk = 0.30 * _positive(c.a["breast"] - 0.55)
    down = c.v - c.a["dome"] + 0.02
    away = ((beside - 0.42) * 3.3) ** 2 + (np.maximum(down * 6.2, down * -2.2)) ** 2
    return bulk * _edge(0.8 - away, 0.9)


def _bones(c: _Chest) -> Field:
    """Spine with its discs, ribs, clavicles; the windpipe takes brightness away."""
    a, beside = c.a, np.abs(c.u)
    discs = 0.85 + 0.15 * np.cos(c.v * 42 + 6 * a["rib_phase"])
    spine = 0.10 * _edge(0.09 - beside, max(0.05, c.pixel)) * discs
    windpipe = 0.10 * _bump((c.u / 0.055) ** 2) * _edge(-0.25 - c.v, 0.2)
    arc = c.v + beside * (0.30 - 0.75 * beside)
    wave = np.cos((2 * np.pi) * (arc / a["rib_pitch"] + a["rib_phase"]))
    caged = _edge(c.wall + 0.04 - beside, 0.06) * _edge(beside - 0.1, 0.1)
    caged *= _edge(c.v - a["apex"] - 0.04, 0.1) * _edge(c.floor + 0.15 - c.v, 0.3)
    # Ribs are thinner than a pixel of the smallest images: there they fade, as they would there.
    ribs = a["rib_tone"] * min(1, 0.05 / c.pixel + 0.1) * caged * np.maximum(wave, -0.2)
    line = c.v - (a["apex"] + 0.13 + a["clavicle_tilt"] * (beside - 0.1))
    clavicle = _bump((line / max(0.045, c.pixel)) ** 2) * _edge(0.35 - np.abs(beside - 0.42), 0.1)
    return spine - windpipe + ribs + 0.10 * clavicle


def _heart(c: _Chest) -> Field:
    """The heart, 0..1, as wide as the cardiothoracic ratio says."""
    a = c.a
    width = 2 * a["thorax"] * a["heart_ratio"]
    left = _edge(c.u, 0.2)
    reach = width * (1 - a["heart_left"]) + left * (width * (2 * a["heart_left"] - 1))
    bottom = a["dome"] + 0.09
    s = (c.v - (bottom - a["heart_height"])) / a["heart_height"]
    below = s - (0.62 + 0.18 * left)  # the belly of the heart's border
    above = np.minimum(below, 0)
    upper = np.maximum(1 - above * above * 1.6, 0.25)
    lower = np.sqrt(_positive(1 - np.square(_positive(below * 2.5))))
    border = reach * upper * lower
    return _edge(border - np.abs(c.u), max(0.06, 1.2 * c.pixel)) * _edge(s, 0.3)


def _mediastinum(c: _Chest) -> Field:
    """Density of the great vessels and the hila, that is of what lies between the lungs."""
    a, beside = c.a, np.abs(c.u)
    band = _edge(c.inner - beside, max(0.06, 1.2 * c.pixel))
    knob = _edge(1 - ((c.u - 0.10) / 0.075) ** 2 - ((c.v + 0.28) / 0.10) ** 2, 1.2) * a["knob"]
    hilum = _bump(((beside - 0.17) / 0.13) ** 2 + ((c.v + 0.02) / 0.22) ** 2)
    return 2.2 * band + 1.0 * knob + 0.45 * hilum


def _vessels(c: _Chest) -> Field:
    """Density of the lung's vessels: threads that fade away from the hila."""
    away = (np.abs(c.u) - 0.15) ** 2 * 5 + (c.v + 0.02) ** 2 * 2.2
    threads = _positive(1 - np.abs(c.strands) * 2.5)
    return 0.30 * threads * _positive(1 - away)


# --- findings -----------------------------------------------------------------------------------


def _centre(c: _Chest, s: _Sign, high: tuple[float, float]) -> tuple[Field, Field]:
    """A place in the lung on the sign's side, between two heights (0 apex, 1 diaphragm)."""
    dome = _dome_at(_clip(s.side, 0, 1), c.a)
    v = c.a["apex"] + _between(*high, s.high) * (dome - c.a["apex"])
    beside_heart = (0.21 + 0.05 * s.side) * _edge(v, 0.4)
    inner, wall = _inner_at(v, c.a) + beside_heart, _wall_at(v, c.a)
    u = s.side * (inner + _between(0.28, 0.78, s.wide) * (wall - inner))
    return u, v


def _on_side(c: _Chest, s: _Sign) -> Bools:
    same: Bools = (c.u > 0) == (s.side > 0)
    return same


def _oval(c: _Chest, at: tuple[Field, Field], half_u: Field, half_v: Field, tilt: Field) -> Field:
    """Squared distance from a centre, 1 on a tilted ellipse."""
    du, dv = c.u - at[0], c.v - at[1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    return ((cos * du + sin * dv) / half_u) ** 2 + ((cos * dv - sin * du) / half_v) ** 2


def _disc(c: _Chest, at: tuple[Field, Field], radius: Field) -> Field:
    away = np.sqrt((c.u - at[0]) ** 2 + (c.v - at[1]) ** 2)
    return _edge(radius - away, max(0.03, 1.3 * c.pixel))


def _under_wall(c: _Chest) -> Field:
    """Depth below the inside of the chest wall, rounded where wall and apex meet."""
    beside = np.maximum(c.wall - np.abs(c.u), 0.001)
    below = np.maximum((c.v - c.a["apex"]) * 0.8, 0.001)
    depth: Field = beside * below / np.sqrt(beside * beside + below * below)
    return depth


def _atelectasis(c: _Chest, s: _Sign) -> Field:
    at = _centre(c, s, (0.68, 0.88))
    tilt = s.side * _between(-0.35, 0.35, s.tilt)
    thick = np.maximum(_between(0.03, 0.06, s.shape), 0.9 * c.pixel)
    plate = _bump(_oval(c, at, _between(0.17, 0.28, s.size), thick, tilt) ** 2)
    return _between(0.08, 1.0, s.strength) * plate


def _effusion(c: _Chest, s: _Sign) -> Field:
    across = np.minimum(np.abs(c.u) / c.wall, 1)
    angle = c.dome + c.a["dome_drop"]
    depth = _between(0.04, 0.80, s.strength)
    surface = angle - depth * (0.6 + 0.4 * np.square(np.square(across)))
    fluid = _edge(c.v - surface, max(0.06, 1.3 * c.pixel))
    return 2.5 * fluid * (_on_side(c, s) | (s.both > 0.75))


def _infiltration(c: _Chest, s: _Sign) -> Field:
    at = _centre(c, s, (0.2, 0.85))
    half = _between(0.20, 0.32, s.size)
    cloud = _bump(_oval(c, at, half, half * _between(0.8, 1.2, s.shape), s.tilt))
    patchy = _clip(0.7 + 0.5 * c.strands, 0.1, 1.5)
    return _between(0.12, 0.80, s.strength) * cloud * patchy


def _mass(c: _Chest, s: _Sign) -> Field:
    disc = _disc(c, _centre(c, s, (0.12, 0.85)), _between(0.07, 0.125, s.size))
    return _between(0.25, 1.4, s.strength) * disc


def _nodule(c: _Chest, s: _Sign) -> Field:
    disc = _disc(c, _centre(c, s, (0.12, 0.9)), _between(0.03, 0.065, s.size))
    return _between(0.4, 1.6, s.strength) * disc


def _pneumonia(c: _Chest, s: _Sign) -> Field:
    at = _centre(c, s, (0.35, 0.9))
    half = _between(0.20, 0.30, s.size)
    lobe = _bump(_oval(c, at, half, half * _between(0.7, 1.0, s.shape), s.tilt))
    return _between(0.10, 0.85, s.strength) * lobe * _clip(0.9 + 0.35 * c.mesh, 0.2, 1.6)


def _pneumothorax(c: _Chest, s: _Sign) -> Field:
    """Air without vessels between the chest wall and the edge of the shrunken lung."""
    top = c.v - c.a["apex"]
    rim = _between(0.03, 0.22, s.strength)
    gap = _under_wall(c) - rim * _clip(1.15 - 0.8 * top, 0, 1)
    air = -0.36 * _edge(-gap, max(0.02, c.pixel)) - _vessels(c) * (gap < 0)
    pleura = 0.45 * _bump((gap / max(0.02, 0.7 * c.pixel)) ** 2)
    collapse = 0.10 * _bump(_positive(gap) ** 2 * 60)
    density: Field = (air + pleura + collapse) * (_on_side(c, s) & (top < 1.1))
    return density


def _consolidation(c: _Chest, s: _Sign) -> Field:
    at = _centre(c, s, (0.25, 0.9))
    half = _between(0.13, 0.22, s.size)
    away = _oval(c, at, half, half * _between(0.75, 1.1, s.shape), s.tilt)
    ragged = away + 0.35 * c.cloud + 0.25 * c.strands
    return _between(0.12, 1.4, s.strength) * _edge(1 - ragged, 0.5)


def _edema(c: _Chest, s: _Sign) -> Field:
    """Bat wings: haze around both hila that spares the periphery."""
    wing = _bump(((np.abs(c.u) - 0.24) / 0.34) ** 2 + ((c.v - 0.02) / 0.55) ** 2)
    patchy = _clip(0.85 + 0.3 * c.strands, 0.2, 1.5)
    return _between(0.04, 0.72, s.strength) * wing * patchy


def _emphysema(c: _Chest, s: _Sign) -> Field:
    return -_between(0.08, 0.35, s.strength) * c.cavity - 0.5 * _vessels(c)


def _fibrosis(c: _Chest, s: _Sign) -> Field:
    across = np.abs(c.u) / c.wall
    below = (c.v - c.a["apex"]) / (c.dome - c.a["apex"])
    where = _edge(across - 0.66, 0.35) * _edge(below - 0.55, 0.4)
    net = 0.25 + _positive(1 - 1.6 * np.abs(c.mesh))
    sides = _on_side(c, s) | (s.both > 0.3)
    return _between(0.08, 1.0, s.strength) * where * net * sides


def _pleural(c: _Chest, s: _Sign) -> Field:
    """A band along the wall; high up it becomes a cap over the apex."""
    top = c.v - c.a["apex"]
    gap = _under_wall(c)
    band = _edge(_between(0.06, 0.12, s.size) - gap, max(0.03, c.pixel))
    along = _bump(((top - _between(0.0, 0.95, s.high)) / _between(0.25, 0.45, s.shape)) ** 4)
    dense = _between(0.3, 2.4, s.strength)
    return dense * band * along * _on_side(c, s)


def _hernia(c: _Chest, s: _Sign) -> Field:
    """A gas-filled stomach behind the heart: a dense wall around a lucent middle."""
    radius = _between(0.11, 0.18, s.strength)
    at = (_between(0.0, 0.12, s.wide), c.a["dome"] - 0.6 * radius)
    gas = _disc(c, (at[0], at[1] - 0.01), 0.72 * radius)
    return 2.0 * _disc(c, at, radius) - _between(3.4, 4.4, s.shape) * gas


_PAINTERS: dict[str, Callable[[_Chest, _Sign], Field]] = {
    "atelectasis": _atelectasis,
    "effusion": _effusion,
    "infiltration": _infiltration,
    "mass": _mass,
    "nodule": _nodule,
    "pneumonia": _pneumonia,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "edema": _edema,
    "emphysema": _emphysema,
    "fibrosis": _fibrosis,
    "pleural": _pleural,
    "hernia": _hernia,
}


def _sign(signs: Field, label: str) -> _Sign:
    columns = signs[:, LABELS.index(label), :, None, None]
    drawn = {name: columns[:, k] for k, name in enumerate(_SIGN_DRAWS)}
    drawn["side"] = np.where(drawn["side"] < 0.5, np.float32(-1), np.float32(1))
    return _Sign(**drawn)


def _deform(draws: _Draws) -> Anatomy:
    """The anatomy once findings have moved it: big heart, raised or flattened diaphragm."""
    a = dict(draws.anatomy)

    def present(label: str) -> Field:
        return draws.labels[:, LABELS.index(label), None, None].astype(np.float32)

    portable = a["view"] < 0.35  # taken from the front: a nearer heart, a shallower breath
    a["dome"] = a["dome"] - 0.06 * portable
    ratio = a["heart_ratio"] * (1 + 0.05 * portable)
    wider = _between(0.06, 0.22, _sign(draws.signs, "cardiomegaly").strength)
    big = np.maximum(ratio, 0.45) + wider
    ratio = np.where(present("cardiomegaly") > 0, big, ratio)
    flat = present("emphysema") * _between(0.10, 0.75, _sign(draws.signs, "emphysema").strength)
    a["dome"] = a["dome"] + 0.14 * flat
    a["dome_drop"] = a["dome_drop"] * (1 - 0.55 * flat)
    a["heart_ratio"] = ratio - 0.03 * flat * (1 - present("cardiomegaly"))
    plate = _sign(draws.signs, "atelectasis")
    lift = present("atelectasis") * _between(0.0, 0.04, plate.strength)
    a["dome_right"] = a["dome"] - lift * (plate.side < 0)
    a["dome_left"] = a["dome"] + a["dome_step"] - lift * (plate.side > 0)
    return {name: value.astype(np.float32) for name, value in a.items()}


# --- the picture --------------------------------------------------------------------------------


def _film(draws: _Draws, size: int) -> tuple[Field, dict[str, Field]]:
    """Brightness before exposure and noise, about 0..1, and the organs, 0..1; all (N, S, S)."""
    c = _chest(draws, _deform(draws), size)
    heart = _heart(c)
    density = np.maximum(2.2 * heart, _mediastinum(c)) + _vessels(c)
    density += c.a["patchiness"] * c.cloud + c.a["haze"]
    for label, paint in _PAINTERS.items():
        rows = np.flatnonzero(draws.labels[:, LABELS.index(label)])
        if rows.size:
            density[rows] += paint(c.take(rows), _sign(draws.signs[rows], label))
    air = c.a["depth"] * c.cavity * np.exp(-density)
    lungs = c.cavity * (1 - heart) * (np.abs(c.u) > c.inner)
    film = _tissue(c) + _bones(c) - air + 0.05 * heart
    return film, {"heart": heart, "lungs": lungs}


def _expose(film: Field, a: Anatomy, rng: np.random.Generator) -> U8:
    """The digital image: exposure, noise, collimator borders and side marker."""
    size = film.shape[-1]
    grain = rng.random((len(film), size + 1, size + 1), dtype=np.float32) - np.float32(0.5)
    grain = grain[:, 1:, 1:] + 0.6 * (grain[:, :-1, 1:] + grain[:, 1:, :-1])
    exposed = np.clip(a["offset"] + a["gain"] * film, 0, 1) ** a["gamma"]
    exposed += (0.010 + 0.030 * a["noise"]) * grain
    _mark(exposed, a)
    return np.rint(np.clip(exposed, 0, 1) * 255).astype(np.uint8)


def _mark(exposed: Field, a: Anatomy) -> None:
    """Paints, in place, what is not the patient: a side marker and the collimator's shadow."""
    size = exposed.shape[-1]
    for k in range(len(exposed)):
        border = a["border"][k].item()
        if border < 0.2:
            width = round((0.02 + 0.3 * border) * size)
            turned = np.rot90(exposed[k], int(a["border_side"][k].item() * 4))
            turned[:width] = 0.01
        if a["marker"][k].item() < 0.6:
            top = int((0.03 + 0.10 * a["marker_v"][k].item()) * size)
            left = int((0.84 + 0.08 * a["marker_u"][k].item()) * size)
            tall, stroke = max(2, size // 16), max(1, size // 64)
            exposed[k, top : top + tall, left : left + stroke] = 0.92
            exposed[k, top + tall - stroke : top + tall, left : left + tall // 2 + stroke] = 0.92


# --- drawing ------------------------------------------------------------------------------------


def _label_factor() -> npt.NDArray[np.float64]:
    correlation = np.eye(len(LABELS))
    for row, values in enumerate(_TETRACHORIC, start=1):
        correlation[row, :row] = correlation[:row, row] = np.array(values) / 100
    return np.linalg.cholesky(correlation).astype(np.float64)


_LABEL_FACTOR = _label_factor()
_LABEL_CUT = np.array([NormalDist().inv_cdf(n / _TRAIN_IMAGES) for n in _TRAIN_POSITIVES])


def _draw(seed: int, split: str, block: int) -> _Draws:
    rng = np.random.default_rng([seed, SPLITS.index(split), block])
    labels = rng.standard_normal((_BLOCK, len(LABELS))) @ _LABEL_FACTOR.T < _LABEL_CUT
    normal = np.clip(rng.standard_normal((_BLOCK, len(_NORMAL), 1, 1)), -2, 2)
    anatomy = {
        name: (mean + sd * normal[:, k]).astype(np.float32)
        for k, (name, (mean, sd)) in enumerate(_NORMAL.items())
    }
    uniform = rng.random((_BLOCK, len(_UNIFORM), 1, 1), dtype=np.float32)
    anatomy |= {name: uniform[:, k] for k, name in enumerate(_UNIFORM)}
    signs = rng.random((_BLOCK, len(LABELS), len(_SIGN_DRAWS)), dtype=np.float32)
    waves = rng.random((_BLOCK, len(_WAVES), _WAVES_PER_FIELD, 2), dtype=np.float32)
    return _Draws(labels.astype(np.uint8), anatomy, signs, waves)


def _part(size: int) -> int:
    """How many images are rendered at once, a divisor of the block."""
    return 1 << max(0, (_PART_PIXELS // size**2).bit_length() - 1)


def _parts(
    seed: int, split: str, start: int, stop: int, size: int
) -> Iterator[tuple[_Draws, tuple[int, int], slice]]:
    """Fixed runs of images that cover start..stop: draws, (block, offset), the rows asked for."""
    _check(seed, split, start, stop, size)
    step = _part(size)
    block, draws = -1, None
    for first in range(start // step * step, stop, step):
        if first // _BLOCK != block or draws is None:
            block = first // _BLOCK
            draws = _draw(seed, split, block)
        offset = first % _BLOCK
        wanted = slice(max(start - first, 0), min(stop - first, step))
        yield draws.take(slice(offset, offset + step)), (block, offset), wanted


def _check(seed: int, split: str, start: int, stop: int, size: int) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise CxrError(f"phantom size {size} is outside {MIN_SIZE}..{MAX_SIZE} pixels")
    if split not in SPLITS:
        raise CxrError(f"phantom split {split!r} is none of {', '.join(SPLITS)}")
    if not 0 <= start <= stop:
        raise CxrError(f"phantom range {start}..{stop} needs 0 <= start <= stop")
    if seed < 0:
        raise CxrError(f"phantom seed {seed} is negative; use 0 or more")


def render(seed: int, split: str, start: int, stop: int, size: int) -> Batch:
    """Images start..stop of a split.

    Parameters
    ----------
    seed : 0 or more; another seed is another data set
    split : "train", "val" or "test"
    start, stop : the range of indices, 0 <= start <= stop; how it is cut changes nothing
    size : side in pixels, 28 to 224

    Returns
    -------
    Batch of images (stop - start, size, size) and labels (stop - start, 14), both uint8

    Raises
    ------
    CxrError : a value outside its range
    """
    return _render(seed, split, start, stop, size)


def _render(
    seed: int, split: str, start: int, stop: int, size: int, without: str | None = None
) -> Batch:
    """As `render`; `without` names a finding that is labelled but left unpainted."""
    images = np.empty((max(stop - start, 0), size, size), np.uint8)
    labels = np.empty((len(images), len(LABELS)), np.uint8)
    done = 0
    for draws, place, wanted in _parts(seed, split, start, stop, size):
        rng = np.random.default_rng([seed, SPLITS.index(split), *place, size])
        film, _ = _film(draws if without is None else _unlabel(draws, without), size)
        part = _expose(film, draws.anatomy, rng)[wanted]
        images[done : done + len(part)] = part
        labels[done : done + len(part)] = draws.labels[wanted]
        done += len(part)
    return Batch(images, labels)


def _unlabel(draws: _Draws, label: str) -> _Draws:
    labels = draws.labels.copy()
    labels[:, LABELS.index(label)] = 0
    return replace(draws, labels=labels)


def masks(seed: int, split: str, start: int, stop: int, size: int) -> Bools:
    """Where each finding of images start..stop shows; arguments as for `render`.

    A pixel belongs to a finding if taking the finding away changes the noise-free film there by at
    least a quarter of the largest change. Cardiomegaly's mask is the whole heart, emphysema's both lungs.

    Returns
    -------
    bool array of shape (stop - start, 14, size, size); all False for a label that is absent
    """
    shown = np.zeros((max(stop - start, 0), len(LABELS), size, size), np.bool_)
    done = 0
    for draws, _, wanted in _parts(seed, split, start, stop, size):
        film, organs = _film(draws, size)
        part = np.zeros((len(film), len(LABELS), size, size), np.bool_)
        for k, label in enumerate(LABELS):
            positive = np.flatnonzero(draws.labels[:, k])
            if label in _ORGAN:
                part[positive, k] = organs[_ORGAN[label]][positive] > 0.5
            elif positive.size:
                without, _ = _film(_unlabel(draws.take(positive), label), size)
                change = np.abs(film[positive] - without)
                part[positive, k] = change > _MASK_SHARE * change.max(axis=(1, 2), keepdims=True)
        shown[done : done + wanted.stop - wanted.start] = part[wanted]
        done += wanted.stop - wanted.start
    return shown
