"""Time and memory of every stage by number and size of images.

`python -m bench.growth` takes ten minutes. It reports seconds of the whole process and megabytes
above `import torch`, on phantoms of 1, 2, 4 and 8 times as many images, and of 28, 64 and 128 px.
"""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import stages
from bench.memory import ONE_PASS

N, TIMES = 5000, (1, 2, 4, 8)  # training images; validation and test are in proportion
SMALL_N, SIZES = 2000, (28, 64, 128)
PATCHES = 8  # approximate patches per row, because a ViT's cost depends on the number of tokens


def main() -> None:
    torch = stages.cost(["-c", "import torch"], stages.PROJECT)
    by_number = {f"{n}x": _costs(N * n, 28, torch) for n in TIMES}
    by_size = {f"{size} px": _costs(SMALL_N, size, torch) for size in SIZES}
    for title, columns in (
        (f"1x: {N:,} training images of 28 px", by_number),
        (f"{SMALL_N:,} training images", by_size),
    ):
        Console(width=110).print(_table(title, columns))


def _costs(n: int, size: int, torch: stages.Cost) -> dict[str, str]:
    changes: dict[str, Any] = ONE_PASS | {
        "download.size": size,
        "download.phantom.train": n,
        "download.phantom.val": n // 7,
        "download.phantom.test": n * 2 // 7,
        "train.squeezenet.image_size": 64,
        "train.vit.patch": max(4, size // PATCHES),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        stages.clone(folder, changes)
        costs = {stage: stages.run(stage, folder) for stage in stages.ORDER}
    return {
        stage: f"{cost.seconds:.1f} s, {max(0.0, cost.megabytes - torch.megabytes):.0f} MB"
        for stage, cost in costs.items()
    }


def _table(title: str, columns: dict[str, dict[str, str]]) -> Table:
    costs = Table("stage", *columns, title=title)
    for stage in stages.ORDER:
        costs.add_row(stage, *(column[stage] for column in columns.values()))
    return costs


if __name__ == "__main__":
    main()
