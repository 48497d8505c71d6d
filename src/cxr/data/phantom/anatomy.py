"""The healthy chest: its geometry and the contribution of each part to the film.

Chest frame: u runs from the midline to the image's right (the patient's left), v downwards; the
image spans about -1..1 in both; 0.045 is about a centimetre (a thorax of 30 cm).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxr.data.phantom.draws import NOISES, Anatomy, Rows
from cxr.data.phantom.shapes import Field, arch, bump, edge, ramp


@dataclass(frozen=True)
class Chest:
    """The fields that findings are painted with, (N, S, S) each; scalars are (N, 1, 1)."""

    u: Field
    v: Field
    a: Anatomy
    pixel: float  # the side of a pixel in chest units
    wall: Field  # |u| of the chest wall at this height
    dome: Field  # v of the top of the diaphragm on this side
    floor: Field  # v of the diaphragm here
    cavity: Field  # 0..1, everything between the chest walls: lungs, heart and great vessels
    inner: Field  # |u| of the lung's inner border at this height
    cloud: Field  # low-frequency noise, standard deviation 1
    strands: Field  # medium-frequency noise
    mesh: Field  # high-frequency noise

    def take(self, rows: Rows) -> "Chest":
        cut: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, a={k: value[rows] for k, value in self.a.items()}, **cut)


def wall_at(v: Field, a: Anatomy) -> Field:
    return 0.27 + (a["thorax"] - 0.27) * arch((v - a["apex"]) / 0.85)


def inner_at(v: Field, a: Anatomy) -> Field:
    return 0.27 - 0.17 * arch((v - a["apex"]) / 0.22)


def dome_at(left: Field, a: Anatomy) -> Field:
    """v of the top of the diaphragm: right side where `left` is 0, left side where it is 1."""
    return a["dome_right"] + left * (a["dome_left"] - a["dome_right"])


def _floor_at(across: Field, dome: Field, a: Anatomy) -> Field:
    """v of the diaphragm; `across` is |u| over the thorax's half width."""
    lateral = ramp(across - 0.48) * (1 / 0.52)
    medial = ramp(0.48 - across)
    floor: Field = dome + a["dome_drop"] * lateral * lateral + 0.3 * medial * medial
    return floor


