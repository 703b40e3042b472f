"""The format of a store's SQLite file, and how older formats become this one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from hytrec_export.errors import StoreUnavailableError

FORMAT_VERSION = 2
"""1 was a folder of LMDB."""
APPLICATION_ID = 0x48795265
_SALT_BYTES = 16
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE users (id INTEGER PRIMARY KEY, user_id BLOB NOT NULL UNIQUE, head BLOB NOT NULL);
CREATE TABLE chunks (
    user INTEGER NOT NULL, number INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (user, number)
) WITHOUT ROWID;
CREATE TABLE tombstones (hash BLOB PRIMARY KEY, made_at INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX tombstone_ages ON tombstones (made_at);
CREATE TABLE models (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, slot_bytes INTEGER NOT NULL, opened_at INTEGER NOT NULL
);
CREATE TABLE snapshots (
    user INTEGER NOT NULL, model INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (user, model)
) WITHOUT ROWID;
CREATE UNIQUE INDEX snapshot_slots ON snapshots (model, slot);
CREATE TABLE free_slots (model INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (model, slot)) WITHOUT ROWID;
"""
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}
"""By the version that each begins at; it leaves the next one."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty file, or bring those of an older format to this one.

    Raises:
        StoreUnavailableError: the file is of a newer format, or another program's.
        sqlite3.Error: it cannot be read or written.
    """
    if _version(connection) == FORMAT_VERSION and _application(connection) == APPLICATION_ID:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version, application = _version(connection), _application(connection)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        for statement in _SCHEMA.strip().split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO facts VALUES ('salt', ?)", (os.urandom(_SALT_BYTES),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        version = FORMAT_VERSION
    elif application != APPLICATION_ID:
        raise StoreUnavailableError(f"{path} is another program's database; give another folder")
    while version in MIGRATIONS and version < FORMAT_VERSION:
        MIGRATIONS[version](connection)
        version += 1
    if version != FORMAT_VERSION:
        raise StoreUnavailableError(
            f"{path} has format version {version}; this hytrec-export reads up to {FORMAT_VERSION}; "
            "use the version that wrote it, or another folder"
        )
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _application(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])
