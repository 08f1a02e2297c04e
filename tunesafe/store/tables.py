"""The tables of the newest schema, in SQL that SQLite, PostgreSQL, MySQL and MariaDB all understand.

A trial is (study, number). Ids that name bytes or rows of bytes (``checkpoint_id``, ``blob_id``)
are never reused, so that a late reader cannot be shown something else under an old name. Text
that can grow is LONGTEXT on MySQL, whose TEXT ends at 64 KiB; collations are binary there, so
that ``Digits`` and ``digits`` are two studies everywhere.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles

__all__ = [
    "blob_chunks",
    "blobs",
    "checkpoint_blobs",
    "checkpoints",
    "events",
    "logs",
    "metadata",
    "records",
    "schema",
    "sources",
    "studies",
    "trials",
]


class _LongText(Text):
    """Text of any length on every database."""

    inherit_cache = True


class _LongBytes(LargeBinary):
    """Bytes of any length on every database."""

    inherit_cache = True


# By name rather than with_variant(mysql.LONGTEXT): importing that dialect would cost `status` 20 ms.
@compiles(_LongText, "mysql")
@compiles(_LongText, "mariadb")
def _longtext(type_: _LongText, compiler: Any, **options: Any) -> str:
    return "LONGTEXT"


@compiles(_LongBytes, "mysql")
@compiles(_LongBytes, "mariadb")
def _longblob(type_: _LongBytes, compiler: Any, **options: Any) -> str:
    return "LONGBLOB"


_UUID = String(32)
# SQLite numbers rows itself only in a column declared INTEGER.
_RowId = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()


def _table(name: str, *items: Any) -> Table:
    return Table(
        f"tunesafe_{name}",
        metadata,
        *items,
        sqlite_autoincrement=any(isinstance(item, Column) and item.autoincrement is True for item in items),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def _trial_key() -> tuple[Column[str], Column[int]]:
    return Column("study", _UUID, primary_key=True), Column("number", Integer, primary_key=True, autoincrement=False)


schema = _table("schema", Column("version", Integer, primary_key=True, autoincrement=False))

studies = _table(
    "studies",
    Column("uuid", _UUID, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("direction", String(8), nullable=False),
    Column("spec_json", _LongText, nullable=False),
    Column("source_text", _LongText, nullable=False),
    Column("fingerprint_json", _LongText, nullable=False),
    Column("environment_json", _LongText, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("examples_per_pass", BigInteger),
    Column("threads_per_worker", Integer),
    Column("live_seconds", Double, nullable=False),
    Column("beat_at", Double),
    Column("created_at", Double, nullable=False),
)

trials = _table(
    "trials",
    *_trial_key(),
    Column("phase", String(16), nullable=False),
    Column("params_json", _LongText),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("token", String(32)),
    Column("owner_json", _LongText),
    Column("lease_expires_at", Double, nullable=False),
    Column("examples_seen", BigInteger, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("outcome_json", _LongText),
    # Copies from outcome_json, for counting and ranking in SQL; the JSON is what is read back.
    Column("ending", String(16)),
    Column("value", Double),
    Column("claimed_at", Double),
    Column("ended_at", Double),
    # Since schema 3: 1 once the checkpoints are removed that a trial that is told need not keep.
    Column("tidied", Integer),
    Index("tunesafe_trials_by_phase", "study", "phase", "number"),
    Index("tunesafe_trials_by_token", "study", "token"),
)

records = _table(
    "records",
    *_trial_key(),
    Column("virtual_epoch", Integer, primary_key=True, autoincrement=False),
    Column("examples_seen", BigInteger, nullable=False),
    Column("metrics_json", _LongText, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("improved", Integer, nullable=False),
    Column("writes_json", _LongText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("recorded_at", Double, nullable=False),
)

checkpoints = _table(
    "checkpoints",
    Column("checkpoint_id", _RowId, primary_key=True, autoincrement=True),
    Column("study", _UUID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("virtual_epoch", Integer, nullable=False),
    Column("examples_seen", BigInteger, nullable=False),
    Column("manifest_json", _LongText, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    # Since schema 3: 1 where all but the weights has been given up; NULL or 0 where the state is whole.
    Column("weights_only", Integer),
    UniqueConstraint("study", "number", "virtual_epoch", "examples_seen", name="tunesafe_checkpoints_position"),
)

blobs = _table(
    "blobs",
    Column("blob_id", _RowId, primary_key=True, autoincrement=True),
    Column("study", _UUID, nullable=False),
    Column("hash", String(80), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    # 0 once found damaged: the next save of the same bytes writes them again, in place.
    Column("intact", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    # Since schema 2: the pack that holds the bytes, and where in it; NULL where they are in chunks.
    Column("pack", String(32)),
    Column("pack_offset", BigInteger),
    UniqueConstraint("study", "hash", name="tunesafe_blobs_hash"),
    Index("tunesafe_blobs_pack", "pack"),
)

blob_chunks = _table(
    "blob_chunks",
    Column("blob_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("data", _LongBytes, nullable=False),
)

checkpoint_blobs = _table(
    "checkpoint_blobs",
    Column("checkpoint_id", BigInteger, primary_key=True, autoincrement=False),
    Column("blob_id", BigInteger, primary_key=True, autoincrement=False),
    Index("tunesafe_checkpoint_blobs_by_blob", "blob_id"),
)

events = _table(
    "events",
    Column("event_id", _RowId, primary_key=True, autoincrement=True),
    Column("study", _UUID, nullable=False),
    Column("number", Integer),
    Column("kind", String(64), nullable=False),
    Column("details_json", _LongText, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Index("tunesafe_events_by_study", "study", "event_id"),
)

logs = _table(
    "logs",
    *_trial_key(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("text", _LongText, nullable=False),
)

sources = _table(
    "sources",
    Column("study", _UUID, primary_key=True),
    Column("fingerprint", String(80), primary_key=True),
    Column("path", String(500), primary_key=True),
    Column("text", _LongText, nullable=False),
)
