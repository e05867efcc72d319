"""The first tables, one function each.

Revision: 0001, the first
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LongText = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def _attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", Id, autoincrement=False, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("worker_id", Id, nullable=False),
        sa.Column("open_worker", Id, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("leased_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("run_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("progress", sa.Double(), server_default="0", nullable=False),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column(
            "reason", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=True
        ),
        sa.Column("cost_micro", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index("ix_attempt_job_id", ["job_id"], unique=False)
        batch_op.create_index(
            "ix_attempt_open_worker",
            ["open_worker"],
            unique=False,
            sqlite_where=sa.text("open_worker IS NOT NULL"),
            postgresql_where=sa.text("open_worker IS NOT NULL"),
        )
        batch_op.create_index("ix_attempt_worker_id", ["worker_id", "id"], unique=False)


def _block() -> None:
    op.create_table(
        "block",
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("offering", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.Column("image", sa.String(length=255), server_default="", nullable=False),
        sa.Column(
            "reason", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("pool", "offering", name=op.f("pk_block")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _budget_window() -> None:
    op.create_table(
        "budget_window",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("budget", sa.String(length=64), nullable=False),
        sa.Column("starts_at", sa.Double(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=False),
        sa.Column("cap_micro", sa.BigInteger(), nullable=False),
        sa.Column("committed_micro", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("alerted", sa.Double(), server_default="0", nullable=False),
        sa.Column("currency", sa.String(length=3), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget_window")),
        sa.UniqueConstraint("budget", "starts_at", "ends_at", name=op.f("uq_budget_window_budget_starts_at_ends_at")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _klass() -> None:
    op.create_table(
        "class",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("set_id", Id, nullable=False),
        sa.Column("prio_path", sa.String(length=2000), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("nonempty", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_class")),
        sa.UniqueConstraint("hash", name=op.f("uq_class_hash")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("class", schema=None) as batch_op:
        batch_op.create_index("ix_class_nonempty", ["nonempty"], unique=False)


def _counter() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=12), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column(
            "reason", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("decision", schema=None) as batch_op:
        batch_op.create_index("ix_decision_at", ["at"], unique=False)
        batch_op.create_index("ix_decision_pool_id", ["pool", "id"], unique=False)


def _dependency() -> None:
    op.create_table(
        "dependency",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("on_id", Id, autoincrement=False, nullable=False),
        sa.Column("met", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "on_id", name=op.f("pk_dependency")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("dependency", schema=None) as batch_op:
        batch_op.create_index("ix_dependency_on_id", ["on_id"], unique=False)


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=128), server_default="", nullable=False),
        sa.Column("job_id", Id, nullable=True),
        sa.Column("worker_id", Id, nullable=True),
        sa.Column("instance_id", Id, nullable=True),
        sa.Column(
            "text", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index("ix_event_at", ["at"], unique=False)
        batch_op.create_index("ix_event_instance_id", ["instance_id"], unique=False)
        batch_op.create_index("ix_event_job_id", ["job_id"], unique=False)
        batch_op.create_index("ix_event_worker_id", ["worker_id"], unique=False)


def _group_count() -> None:
    op.create_table(
        "group_count",
        sa.Column("group_id", Id, autoincrement=False, nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("waiting", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pending", sa.Integer(), server_default="0", nullable=False),
        sa.Column("working", sa.Integer(), server_default="0", nullable=False),
        sa.Column("finished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Integer(), server_default="0", nullable=False),
        sa.Column("run_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_micro", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_group_count")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _group_inherited() -> None:
    op.create_table(
        "group_inherited",
        sa.Column("group_id", Id, autoincrement=False, nullable=False),
        sa.Column("prio_path", sa.String(length=2000), nullable=False),
        sa.Column("set_id", Id, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_group_inherited")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _intent() -> None:
    op.create_table(
        "intent",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column(
            "request", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("launch_by", sa.Double(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column(
            "sponsors",
            sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"),
            nullable=False,
        ),
        sa.Column("payer", sa.String(length=255), server_default="", nullable=False),
        sa.Column("minimum_s", sa.Double(), nullable=False),
        sa.Column("granularity_s", sa.Double(), nullable=False),
        sa.Column(
            "reason", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent")),
        sa.UniqueConstraint("token", name=op.f("uq_intent_token")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("intent", schema=None) as batch_op:
        batch_op.create_index("ix_intent_state", ["state"], unique=False)


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("id", Id, autoincrement=False, nullable=False),
        sa.Column("parent", Id, server_default="0", nullable=False),
        sa.Column("is_group", sa.Boolean(), nullable=False),
        sa.Column("prio", sa.SmallInteger(), nullable=False),
        sa.Column("own_set", Id, nullable=False),
        sa.Column("class_id", Id, server_default="0", nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("holds", sa.Integer(), server_default="0", nullable=False),
        sa.Column("errors", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False),
        sa.Column("attempt_id", Id, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index(
            "ix_job_not_before",
            ["not_before"],
            unique=False,
            sqlite_where=sa.text("not_before > 0"),
            postgresql_where=sa.text("not_before > 0"),
        )
        batch_op.create_index("ix_job_parent_id", ["parent", "id"], unique=False)


def _leader() -> None:
    op.create_table(
        "leader",
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), server_default="", nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_leader")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("instance_id", Id, nullable=True),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_at", ["at"], unique=False)
        batch_op.create_index("ix_ledger_instance_id", ["instance_id"], unique=False)


def _ready() -> None:
    op.create_table(
        "ready",
        sa.Column("class_id", Id, autoincrement=False, nullable=False),
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("class_id", "job_id", name=op.f("pk_ready")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=False,
    )


def _reqset() -> None:
    op.create_table(
        "reqset",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column(
            "json", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reqset")),
        sa.UniqueConstraint("hash", name=op.f("uq_reqset_hash")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _spec() -> None:
    op.create_table(
        "spec",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("title", sa.String(length=255), server_default="", nullable=False),
        sa.Column(
            "command", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=True
        ),
        sa.Column(
            "dir", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.Column(
            "environment",
            sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"),
            nullable=False,
        ),
        sa.Column("user", sa.String(length=64), server_default="", nullable=False),
        sa.Column("timeout_s", sa.Double(), nullable=False),
        sa.Column(
            "url", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.Column(
            "progress_pattern",
            sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"),
            nullable=True,
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_spec")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("spec", schema=None) as batch_op:
        batch_op.create_index("ix_spec_user", ["user", "job_id"], unique=False)


def _token() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=64), server_default="", nullable=False),
        sa.Column("role", sa.String(length=16), server_default="", nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("intent_id", Id, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _worker() -> None:
    op.create_table(
        "worker",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("credential", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column(
            "affinity",
            sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"),
            nullable=False,
        ),
        sa.Column(
            "facts", sa.Text().with_variant(mysql.LONGTEXT(), "mariadb").with_variant(mysql.LONGTEXT(), "mysql"), nullable=False
        ),
        sa.Column("version", sa.String(length=64), server_default="", nullable=False),
        sa.Column("load", sa.Double(), server_default="0", nullable=False),
        sa.Column("memory_free_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("enrolled_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("idle_since", sa.Double(), nullable=True),
        sa.Column("instance_id", Id, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
        sa.UniqueConstraint("name", name=op.f("uq_worker_name")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


def _instance() -> None:
    op.create_table(
        "instance",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("intent_id", Id, nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("offering", sa.String(length=255), nullable=False),
        sa.Column("provider", sa.String(length=128), server_default="", nullable=False),
        sa.Column("provider_id", sa.String(length=255), server_default="", nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), server_default="", nullable=False),
        sa.Column("payer", sa.String(length=255), server_default="", nullable=False),
        sa.Column("worker_id", Id, nullable=True),
        sa.Column("committed_until", sa.Double(), nullable=False),
        sa.Column("funded_until", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("launched_at", sa.Double(), nullable=True),
        sa.Column("enrolled_at", sa.Double(), nullable=True),
        sa.Column("drained_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("wish", sa.String(length=12), server_default="", nullable=False),
        sa.Column("wished_by", sa.String(length=128), server_default="", nullable=False),
        sa.Column("spent_micro", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reason", sa.String(length=1000), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["intent_id"], ["intent.id"], name=op.f("fk_instance_intent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("intent_id", "k", name=op.f("uq_instance_intent_id_k")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.create_index("ix_instance_pool_id", ["pool", "id"], unique=False)
        batch_op.create_index("ix_instance_state", ["state"], unique=False)


def _commitment() -> None:
    op.create_table(
        "commitment",
        sa.Column("instance_id", Id, nullable=False),
        sa.Column("window_id", Id, nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_commitment_instance_id")),
        sa.ForeignKeyConstraint(["window_id"], ["budget_window.id"], name=op.f("fk_commitment_window_id")),
        sa.PrimaryKeyConstraint("instance_id", "window_id", name=op.f("pk_commitment")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        sqlite_with_rowid=True,
    )


TABLES = {
    "attempt": _attempt,
    "block": _block,
    "budget_window": _budget_window,
    "class": _klass,
    "counter": _counter,
    "decision": _decision,
    "dependency": _dependency,
    "event": _event,
    "group_count": _group_count,
    "group_inherited": _group_inherited,
    "intent": _intent,
    "job": _job,
    "leader": _leader,
    "ledger": _ledger,
    "ready": _ready,
    "reqset": _reqset,
    "spec": _spec,
    "token": _token,
    "worker": _worker,
    "instance": _instance,
    "commitment": _commitment,
}


def upgrade() -> None:
    for make in TABLES.values():
        make()


def downgrade() -> None:
    for name in reversed(TABLES):
        op.drop_table(name)
