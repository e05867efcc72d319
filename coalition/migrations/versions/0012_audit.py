"""From where somebody did something, and what it was before and after.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("event") as batch:
        batch.add_column(sa.Column("address", sa.String(64), nullable=False, server_default=""))
        batch.add_column(sa.Column("changes", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")))


def downgrade() -> None:
    with op.batch_alter_table("event") as batch:
        batch.drop_column("changes")
        batch.drop_column("address")
