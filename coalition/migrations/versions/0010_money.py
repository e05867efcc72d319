"""Whose cost it was, prices as they moved, and settings that were changed while the server ran.

Revision: 0010, after 0009
"""

from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
TEXTS = (("day", 10), ("offering", 255), ("user", 64))
NUMBERS = ("attempt_id", "job_id", "group_id")
CHUNK = 1_000


def upgrade() -> None:
    with op.batch_alter_table("ledger") as batch:
        for name, length in TEXTS:
            batch.add_column(sa.Column(name, sa.String(length), nullable=False, server_default=""))
        for name in NUMBERS:
            batch.add_column(sa.Column(name, Id))
        batch.add_column(sa.Column("tags", LongText))
    op.create_index("ix_ledger_job_id", "ledger", ["job_id"])
    _fill_days()
    op.create_table(
        "rate",
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("offering", sa.String(255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pool", "offering", "at", name=op.f("pk_rate")),
        **MYSQL,
    )
    op.create_table(
        "setting_override",
        sa.Column("section", sa.String(80), nullable=False),
        sa.Column("json", LongText, nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("section", name=op.f("pk_setting_override")),
        **MYSQL,
    )


def _fill_days() -> None:
    """The day and the offering of what is booked already."""
    db = op.get_bind()
    columns: list[Any] = [sa.column(name) for name in ("id", "at", "day", "offering", "instance_id")]
    ledger = sa.table("ledger", *columns)
    bought_columns: list[Any] = [sa.column(name) for name in ("id", "offering")]
    instance = sa.table("instance", *bought_columns)
    bought = {row.id: row.offering for row in db.execute(sa.select(instance.c.id, instance.c.offering))}
    last = -1
    while True:
        query = sa.select(ledger.c.id, ledger.c.at, ledger.c.instance_id).where(ledger.c.id > last)
        rows = db.execute(query.order_by(ledger.c.id).limit(CHUNK)).all()
        if not rows:
            return
        change = sa.update(ledger).where(ledger.c.id == sa.bindparam("b_id"))
        filled = [
            {
                "b_id": row.id,
                "b_day": datetime.fromtimestamp(row.at, timezone.utc).date().isoformat(),
                "b_offering": bought.get(row.instance_id, ""),
            }
            for row in rows
        ]
        db.execute(change.values(day=sa.bindparam("b_day"), offering=sa.bindparam("b_offering")), filled)
        last = rows[-1].id


def downgrade() -> None:
    op.drop_table("setting_override")
    op.drop_table("rate")
    op.drop_index("ix_ledger_job_id", "ledger")
    with op.batch_alter_table("ledger") as batch:
        for name in ("tags", *NUMBERS, *(name for name, _ in TEXTS)):
            batch.drop_column(name)
