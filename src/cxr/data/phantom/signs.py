"""The appearance of each finding: a density added to the lung's air, or a changed anatomy.

A painter returns the density (N, S, S) that its finding adds to the given chests.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cxr.data.phantom.anatomy import Chest, dome_at, inner_at, vessel_density, wall_at
from cxr.data.phantom.draws import AP_SHARE, Anatomy, Draws, Sign
from cxr.data.phantom.shapes import Field, between, bump, clip, edge, ramp
from cxr.labels import CHESTMNIST

LOCAL_SIGNS: tuple[str, ...] = tuple(
    label for label in CHESTMNIST if label not in ("cardiomegaly", "edema", "emphysema")
)


def deform(draws: Draws) -> Anatomy:
    """The anatomy as changed by findings: enlarged heart, raised or flattened diaphragm."""
    a = dict(draws.anatomy)

    def present(label: str) -> Field:
        return draws.labels[:, CHESTMNIST.index(label), None, None].astype(np.float32)

    portable = a["view"] < AP_SHARE  # AP view: magnified heart, shallower inspiration
    a["dome"] = a["dome"] - 0.06 * portable
    ratio = a["heart_ratio"] * (1 + 0.05 * portable)
    wider = between(0.06, 0.22, draws.sign("cardiomegaly").strength)
    big = np.maximum(ratio, 0.45) + wider
    ratio = np.where(present("cardiomegaly") > 0, big, ratio)
    flat = present("emphysema") * between(0.10, 0.75, draws.sign("emphysema").strength)
    a["dome"] = a["dome"] + 0.14 * flat
    a["dome_drop"] = a["dome_drop"] * (1 - 0.55 * flat)
    a["heart_ratio"] = ratio - 0.03 * flat * (1 - present("cardiomegaly"))
    plate = draws.sign("atelectasis")
    lift = present("atelectasis") * between(0.0, 0.04, plate.strength)
    a["dome_right"] = a["dome"] - lift * (plate.side < 0)
    a["dome_left"] = a["dome"] + a["dome_step"] - lift * (plate.side > 0)
    return {name: value.astype(np.float32) for name, value in a.items()}


def _centre(c: Chest, s: Sign, high: tuple[float, float]) -> tuple[Field, Field]:
    """A point in the lung on the sign's side, between two heights (0 apex, 1 diaphragm)."""
    dome = dome_at(clip(s.side, 0, 1), c.a)
    v = c.a["apex"] + between(*high, s.high) * (dome - c.a["apex"])
    heart_offset = (0.21 + 0.05 * s.side) * edge(v, 0.4)
    inner, wall = inner_at(v, c.a) + heart_offset, wall_at(v, c.a)
    u = s.side * (inner + between(0.28, 0.78, s.wide) * (wall - inner))
    return u, v


def _on_side(c: Chest, s: Sign) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (c.u > 0) == (s.side > 0)
    return same


