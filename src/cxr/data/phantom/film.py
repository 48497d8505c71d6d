"""The film: the absorption of chest and findings, then exposure, noise, borders and side marker.

Soft tissue and bone brighten the film, the air of the thoracic cavity darkens it by
`depth * cavity * exp(-density)`, and heart, vessels and findings are densities in that air.
Overlapping findings therefore saturate as on real film, and no finding shows outside the chest.
"""

import numpy as np
import numpy.typing as npt

from cxr.data.phantom.anatomy import (
    bone_brightness,
    chest,
    heart_share,
    mediastinum_density,
    tissue_brightness,
    vessel_density,
)
from cxr.data.phantom.draws import Anatomy, Draws
from cxr.data.phantom.shapes import Field
from cxr.data.phantom.signs import PAINTERS, deform


def picture(draws: Draws, size: int) -> tuple[Field, dict[str, Field]]:
    """The noise-free film, about 0..1, and by label the organs (0..1) whose size is the finding.

    All are float32 of shape (N, S, S).
    """
    c = chest(deform(draws), draws.waves, size)
    heart = heart_share(c)
    density = np.maximum(2.2 * heart, mediastinum_density(c)) + vessel_density(c)
    density += c.a["patchiness"] * c.cloud + c.a["haze"]
    for label, paint in PAINTERS.items():
        rows = draws.positive(label)
        if rows.size:
            density[rows] += paint(c.take(rows), draws.sign(label, rows))
    air = c.a["depth"] * c.cavity * np.exp(-density)
    lungs = c.cavity * (1 - heart) * (np.abs(c.u) > c.inner)
    film = tissue_brightness(c) + bone_brightness(c) - air + 0.05 * heart
    return film, {"cardiomegaly": heart, "emphysema": lungs}


def expose(film: Field, a: Anatomy, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The digital image: exposure, noise, collimator borders and side marker."""
    size = film.shape[-1]
    grain = rng.random((len(film), size + 1, size + 1), dtype=np.float32) - np.float32(0.5)
    grain = grain[:, 1:, 1:] + 0.6 * (grain[:, :-1, 1:] + grain[:, 1:, :-1])
    exposed = np.clip(a["offset"] + a["gain"] * film, 0, 1) ** a["gamma"]
    exposed += (0.010 + 0.030 * a["noise"]) * grain
    _mark(exposed, a)
    return np.rint(np.clip(exposed, 0, 1) * 255).astype(np.uint8)


def _mark(exposed: Field, a: Anatomy) -> None:
    """Paint a side marker and the collimator's shadow, in place."""
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
