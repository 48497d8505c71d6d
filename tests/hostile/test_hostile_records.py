"""Records, lock files and DVC directory lists that are damaged or point outside the project."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from valid import LOCK, MD5, record, refusal

from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.lineage import records
from cxr.lineage.repository import Repository
from cxr.paths import is_inside

OUTSIDE = [
    "../x", "..", "a/../../x", "/etc/passwd", "//etc", "a//b", "./a", "a/", "", ".", "a\\..\\b",
    "a\nb", "a\x00b", "\x1b[31mred", "a/\u202e",
]  # fmt: skip


def test_valid_records_and_lock_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(record()))
    assert records.read(tmp_path / "r.json").as_json() == record()
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert list(Repository(tmp_path).lock()) == ["download"]
    assert is_inside("data/raw/chest.npz") and is_inside("a.b/..c/ü [1]")


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_outside_is_not_inside(path: str) -> None:
    assert not is_inside(path)


Change = Callable[[dict[str, Any]], object]
PATHS_IN_A_RECORD: dict[str, Callable[[dict[str, Any], str], object]] = {
    "outputs": lambda r, p: r["outputs"].update({p: {"md5": MD5, "size": 1, "nfiles": None}}),
    "dependencies": lambda r, p: r["facts"]["dependencies"].update(
        {p: {"md5": MD5, "size": 1, "nfiles": None}}
    ),
    "inputs": lambda r, p: r["facts"]["inputs"].update({p: MD5}),
    "code": lambda r, p: r["facts"]["code"]["files"].update({p: "0" * 40}),
    "edited": lambda r, p: r["facts"]["code"]["edited"].append(p),
    "artifacts": lambda r, p: r["runs"][0]["artifacts"].append(p),
    "slides": lambda r, p: r["runs"][0]["slides"][0].update(path=p),
    "model": lambda r, p: r["runs"][0]["registration"]["files"].append(p),
}


def refused(path: Path, change: Change) -> str:
    changed = copy.deepcopy(record())
    change(changed)
    path.write_text(json.dumps(changed))
    return refusal(records.read, path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "models/cnn/../../../x"])
@pytest.mark.parametrize("set_path", PATHS_IN_A_RECORD.values(), ids=PATHS_IN_A_RECORD)
def test_no_path_in_a_record_points_outside(
    tmp_path: Path, set_path: Callable[[dict[str, Any], str], object], path: str
) -> None:
    text = refused(tmp_path / "r.json", lambda r: set_path(r, path))
    assert "leads out of the project" in text


def put(*keys: Any) -> Change:
    """A change that sets the value under nested keys; the last argument is the value."""
    *parents, last, value = keys

    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in parents:
            inner = inner[key]
        inner[last] = value

    return change


BAD: dict[str, tuple[Change, str]] = {
    "an md5 that is a path": (
        put("outputs", "models/cnn", "md5", "../../etc/passwd"), "outputs.models/cnn.md5"),
    "an md5 and a line": (put("outputs", "models/cnn", "md5", MD5 + "\n"), "models/cnn.md5"),
    "an md5 of an input": (put("facts", "inputs", "data/processed", "x"), "facts.inputs"),
    "a commit that is an option": (put("facts", "code", "commit", "--output=x"), "commit"),
    "a run id of a query": (put("runs", 0, "run_id", "' OR 1=1 --"), "runs.0.run_id"),
    "a time that is none": (put("started", "yesterday"), "started"),
    "a time without a zone": (put("finished", "2024-05-01T10:00:00"), "finished"),
    "no run": (put("runs", []), "runs"),
    "data above the store": (put("data", "name", "../.."), "is not a valid data set name"),
    "data from nowhere": (put("data", "source", "web"), "unknown data source 'web'"),
    "text for a size": (put("outputs", "models/cnn", "size", "many"), "outputs.models/cnn.size"),
    "a list for outputs": (put("outputs", []), "outputs"),
    "null for facts": (put("facts", None), "facts"),
    "a number for a name": (put("data", "name", 5), "data.name"),
    "another schema": (put("schema", [1]), "has schema [1] instead of 3; run `dvc repro --force`"),
    "a metric of text": (put("runs", 0, "metrics", {"a": "high"}), "metrics"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_a_malicious_record_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    text = refused(tmp_path / "r.json", change)
    assert words in text
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


def test_a_record_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(2**30)  # a sparse file, which uses no disk space
    with pytest.raises(CxrError, match="has more than 67,108,864 bytes"):
        records.read(tmp_path / "r.json")


def test_the_card_escapes_markdown_in_the_record(tmp_path: Path) -> None:
    changed = copy.deepcopy(record())
    changed["data"]["name"] = "<script>alert(1)<script> | ![x](y) `z`"
    changed["facts"]["foreign"] = {"/a`b|<img src=x>\n| made | [it](http://x) |": MD5}
    changed["facts"]["environment"]["device"] = "cpu | <b>"
    (tmp_path / "r.json").write_text(json.dumps(changed))
    parsed = records.read(tmp_path / "r.json")
    card = records.card(parsed, parsed.run_ids[0])
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert "<" not in card and "](" not in card.replace("\\]\\(", "")
    unescaped = [row.replace("\\|", "") for row in rows]
    assert {row.count("|") for row in unescaped} == {3}
    assert len(rows) == len(records.card(_valid(), MD5).splitlines()) - 4


def _valid() -> records.Record:
    return records._RECORD.validate_python(record())


def lock(old: str, new: str) -> str:
    assert old in LOCK
    return LOCK.replace(old, new, 1)


LOCKS: dict[str, tuple[str, str]] = {
    "an output above": (lock("path: data/raw", "path: ../x"), "leads out of the project"),
    "an output elsewhere": (lock("path: data/raw", "path: /etc/passwd"), "leads out of"),
    "a path that is a number": (lock("path: data/raw", "path: 5"), "outs.0.path"),
    "an md5 that is a path": (lock(f"md5: {MD5}.dir", "md5: ../../../etc"), "outs.0.md5"),
    "an md5 that is a number": (lock(f"md5: {MD5}.dir", "md5: 12"), "outs.0.md5"),
    "a size of text": (lock("size: 300", "size: many"), "outs.0.size"),
    "no size": (lock("      size: 300\n", ""), "outs.0.size: Field required"),
    "a command that is a list": (lock("cmd: PYTHONPATH=src", "cmd: [a, b]\n    x:"), "cmd"),
    "stages in a list": ("stages: [download]\n", "dvc.lock is damaged (stages: "),
    "no stages": ("schema: '2.0'\n", "dvc.lock is damaged (stages: "),
    "keys twice": (LOCK + "stages: {}\n", "dvc.lock is damaged"),
    "cut short": (LOCK[: LOCK.index("nfiles") + 3], "dvc.lock is damaged"),
    "two megabytes": (LOCK + "#" * 2**21, "has more than 262,144 bytes"),
    "words": ("these are words", "dvc.lock is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), LOCKS.values(), ids=LOCKS)
def test_a_malicious_lock_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    message = refusal(Repository(tmp_path).lock)
    assert words in message and "dvc.lock" in message


def listed(root: Path, content: Any) -> tuple[Repository, str]:
    """A repository whose cache contains this list of a folder's files, stored under its MD5."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    repository = Repository(root)
    path = repository.object(md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return repository, md5


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\nb", ""])
def test_no_dvc_list_points_outside_the_project(clone: Path, name: str) -> None:
    repository, md5 = listed(clone, [{"relpath": name, "md5": MD5}])
    assert repository.content("data/raw", md5) is None


@pytest.mark.parametrize("md5_of_file", ["", "x", "../../../../etc/passwd"])
def test_no_dvc_list_points_to_another_part_of_the_cache(clone: Path, md5_of_file: str) -> None:
    repository, md5 = listed(clone, [{"relpath": "a", "md5": md5_of_file}])
    assert repository.content("data/raw", md5) is None


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"", b"5", b"{}", b'[{"relpath": 1}]', b"[null]", b"\xff"]
)
def test_an_invalid_list_counts_as_missing(clone: Path, content: bytes) -> None:
    repository, md5 = listed(clone, content)
    assert not repository.content("data/raw", md5)


@pytest.mark.parametrize("md5", ["", "..", "../../x", "/etc/passwd", "0" * 31, "ab\n"])
def test_an_md5_never_points_outside_the_cache(clone: Path, md5: str) -> None:
    assert "is no md5" in refusal(Repository(clone).object, md5)


def test_an_origin_is_checked_when_it_is_created() -> None:
    assert refusal(Origin, "x", "elsewhere").startswith("unknown data source")
