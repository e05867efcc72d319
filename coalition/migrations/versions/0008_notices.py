"""When an instance will be taken away, as its cloud announced.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("instance") as batch:
        batch.add_column(sa.Column("taken_at", sa.Double()))


def downgrade() -> None:
    with op.batch_alter_table("instance") as batch:
        batch.drop_column("taken_at")
