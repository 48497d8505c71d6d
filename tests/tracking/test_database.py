"""A sqlite store that a killed process left in the middle of a write."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cxr.tracking import database


@pytest.fixture
def store(tmp_path: Path) -> Path:
    file = tmp_path / "mlflow.db"
    database.create(f"{database.SQLITE}{file}")
    return file


def die_in_a_transaction(file: Path) -> None:
    """Write part of a transaction to the file in a process that is then killed."""
    child = os.fork()
    if child == 0:
        base = sqlite3.connect(file, isolation_level=None)
        base.execute("PRAGMA cache_size = 1")  # pages, so that the rest goes to the file at once
        base.execute("BEGIN")
        base.execute("CREATE TABLE half_written (text)")
        base.executemany("INSERT INTO half_written VALUES (?)", [("x" * 1000,)] * 1000)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_store_whose_last_writer_was_killed_is_rolled_back_and_opened(store: Path) -> None:
    before = store.stat().st_size
    die_in_a_transaction(store)
    journal = store.with_name(f"{store.name}-journal")
    assert journal.exists() and store.stat().st_size > before

    database.create(f"{database.SQLITE}{store}")

    assert not journal.exists()
    with closing(sqlite3.connect(store)) as base:
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
    assert "runs" in tables and "half_written" not in tables
