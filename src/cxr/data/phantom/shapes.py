"""Drawing primitives in float32: soft-edged steps, bells and arches."""

from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]  # always float32


def edge(distance: Field, softness: float) -> Field:
    """A smooth step from 0 to 1, `softness` wide, at distance 0."""
    t = distance * np.float32(1 / softness)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    step = t * np.float32(-2)
    step += 3
    step *= t
    step *= t
    return step


def bump(distance: Field) -> Field:
    """A bell: 1 at 0, and 0 from 1 upwards; `distance` is a squared distance."""
    t = ramp(1 - distance)
    return t * t


def clip(t: Field, low: float, high: float) -> Field:
    clipped: Field = np.clip(t, low, high)
    return clipped


def ramp(t: Field) -> Field:
    """max(t, 0)."""
    ramped: Field = np.maximum(t, 0)
    return ramped


def arch(t: Field) -> Field:
    """A quarter ellipse from (0, 0), where it is steep, to (1, 1), where it is flat."""
    t = clip(t, 0, 1)
    root: Field = np.sqrt(t * (2 - t))
    return root


def between(low: float, high: float, t: Field) -> Field:
    return low + (high - low) * t
