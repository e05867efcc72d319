"""Finished trees that have left the other tables: one row a job, as it was shown last.

Revision: 0004, after 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "archive",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("parent", Id, nullable=False),
        sa.Column("is_group", sa.Boolean(), nullable=False),
        sa.Column("title", sa.String(255), nullable=False, server_default=""),
        sa.Column("user", sa.String(64), nullable=False, server_default=""),
        sa.Column("archived_at", sa.Double(), nullable=False),
        sa.Column("json", LongText, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_archive")),
        **MYSQL,
    )
    op.create_index("ix_archive_parent_job_id", "archive", ["parent", "job_id"])
    op.create_index("ix_archive_user_job_id", "archive", ["user", "job_id"])


def downgrade() -> None:
    op.drop_table("archive")
