"""Valid inputs to corrupt, and the requirements on every refusal of an invalid one."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data.ood import OodReference
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.hashing import Digest
from cxr.labels import CHESTMNIST
from cxr.lineage.facts import RESULT_AFFECTING_PACKAGES, Facts
from cxr.lineage.records import SCHEMA, Record
from cxr.lineage.run_log import Registration, RunLog, Slide

ROOT = Path(__file__).parents[2]
MD5, OTHER_MD5 = "0123456789abcdef" * 2, "fedcba9876543210" * 2
BLOB, COMMIT = "0123456789" * 4, "9876543210" * 4
MEMORY = 2**26  # bytes; no invalid input may use more


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """The one-line message with which a call refuses its input."""
    with pytest.raises(CxrError) as caught, bounded():
        call(*arguments)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1100
    return text


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if more than MEMORY bytes are allocated."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, f"{peak:,} bytes"


def arrays(n: int = 3, side: int = 8) -> dict[str, Any]:
    """A small file of images in ChestMNIST's layout."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        made[f"{split}_images"] = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        made[f"{split}_labels"] = rng.integers(0, 2, (n, 14), dtype=np.uint8)
        made[f"{split}_ids"] = np.array([f"{split}-{i}.png" for i in range(n)])
        made[f"{split}_patients"] = np.arange(n)
    return made


def record() -> dict[str, Any]:
    """The JSON of a record."""
    digest = Digest(MD5 + ".dir", 10, 2)
    facts = Facts(
        stage="train-cnn",
        command="PYTHONPATH=src python stages/train.py cnn",
        dependencies={"data/processed": digest, "src/cxr/evaluation/metrics.py": Digest(MD5, 3)},
        inputs={"data/processed": MD5 + ".dir"},
        params={"seed": 0, "train.cnn.channels": [4, 8, 16], "train.cnn.lr": 0.001},
        foreign={"/anywhere/mine.npz": MD5},
        code={
            "commit": COMMIT,
            "files": {"src/cxr/evaluation/metrics.py": BLOB},
            "deciding": ["src/cxr/evaluation/metrics.py"],
            "edited": ["src/cxr/evaluation/metrics.py"],
            "patch": "--- a\n+++ b\n",
        },
        environment={
            "python": "3.11.7",
            "packages": dict.fromkeys(RESULT_AFFECTING_PACKAGES, "1.0"),
            "system": "Linux",
            "machine": "x86_64",
            "cpu": "a processor",
            "device": "cpu",
            "threads": 2,
        },
    )
    log = RunLog(
        name="train-cnn",
        model="cnn",
        run_id=MD5,
        params={"seed": 0},
        tags={"cxr.stage": "train-cnn"},
        datasets=[{"name": "d", "digest": MD5, "source": "data", "context": "training"}],
        history=[{"epoch": 1, "loss/train": 0.5}],
        metrics={"best/epoch": 1.0},
        artifacts=["reports/cnn/curves.png"],
        slides=[Slide("reports/gradcam/cnn/1/mass.png", "maps", 1)],
        registration=Registration(["models/cnn/model.json"], 0.7, MD5),
    )
    made = Record(
        schema=SCHEMA,
        stage="train-cnn",
        fingerprint=facts.fingerprint,
        data=Origin("phantom-28", "phantom"),
        facts=facts,
        outputs={"models/cnn": digest, "reports/cnn/train.json": Digest(OTHER_MD5, 5)},
        runs=[log],
        started="2024-05-01T10:00:00+00:00",
        finished="2024-05-01T10:05:00+00:00",
        host="here",
        dvc_experiment=None,
        dvc_baseline=None,
    )
    plain: dict[str, Any] = json.loads(json.dumps(asdict(made)))
    return plain


def operating_point() -> dict[str, Any]:
    """The JSON of an operating point."""
    per_label = dict.fromkeys(CHESTMNIST, 0.5)
    return {
        "model": "cnn",
        "calibration": {"method": "platt", "slope": per_label, "intercept": dict(per_label)},
        "rule": "youden",
        "thresholds": dict(per_label) | {"mass": None},
        "ood": OodReference(np.zeros(49), np.eye(49), 10.0, 60.0, 210.0, 20.0).as_json(),
    }


LOCK = f"""\
schema: '2.0'
stages:
  download:
    cmd: PYTHONPATH=src python stages/download.py
    deps:
    - path: stages/download.py
      hash: md5
      md5: {MD5}
      size: 1200
    params:
      params.yaml:
        seed: 0
        download:
          source: phantom
          phantom: {{train: 3, val: 2}}
    outs:
    - path: data/raw
      hash: md5
      md5: {MD5}.dir
      size: 300
      nfiles: 2
"""