def chest(a: Anatomy, waves: Field, size: int) -> Chest:
    """The chests of N images: `a` as `signs.deform` leaves it, `waves` as in `Draws`, S pixels."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    cos, sin = np.cos(a["turn"]) / a["zoom"], np.sin(a["turn"]) / a["zoom"]
    u = cos * x + sin * y - a["shift_u"]
    v = cos * y - sin * x - a["shift_v"]
    wall, inner = wall_at(v, a), inner_at(v, a)
    dome = dome_at(edge(u, 0.3), a)
    abs_u = np.abs(u)
    floor = _floor_at(abs_u / a["thorax"], dome, a)
    pixel = 2 / size
    inside = np.minimum(np.minimum(wall - abs_u, v - a["apex"]), floor - v)
    cavity = edge(inside, max(0.04, 1.2 * pixel))
    noises = {
        name: _noise(waves[:, k], axis, band) for k, (name, band) in enumerate(NOISES.items())
    }
    return Chest(u, v, a, pixel, wall, dome, floor, cavity, inner, **noises)


def _noise(waves: Field, axis: Field, band: tuple[float, float]) -> Field:
    """Smooth noise: a sum of plane waves, as one matrix product per image."""
    n_waves = waves.shape[1]
    angle, phase = 2 * np.pi * waves[..., 0:1], 2 * np.pi * waves[..., 1:2]
    turns = 2 * np.pi * np.linspace(*band, n_waves, dtype=np.float32)[:, None]
    along = turns * np.cos(angle) * axis + phase  # (N, waves, S)
    down = axis[:, None] * (turns * np.sin(angle)).transpose(0, 2, 1)  # (N, S, waves)
    rows = np.concatenate([np.cos(down), -np.sin(down)], axis=2)
    columns = np.concatenate([np.cos(along), np.sin(along)], axis=1)
    field: Field = rows @ columns
    return field * math.sqrt(2 / n_waves)


def tissue_brightness(c: Chest) -> Field:
    """Brightness of the body without its lungs: outline, shoulders, arms, abdomen."""
    a, abs_u = c.a, np.abs(c.u)
    half = a["thorax"] + 0.15 + 0.05 * a["habitus"]
    half = half + (0.10 + 0.05 * a["habitus"]) * ramp(c.v - 0.1)
    off_neck = ramp(abs_u - 0.2)
    top = a["shoulder"] + 0.42 * off_neck * np.sqrt(off_neck)
    under = -0.30 + a["arm_slope"] * (abs_u - half)
    below_skin = np.minimum(c.v - top, np.maximum(half - abs_u, under - c.v))
    neck = 0.19 + 0.02 * a["habitus"] - abs_u
    body = edge(np.maximum(below_skin, neck), 0.12)
    round_off = np.square(np.square(np.minimum(abs_u, 1)))
    thickness = 0.60 + 0.03 * a["habitus"] - 0.14 * round_off
    abdomen = edge(c.v - c.floor, 0.14) * edge(half - 0.1 - abs_u, 0.2)
    gas_u, gas_v = 0.30 + 0.2 * a["gas_u"], a["dome_left"] + 0.16
    bubble = bump(((c.u - gas_u) * 6) ** 2 + ((c.v - gas_v) * 9) ** 2)
    thickness = thickness - 0.5 * ramp(a["gas"] - 0.5) * bubble
    lit = thickness + 0.16 * abdomen + 0.06 * edge(c.v - 0.1, 1.0) + _breasts(c, abs_u)
    return body * lit


def _breasts(c: Chest, abs_u: Field) -> Field:
    """Soft tissue over the lower lungs in some images, with a sharp lower fold."""
    bulk = 0.30 * ramp(c.a["breast"] - 0.55)
    down = c.v - c.a["dome"] + 0.02
    away = ((abs_u - 0.42) * 3.3) ** 2 + (np.maximum(down * 6.2, down * -2.2)) ** 2
    return bulk * edge(0.8 - away, 0.9)


def bone_brightness(c: Chest) -> Field:
    """Spine with its discs, ribs and clavicles; the windpipe reduces brightness."""
    a, abs_u = c.a, np.abs(c.u)
    discs = 0.85 + 0.15 * np.cos(c.v * 42 + 6 * a["rib_phase"])
    spine = 0.10 * edge(0.09 - abs_u, max(0.05, c.pixel)) * discs
    windpipe = 0.10 * bump((c.u / 0.055) ** 2) * edge(-0.25 - c.v, 0.2)
    arc = c.v + abs_u * (0.30 - 0.75 * abs_u)
    wave = np.cos((2 * np.pi) * (arc / a["rib_pitch"] + a["rib_phase"]))
    caged = edge(c.wall + 0.04 - abs_u, 0.06) * edge(abs_u - 0.1, 0.1)
    caged *= edge(c.v - a["apex"] - 0.04, 0.1) * edge(c.floor + 0.15 - c.v, 0.3)
    # Ribs are thinner than a pixel of the smallest images, so there they fade.
    ribs = a["rib_tone"] * min(1, 0.05 / c.pixel + 0.1) * caged * np.maximum(wave, -0.2)
    line = c.v - (a["apex"] + 0.13 + a["clavicle_tilt"] * (abs_u - 0.1))
    clavicle = bump((line / max(0.045, c.pixel)) ** 2) * edge(0.35 - np.abs(abs_u - 0.42), 0.1)
    return spine - windpipe + ribs + 0.10 * clavicle


def heart_share(c: Chest) -> Field:
    """The heart, 0..1; its width follows from the cardiothoracic ratio."""
    a = c.a
    width = 2 * a["thorax"] * a["heart_ratio"]
    left = edge(c.u, 0.2)
    reach = width * (1 - a["heart_left"]) + left * (width * (2 * a["heart_left"] - 1))
    bottom = a["dome"] + 0.09
    s = (c.v - (bottom - a["heart_height"])) / a["heart_height"]
    below = s - (0.62 + 0.18 * left)  # the widest point of the heart's border
    above = np.minimum(below, 0)
    upper = np.maximum(1 - above * above * 1.6, 0.25)
    lower = np.sqrt(ramp(1 - np.square(ramp(below * 2.5))))
    border = reach * upper * lower
    return edge(border - np.abs(c.u), max(0.06, 1.2 * c.pixel)) * edge(s, 0.3)


def mediastinum_density(c: Chest) -> Field:
    """Density of the great vessels and the hila, between the lungs."""
    a, abs_u = c.a, np.abs(c.u)
    band = edge(c.inner - abs_u, max(0.06, 1.2 * c.pixel))
    knob = edge(1 - ((c.u - 0.10) / 0.075) ** 2 - ((c.v + 0.28) / 0.10) ** 2, 1.2) * a["knob"]
    hilum = bump(((abs_u - 0.17) / 0.13) ** 2 + ((c.v + 0.02) / 0.22) ** 2)
    return 2.2 * band + 1.0 * knob + 0.45 * hilum


def vessel_density(c: Chest) -> Field:
    """Density of the lung's vessels: threads that fade with distance from the hila."""
    away = (np.abs(c.u) - 0.15) ** 2 * 5 + (c.v + 0.02) ** 2 * 2.2
    threads = ramp(1 - np.abs(c.strands) * 2.5)
    return 0.30 * threads * ramp(1 - away)
