"""What scheduling rules need: limits, fair use, reservations, frames, worker hours, archive.

Revision: 0002, after 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _text(name: str, length: int, default: str = "") -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False, server_default=default)


def _number(name: str, kind: sa.types.TypeEngine[Any], default: str = "0") -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, server_default=default)


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())


TABLES = ("farm_limit", "limit_use", "reservation", "fair_use", "archive")


def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "job": [
            sa.Column("first_frame", sa.Integer()),
            sa.Column("last_frame", sa.Integer()),
            _flag("needs_any"),
            _flag("skipped"),
            _number("avoid", Id),
            _number("max_running", sa.Integer()),
            _number("sink_after", sa.Integer()),
        ],
        "spec": [sa.Column("rules", LongText), _text("note", 1_000)],
        "dependency": [
            _text("until", 8, "finished"),
            _text("kind", 8, "whole"),
            _number("step", sa.Integer(), "1"),
            _number("shift", sa.Integer()),
        ],
        "class": [_text("fair_key", 128)],
        "ready": [_number("avoid", Id)],
        "attempt": [_number("set_id", Id), _text("fair_key", 128), _flag("no_licence")],
        "worker": [
            _text("hours", 500),
            _text("timezone", 64, "UTC"),
            _text("hours_end", 8, "finish"),
            _number("idle_user_s", sa.Double()),
            _number("idle_load", sa.Double()),
            _number("streak", sa.Integer()),
            _number("streak_of", Id),
            sa.Column("used_at", sa.Double()),
            sa.Column("sick_until", sa.Double()),
            _text("why", 500),
            _text("note", 1_000),
        ],
    }


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index("ix_event_who_id", "event", ["who", "id"])
    _limits()
    _shares()
    _archive()


def _limits() -> None:
    op.create_table(
        "farm_limit",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("maximum", sa.Integer(), nullable=False),
        _flag("per_host"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_farm_limit")),
        **MYSQL,
    )
    op.create_table(
        "limit_use",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("worker_id", Id, autoincrement=False, nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "worker_id", name=op.f("pk_limit_use")),
        sqlite_with_rowid=False,
        **MYSQL,
    )


def _shares() -> None:
    op.create_table(
        "reservation",
        sa.Column("worker_id", Id, autoincrement=False, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_reservation")),
        sa.UniqueConstraint("job_id", name=op.f("uq_reservation_job_id")),
        **MYSQL,
    )
    op.create_table(
        "fair_use",
        sa.Column("fair_key", sa.String(128), nullable=False),
        sa.Column("used_s", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("fair_key", name=op.f("pk_fair_use")),
        **MYSQL,
    )


def _archive() -> None:
    op.create_table(
        "archive",
        sa.Column("root_id", Id, autoincrement=False, nullable=False),
        _text("title", 255),
        _text("user", 64),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("run_ms", sa.BigInteger(), nullable=False),
        sa.Column("cost_micro", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.Column("archived_at", sa.Double(), nullable=False),
        sa.Column("body", LongText, nullable=False),
        sa.PrimaryKeyConstraint("root_id", name=op.f("pk_archive")),
        **MYSQL,
    )
    op.create_index("ix_archive_ended_at", "archive", ["ended_at"])


def downgrade() -> None:
    op.drop_index("ix_event_who_id", "event")
    for table in TABLES:
        op.drop_table(table)
    for table, columns in _columns().items():
        for column in reversed(columns):
            op.drop_column(table, column.name)
