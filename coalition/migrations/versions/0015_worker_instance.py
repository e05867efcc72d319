"""The workers of an instance are found at once.

Revision: 0015, after 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_worker_instance_id", "worker", ["instance_id"])


def downgrade() -> None:
    op.drop_index("ix_worker_instance_id", "worker")
