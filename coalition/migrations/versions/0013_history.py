"""How the farm did, minute by minute.

Revision: 0013, after 0012
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    counts = ("waiting", "pending", "working", "error", "slots", "busy", "instances")
    op.create_table(
        "history",
        sa.Column("minute", sa.Integer(), autoincrement=False, nullable=False),
        *[sa.Column(name, sa.Integer(), nullable=False) for name in counts],
        sa.Column("burn_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", name=op.f("pk_history")),
        **MYSQL,
    )


def downgrade() -> None:
    op.drop_table("history")
