"""Array types shared by several packages."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
