"""Records, lock files and lists of DVC that lead out of the project, or exhaust who reads them."""

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

OUTSIDE = [
    "../x", "..", "a/../../x", "/etc/passwd", "//etc", "a//b", "./a", "a/", "", ".", "a\\..\\b",
    "a\nb", "a\x00b", "\x1b[31mred", "a/\u202e",
]  # fmt: skip


def test_the_good_ones_are_good(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(record()))
    assert records.read(tmp_path / "r.json").as_json() == record()
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert list(Repository(tmp_path).lock()) == ["download"]
    assert records.is_inside("data/raw/chest.npz") and records.is_inside("a.b/..c/ü [1]")


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_outside_is_none(path: str) -> None:
    assert not records.is_inside(path)


Spoil = Callable[[dict[str, Any]], object]
PLACES: dict[str, Callable[[dict[str, Any], str], object]] = {
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


def refused(path: Path, spoil: Spoil) -> str:
    spoilt = copy.deepcopy(record())
    spoil(spoilt)
    path.write_text(json.dumps(spoilt))
    return refusal(records.read, path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "models/cnn/../../../x"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_no_path_of_a_record_leads_outside(
    tmp_path: Path, place: Callable[[dict[str, Any], str], object], path: str
) -> None:
    text = refused(tmp_path / "r.json", lambda r: place(r, path))
    assert "is damaged (a path outside of the project" in text


def put(*keys: Any) -> Spoil:
    """Sets the value at the end of a way of keys."""
    *way, last, value = keys

    def spoil(content: dict[str, Any]) -> None:
        place: Any = content
        for key in way:
            place = place[key]
        place[last] = value

    return spoil


BAD: dict[str, tuple[Spoil, str]] = {
    "an md5 that is a path": (put("outputs", "models/cnn", "md5", "../../etc/passwd"), "an md5"),
    "an md5 in capitals": (put("outputs", "models/cnn", "md5", MD5.upper()), "an md5"),
    "an md5 and a line": (put("outputs", "models/cnn", "md5", MD5 + "\n"), "an md5"),
    "an md5 of an input": (put("facts", "inputs", "data/processed", "x"), "an md5"),
    "an md5 of a foreign file": (put("facts", "foreign", "/a", "x" * 32), "an md5"),
    "a run id that is a query": (put("runs", 0, "run_id", "' OR 'a' = 'a"), "a run id"),
    "a run id that is short": (put("runs", 0, "run_id", "abc"), "a run id"),
    "a commit that is an option": (put("facts", "code", "commit", "--output=/x"), "a hash of git"),
    "a blob that is none": (
        put("facts", "code", "files", "src/cxr/evaluation/metrics.py", "x"), "of git",
    ),
    "a baseline that is a branch": (put("dvc_baseline", "main"), "a hash of git"),
    "a stage that is a path": (put("stage", "../../x"), "a stage"),
    "another stage's facts": (put("facts", "stage", "a b"), "a stage"),
    "a command for a shell": (put("facts", "command", "sh -c 'rm -rf ~'"), "a command"),
    "a command of its own code": (put("facts", "command", "python -c print(1)"), "a command"),
    "a command of another place": (put("facts", "command", "python stages/../x.py"), "a command"),
    "half a quotation": (put("facts", "command", "python stages/a.py '"), "a command"),
    "a time that is none": (put("started", "yesterday"), "a time"),
    "a time without a zone": (put("finished", "2024-05-01T10:00:00"), "a time"),
    "a size below zero": (put("outputs", "models/cnn", "size", -1), "a size"),
    "files below zero": (put("outputs", "models/cnn", "nfiles", -1), "a size"),
    "no run": (put("runs", []), "runs"),
    "a step below zero": (put("runs", 0, "slides", 0, "step", -1), "a step"),
    "a curve without epochs": (put("runs", 0, "history", [{"loss": 1.0}]), "an epoch"),
    "code without a hash": (put("facts", "code", "deciding", ["src/b.py"]), "without a hash"),
    "a fingerprint that is none": (put("fingerprint", "x"), "a fingerprint"),
    "no version of torch": (
        put("facts", "environment", "packages", {"numpy": "1"}), "no version of packages"),
    "a billion threads": (put("facts", "environment", "threads", 10**9), "threads"),
    "data above the store": (put("data", "name", "../.."), "the data can't be called"),
    "data at a place": (put("data", "name", "/etc"), "the data can't be called"),
    "data in red": (put("data", "name", "\x1b[31mred"), "the data can't be called"),
    "data from nowhere": (put("data", "source", "web"), "data has no source 'web'"),
    "text for a size": (put("outputs", "models/cnn", "size", "many"), "outputs.models/cnn.size"),
    "a list for outputs": (put("outputs", []), "outputs"),
    "null for facts": (put("facts", None), "facts"),
    "a number for a name": (put("data", "name", 5), "data.name"),
    "another schema": (put("schema", [1]), "has schema [1] instead of 3; run `dvc repro --force`"),
    "a metric of text": (put("runs", 0, "metrics", {"a": "high"}), "metrics"),
    "a metric of NaN": (put("runs", 0, "metrics", {"a": float("nan")}), "no finite number"),
    "a score without end": (put("runs", 0, "registration", "score", float("inf")), "no finite"),
    "a number of 70 bits": (put("outputs", "models/cnn", "size", 2**70), "more than 63 bits"),
    "a parameter 40 deep": (
        put("facts", "params", {"a": json.loads("[" * 40 + "]" * 40)}), "nests more than 32 deep"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_a_hostile_record_is_refused(tmp_path: Path, spoil: Spoil, words: str) -> None:
    text = refused(tmp_path / "r.json", spoil)
    assert words in text
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


BYTES: dict[str, bytes] = {
    "nested without end": b"[" * 200_000,
    "mappings without end": b'{"a":' * 200_000,
    "a number of 5000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "a number beyond any": b'{"schema": 1e999}',
    "NaN": b'{"schema": NaN}',
    "minus infinity": b'{"schema": -Infinity}',
    "Latin-1": b'{"schema": "\xe9"}',
    "a string": b'"schema"',
    "true": b"true",
    "a pickle": b"\x80\x04\x95",
    "YAML": b"schema: 3\n",
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_what_is_no_json_of_a_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    assert "r.json is damaged (" in refusal(records.read, tmp_path / "r.json")


def test_a_record_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(2**30)  # a hole, which takes no disk
    with pytest.raises(CxrError, match="has more than 67,108,864 bytes"):
        records.read(tmp_path / "r.json")


def test_the_card_is_markdown_that_says_what_the_record_says(tmp_path: Path) -> None:
    spoilt = copy.deepcopy(record())
    spoilt["data"]["name"] = "<script>alert(1)<script> | ![x](y) `z`"
    spoilt["facts"]["foreign"] = {"/a`b|<img src=x>\n| made | [it](http://x) |": MD5}
    spoilt["facts"]["environment"]["device"] = "cpu | <b>"
    (tmp_path / "r.json").write_text(json.dumps(spoilt))
    found = records.read(tmp_path / "r.json")
    card = records.card(found, found.run_ids[0])
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert "<" not in card and "](" not in card.replace("\\]\\(", "")
    unescaped = [row.replace("\\|", "") for row in rows]
    assert {row.count("|") for row in unescaped} == {3}
    assert len(rows) == len(records.card(_good(), MD5).splitlines()) - 4


def _good() -> records.Record:
    return records._RECORD.validate_python(record())


def lock(old: str, new: str) -> str:
    assert old in LOCK
    return LOCK.replace(old, new, 1)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
LOCKS: dict[str, tuple[str, str]] = {
    "an output above": (lock("path: data/raw", "path: ../x"), "leads out of the project"),
    "an output elsewhere": (lock("path: data/raw", "path: /etc/passwd"), "leads out of"),
    "a dependency above": (lock("path: stages/", "path: ../"), "leads out of the project"),
    "a path that is a number": (lock("path: data/raw", "path: 5"), "leads out of the project"),
    "an md5 that is a path": (lock(f"md5: {MD5}.dir", "md5: ../../../etc"), "is no md5"),
    "an md5 that is a number": (lock(f"md5: {MD5}.dir", "md5: 12"), "is no md5"),
    "another hash": (lock("hash: md5", "hash: sha256"), "is no md5"),
    "a size below zero": (lock("size: 300", "size: -1"), "-1 is no size"),
    "a size of text": (lock("size: 300", "size: many"), "'many' is no size"),
    "a size of truth": (lock("size: 300", "size: true"), "True is no size"),
    "files of NaN": (lock("nfiles: 2", "nfiles: .nan"), "nan is no size"),
    "no size": (lock("      size: 300\n", ""), "'size'"),
    "a stage that is a path": (lock("  download:\n", "  ../../x:\n"), "is no stage's name"),
    "a stage that is a number": (lock("  download:\n", "  5:\n"), "is no stage's name"),
    "a command that is a list": (lock("cmd: PYTHONPATH=src", "cmd: [a, b]\n    x:"), "cmd"),
    "stages in a list": ("stages: [download]\n", "dvc.lock is damaged"),
    "aliases that stand for 10^12 values": (BOMB + LOCK, "more than 100,000 values"),
    "an alias of itself": ("stages: &a\n  b: *a\n", "dvc.lock is damaged"),
    "nested without end": ("[" * 50_000, "dvc.lock is damaged"),
    "nested 40 deep": (LOCK + "x: " + "[" * 40 + "]" * 40, "nests more than 32 deep"),
    "an object of Python": (LOCK + "x: !!python/object/apply:os.getcwd []\n", "damaged"),
    "a key that is a list": ("stages:\n  ? [a, b]\n  : {cmd: x}\n", "is no stage's name"),
    "keys twice": (LOCK + "stages: {}\n", "dvc.lock is damaged"),
    "a byte of nothing": (LOCK + "x: \x00\n", "dvc.lock is damaged"),
    "two megabytes": (LOCK + "#" * 2**21, "has more than 262,144 bytes"),
    "words": ("these are words", "dvc.lock is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), LOCKS.values(), ids=LOCKS)
def test_a_hostile_lock_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    said = refusal(Repository(tmp_path).lock)
    assert words in said and "dvc.lock" in said


def listed(root: Path, content: Any) -> tuple[Repository, str]:
    """A repository whose cache has this as the list of a folder's files, under its own MD5."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    repository = Repository(root)
    place = repository.object(md5)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text)
    return repository, md5


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\nb", ""])
def test_no_list_of_dvc_leads_outside(clone: Path, name: str) -> None:
    repository, md5 = listed(clone, [{"relpath": name, "md5": MD5}])
    assert "leads out of it or names no file" in refusal(repository.content, "data/raw", md5)


@pytest.mark.parametrize("md5_of_file", ["", "x", "../../../../etc/passwd", MD5 + ".dir"])
def test_no_list_of_dvc_names_another_place_of_the_cache(clone: Path, md5_of_file: str) -> None:
    repository, md5 = listed(clone, [{"relpath": "a", "md5": md5_of_file}])
    assert "leads out of it or names no file" in refusal(repository.content, "data/raw", md5)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"", b"5", b"{}", b'[{"relpath": 1}]', b"[null]", b"\xff"]
)
def test_a_list_that_is_none_counts_as_lost(clone: Path, content: bytes) -> None:
    repository, md5 = listed(clone, content)
    assert not repository.content("data/raw", md5)


@pytest.mark.parametrize("md5", ["", "..", "../../x", "/etc/passwd", "0" * 31, "ab\n"])
def test_the_cache_is_not_left_by_an_md5(clone: Path, md5: str) -> None:
    assert "is no md5" in refusal(Repository(clone).object, md5)


def test_an_origin_is_checked_wherever_it_is_made() -> None:
    assert refusal(Origin, "x", "elsewhere").startswith("data has no source")
