"""Users of a directory; tokens bound to networks; credentials of workers that are changed while they hold.

Revision: 0009, after 0008
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    with op.batch_alter_table("token") as batch:
        batch.add_column(sa.Column("networks", sa.String(255), nullable=False, server_default=""))
    with op.batch_alter_table("worker") as batch:
        batch.add_column(sa.Column("old_credential", sa.String(64), nullable=False, server_default=""))
        batch.add_column(sa.Column("old_until", sa.Double(), nullable=True))
        batch.add_column(sa.Column("credential_at", sa.Double(), nullable=False, server_default="0"))
    op.create_table(
        "person",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("rights", sa.String(255), nullable=False),
        sa.Column("checked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_person")),
        **MYSQL,
    )


def downgrade() -> None:
    op.drop_table("person")
    with op.batch_alter_table("worker") as batch:
        batch.drop_column("credential_at")
        batch.drop_column("old_until")
        batch.drop_column("old_credential")
    with op.batch_alter_table("token") as batch:
        batch.drop_column("networks")