def _oval(c: Chest, at: tuple[Field, Field], half_u: Field, half_v: Field, tilt: Field) -> Field:
    """Squared distance from a centre, scaled to 1 on a tilted ellipse."""
    du, dv = c.u - at[0], c.v - at[1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    return ((cos * du + sin * dv) / half_u) ** 2 + ((cos * dv - sin * du) / half_v) ** 2


def _disc(c: Chest, at: tuple[Field, Field], radius: Field) -> Field:
    away = np.sqrt((c.u - at[0]) ** 2 + (c.v - at[1]) ** 2)
    return edge(radius - away, max(0.03, 1.3 * c.pixel))


def _under_wall(c: Chest) -> Field:
    """Depth below the inside of the chest wall, rounded where wall and apex meet."""
    to_wall = np.maximum(c.wall - np.abs(c.u), 0.001)
    from_apex = np.maximum((c.v - c.a["apex"]) * 0.8, 0.001)
    depth: Field = to_wall * from_apex / np.sqrt(to_wall * to_wall + from_apex * from_apex)
    return depth


def _atelectasis(c: Chest, s: Sign) -> Field:
    at = _centre(c, s, (0.68, 0.88))
    tilt = s.side * between(-0.35, 0.35, s.tilt)
    thick = np.maximum(between(0.10, 0.15, s.shape), 0.9 * c.pixel)
    plate = bump(_oval(c, at, between(0.26, 0.42, s.size), thick, tilt) ** 2)
    return between(0.2, 1.0, s.strength) * plate


def _effusion(c: Chest, s: Sign) -> Field:
    across = np.minimum(np.abs(c.u) / c.wall, 1)
    angle = c.dome + c.a["dome_drop"]
    depth = between(0.25, 1.0, s.strength)
    surface = angle - depth * (0.6 + 0.4 * np.square(np.square(across)))
    fluid = edge(c.v - surface, max(0.06, 1.3 * c.pixel))
    return 2.5 * fluid * (_on_side(c, s) | (s.both > 0.75))


def _infiltration(c: Chest, s: Sign) -> Field:
    at = _centre(c, s, (0.2, 0.85))
    half = between(0.40, 0.60, s.size)
    cloud = bump(_oval(c, at, half, half * between(0.8, 1.2, s.shape), s.tilt))
    patchy = clip(0.7 + 0.5 * c.strands, 0.1, 1.5)
    return between(0.25, 0.90, s.strength) * cloud * patchy


def _mass(c: Chest, s: Sign) -> Field:
    disc = _disc(c, _centre(c, s, (0.12, 0.85)), between(0.12, 0.22, s.size))
    return between(0.4, 1.4, s.strength) * disc


def _nodule(c: Chest, s: Sign) -> Field:
    disc = _disc(c, _centre(c, s, (0.12, 0.9)), between(0.05, 0.075, s.size))
    return between(0.7, 1.8, s.strength) * disc


def _pneumonia(c: Chest, s: Sign) -> Field:
    at = _centre(c, s, (0.35, 0.9))
    half = between(0.40, 0.56, s.size)
    lobe = bump(_oval(c, at, half, half * between(0.7, 1.0, s.shape), s.tilt))
    return between(0.25, 0.90, s.strength) * lobe * clip(0.9 + 0.35 * c.mesh, 0.2, 1.6)


def _pneumothorax(c: Chest, s: Sign) -> Field:
    """Air without vessels between the chest wall and the edge of the shrunken lung."""
    top = c.v - c.a["apex"]
    rim = between(0.08, 0.25, s.strength)
    gap = _under_wall(c) - rim * clip(1.15 - 0.8 * top, 0, 1)
    air = -0.36 * edge(-gap, max(0.02, c.pixel)) - vessel_density(c) * (gap < 0)
    pleura = 0.45 * bump((gap / max(0.02, 0.7 * c.pixel)) ** 2)
    collapse = 0.10 * bump(ramp(gap) ** 2 * 60)
    density: Field = (air + pleura + collapse) * (_on_side(c, s) & (top < 1.1))
    return density


def _consolidation(c: Chest, s: Sign) -> Field:
    at = _centre(c, s, (0.25, 0.9))
    half = between(0.26, 0.42, s.size)
    away = _oval(c, at, half, half * between(0.75, 1.1, s.shape), s.tilt)
    ragged = away + 0.35 * c.cloud + 0.25 * c.strands
    return between(0.3, 1.4, s.strength) * edge(1 - ragged, 0.5)


def _edema(c: Chest, s: Sign) -> Field:
    """Bat-wing haze around both hila that spares the periphery."""
    wing = bump(((np.abs(c.u) - 0.24) / 0.34) ** 2 + ((c.v - 0.02) / 0.55) ** 2)
    patchy = clip(0.85 + 0.3 * c.strands, 0.2, 1.5)
    return between(0.04, 0.72, s.strength) * wing * patchy


def _emphysema(c: Chest, s: Sign) -> Field:
    return -between(0.08, 0.35, s.strength) * c.cavity - 0.5 * vessel_density(c)


def _fibrosis(c: Chest, s: Sign) -> Field:
    across = np.abs(c.u) / c.wall
    below = (c.v - c.a["apex"]) / (c.dome - c.a["apex"])
    where = edge(across - 0.66, 0.35) * edge(below - 0.55, 0.4)
    net = 0.25 + ramp(1 - 1.6 * np.abs(c.mesh))
    sides = _on_side(c, s) | (s.both > 0.3)
    return between(0.25, 1.0, s.strength) * where * net * sides


def _pleural(c: Chest, s: Sign) -> Field:
    """A band along the wall; near the top it becomes an apical cap."""
    top = c.v - c.a["apex"]
    gap = _under_wall(c)
    band = edge(between(0.10, 0.18, s.size) - gap, max(0.03, c.pixel))
    along = bump(((top - between(0.0, 0.95, s.high)) / between(0.25, 0.45, s.shape)) ** 4)
    dense = between(0.6, 2.4, s.strength)
    return dense * band * along * _on_side(c, s)


def _hernia(c: Chest, s: Sign) -> Field:
    """A gas-filled stomach behind the heart: a dense wall around a lucent middle."""
    radius = between(0.17, 0.26, s.strength)
    at = (between(0.0, 0.12, s.wide), c.a["dome"] - 0.6 * radius)
    gas = _disc(c, (at[0], at[1] - 0.01), 0.72 * radius)
    return 2.0 * _disc(c, at, radius) - between(3.4, 4.4, s.shape) * gas


PAINTERS: dict[str, Callable[[Chest, Sign], Field]] = {
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
