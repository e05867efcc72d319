"""Dependencies frame by frame, on one of many and on what has ended; skipped jobs, groups that sink, when a job began and ended.

Revision: 0003, after 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("frame_step", sa.Integer()),
        sa.Column("needs_any", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("skipped", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("sink_after", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("sunk_from", sa.SmallInteger()),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
    ]


def upgrade() -> None:
    for column in _columns():
        op.add_column("job", column)
    _times()
    _with_another_key(
        "by_rule",
        [
            sa.Column("job_id", Id, autoincrement=False, nullable=False),
            sa.Column("by_rule", sa.Boolean(), autoincrement=False, nullable=False),
            sa.Column("on_id", Id, autoincrement=False, nullable=False),
            sa.Column("met", sa.Boolean(), nullable=False),
            sa.Column("done", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.PrimaryKeyConstraint("job_id", "by_rule", "on_id", name=op.f("pk_dependency")),
        ],
    )
    op.create_table(
        "frame_rule",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("on_id", Id, autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("shift", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "on_id", "step", "shift", name=op.f("pk_frame_rule")),
        sqlite_with_rowid=False,
        **MYSQL,
    )
    op.create_index("ix_frame_rule_on_id", "frame_rule", ["on_id"])


def _times() -> None:
    """When a job began and ended, as far as its attempts tell."""
    began = "SELECT MIN(leased_at) FROM attempt WHERE attempt.job_id = job.id"
    op.execute(sa.text(f"UPDATE job SET started_at = ({began}) WHERE class_id != 0 AND attempt_id != 0"))  # noqa: S608 - ours
    ended = "SELECT ended_at FROM attempt WHERE attempt.id = job.attempt_id"
    over = "class_id != 0 AND state IN ('FINISHED', 'ERROR')"
    op.execute(sa.text(f"UPDATE job SET ended_at = ({ended}) WHERE {over}"))  # noqa: S608 - nobody's text


def _with_another_key(further: str, parts: list[Any]) -> None:
    """Makes the table of dependencies anew, with the rows that it has; a key cannot be changed on every database."""
    op.create_table("dependency_kept", *_old("dependency_kept"), sqlite_with_rowid=False, **MYSQL)
    op.execute(sa.text("INSERT INTO dependency_kept (job_id, on_id, met) SELECT DISTINCT job_id, on_id, met FROM dependency"))
    op.drop_table("dependency")
    op.create_table("dependency", *parts, sqlite_with_rowid=False, **MYSQL)
    columns, values = (f", {further}", f", {sa.false().compile(op.get_bind())}") if further else ("", "")
    kept = f"SELECT job_id, on_id, met{values} FROM dependency_kept"  # noqa: S608 - nobody's text
    op.execute(sa.text(f"INSERT INTO dependency (job_id, on_id, met{columns}) {kept}"))
    op.drop_table("dependency_kept")
    op.create_index("ix_dependency_on_id", "dependency", ["on_id"])


def _old(name: str) -> list[Any]:
    return [
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("on_id", Id, autoincrement=False, nullable=False),
        sa.Column("met", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "on_id", name=op.f(f"pk_{name}")),
    ]


def downgrade() -> None:
    op.drop_table("frame_rule")
    op.execute(sa.text(f"DELETE FROM dependency WHERE by_rule = {sa.true().compile(op.get_bind())}"))  # noqa: S608 - ours
    _with_another_key("", _old("dependency"))
    for column in reversed(_columns()):
        op.drop_column("job", column.name)
