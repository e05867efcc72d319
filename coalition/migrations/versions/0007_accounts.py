"""Users with passwords, failed log-ins, names and scopes of tokens.

Revision: 0007, after 0006
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    with op.batch_alter_table("token") as batch:
        batch.add_column(sa.Column("name", sa.String(64), nullable=False, server_default=""))
        batch.add_column(sa.Column("scope", sa.String(255), nullable=False, server_default=""))
    op.create_index("ix_token_user", "token", ["user"])
    op.create_index("ix_token_expires_at", "token", ["expires_at"])
    op.create_table(
        "account",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("password", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_account")),
        **MYSQL,
    )
    op.create_table(
        "failure",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_failure")),
        **MYSQL,
    )
    op.create_index("ix_failure_last_at", "failure", ["last_at"])


def downgrade() -> None:
    op.drop_table("failure")
    op.drop_table("account")
    op.drop_index("ix_token_user", "token")
    op.drop_index("ix_token_expires_at", "token")
    with op.batch_alter_table("token") as batch:
        batch.drop_column("scope")
        batch.drop_column("name")
