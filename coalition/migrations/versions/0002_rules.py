"""What scheduling rules need: limits, fair use, reservations, frames, worker hours.

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


INDEXES = {
    "ix_event_who_id": ("event", ["who", "id"]),
    "ix_job_state_parent_id": ("job", ["state", "parent", "id"]),
    "ix_job_parent_prio_id": ("job", ["parent", "prio", "id"]),
    "ix_spec_user_parent_job_id": ("spec", ["user", "parent", "job_id"]),
    "ix_spec_parent_title_job_id": ("spec", ["parent", "title", "job_id"]),
    "ix_group_count_started_at": ("group_count", ["started_at"]),
    "ix_group_count_ended_at": ("group_count", ["ended_at"]),
    "ix_attempt_ended_at": ("attempt", ["ended_at"]),
}
TABLES = ("farm_limit", "limit_use", "reservation", "fair_use")


def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "job": [
            sa.Column("first_frame", sa.Integer()),
            sa.Column("last_frame", sa.Integer()),
            _number("avoid", Id),
            _number("max_running", sa.Integer()),
        ],
        "spec": [sa.Column("rules", LongText), _text("note", 1_000), _number("parent", Id), sa.Column("chunk", sa.Integer())],
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
    for name, (table, names) in INDEXES.items():
        op.create_index(name, table, names)
    op.drop_index("ix_spec_user", "spec")
    _lists()
    _limits()
    _shares()


def _lists() -> None:
    """What lists read: the parent of each job beside its title, the states of groups, the counters of the whole farm."""
    op.execute(sa.text("UPDATE spec SET parent = (SELECT job.parent FROM job WHERE job.id = spec.job_id)"))
    state = (
        "CASE WHEN total = 0 THEN 'WAITING' WHEN error > 0 THEN 'ERROR' WHEN finished = total THEN 'FINISHED' "
        "WHEN working > 0 THEN 'WORKING' WHEN waiting > 0 THEN 'WAITING' ELSE 'PENDING' END"
    )
    of_group = f"SELECT {state} FROM group_count WHERE group_count.group_id = job.id"  # noqa: S608 - nobody's text
    op.execute(sa.text(f"UPDATE job SET state = ({of_group}) WHERE id IN (SELECT group_id FROM group_count)"))  # noqa: S608 - ours
    counted = ("total", "waiting", "pending", "working", "finished", "error", "run_ms", "cost_micro")
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in counted)
    op.execute(
        sa.text(
            f"INSERT INTO group_count (group_id, {', '.join(counted)}) SELECT 0, {sums} FROM ("  # noqa: S608 - ours
            f"SELECT {', '.join(counted)} FROM group_count JOIN job ON job.id = group_id AND job.parent = 0 UNION ALL "
            "SELECT 1, CASE state WHEN 'WAITING' THEN 1 ELSE 0 END, CASE state WHEN 'PENDING' THEN 1 ELSE 0 END, "
            "CASE state WHEN 'WORKING' THEN 1 ELSE 0 END, CASE state WHEN 'FINISHED' THEN 1 ELSE 0 END, "
            "CASE state WHEN 'ERROR' THEN 1 ELSE 0 END, COALESCE((SELECT SUM(run_ms) FROM attempt WHERE job_id = job.id), 0), "
            "COALESCE((SELECT SUM(cost_micro) FROM attempt WHERE job_id = job.id), 0) "
            "FROM job WHERE parent = 0 AND id NOT IN (SELECT group_id FROM group_count)) AS tops"
        )
    )


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


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM group_count WHERE group_id = 0"))
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    op.create_index("ix_spec_user", "spec", ["user", "job_id"])
    for table in TABLES:
        op.drop_table(table)
    for table, columns in _columns().items():
        for column in reversed(columns):
            op.drop_column(table, column.name)
