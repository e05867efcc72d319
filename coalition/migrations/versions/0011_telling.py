"""Who wants to be told of jobs, and what is on its way to them.

Revision: 0011, after 0010
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "watch",
        sa.Column("job_id", ID, autoincrement=False, nullable=False),
        sa.Column("notify", LONG, nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("told_end", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("told_errors", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("told_first", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_watch")),
        **MYSQL,
    )
    op.create_table(
        "notice",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("job_id", ID),
        sa.Column("title", sa.String(255), nullable=False, server_default=""),
        sa.Column("text", LONG, nullable=False),
        sa.Column("path", sa.String(255), nullable=False, server_default=""),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("claimed_by", sa.String(32), nullable=False, server_default=""),
        sa.Column("claimed_until", sa.Double(), nullable=False, server_default="0"),
        sa.Column("sent_at", sa.Double()),
        sa.Column("why", sa.String(500), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        **MYSQL,
    )
    op.create_index("ix_notice_sent_at_due_at", "notice", ["sent_at", "due_at"])


def downgrade() -> None:
    op.drop_table("notice")
    op.drop_table("watch")
