"""The tables. Money is BIGINT micro-units; times are seconds since 1970 in UTC; JSON columns hold text written here only.

Dispatch writes the narrow tables (job, ready, attempt, group_count) and never the wide one (spec).
The cascade of a job's requirements: own_set is what the job itself asks for; class.set_id is that with its ancestors'.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects import mysql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows only in INTEGER primary keys; the others want 64 bits.
Id = BigInteger().with_variant(Integer, "sqlite")
LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
Money = BigInteger
Seconds = Double


def _table(name: str, *parts: Column | Index | UniqueConstraint, rowid: bool = True) -> Table:  # type: ignore[type-arg]
    return Table(name, metadata, *parts, sqlite_with_rowid=rowid, mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


def _text(name: str, length: int, default: str = "") -> Column[str]:
    return Column(name, String(length), nullable=False, server_default=default)


# ---------------------------------------------------------------- jobs

job = _table(
    "job",
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("parent", Id, nullable=False, server_default="0"),
    Column("is_group", Boolean, nullable=False),
    Column("prio", SmallInteger, nullable=False),
    Column("own_set", Id, nullable=False),
    Column("class_id", Id, nullable=False, server_default="0"),  # where a leaf's ready row stands; 0 for groups
    Column("state", String(10), nullable=False),  # a group's is what its counters say
    Column("paused", Boolean, nullable=False),
    Column("holds", Integer, nullable=False, server_default="0"),  # own dependencies that are not met
    Column("errors", Integer, nullable=False, server_default="0"),  # attempts in error since the last reset, of a group all below
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("not_before", Seconds, nullable=False, server_default="0"),
    Column("attempt_id", Id, nullable=False, server_default="0"),  # the newest lease; a late result of an older one is refused
    Column("first_frame", Integer),  # of an array: the frames this leaf is for, both ends; NULL elsewhere
    Column("last_frame", Integer),
    Column("frame_step", Integer),  # ... and the distance from one to the next; NULL: 1
    Column("avoid", Id, nullable=False, server_default="0"),  # the worker it failed on last; copied to its ready row
    Column("max_running", Integer, nullable=False, server_default="0"),  # of a group: 0 is any number
    Column("needs_any", Boolean, nullable=False, server_default=false()),  # one of its own dependencies is enough
    Column("skipped", Boolean, nullable=False, server_default=false()),  # FINISHED by hand
    Column("sink_after", Integer, nullable=False, server_default="0"),  # of a group: errors after which it sinks; 0: never
    Column("sunk_from", SmallInteger),  # of a group that sank: its priority before
    Column("started_at", Seconds),  # of a leaf: its first lease since it was reset
    Column("ended_at", Seconds),  # of a leaf that is FINISHED or in ERROR
    Index("ix_job_parent_id", "parent", "id"),
    Index("ix_job_state_parent_id", "state", "parent", "id"),
    Index("ix_job_parent_prio_id", "parent", "prio", "id"),
)

Index("ix_job_ended_at", job.c.ended_at, sqlite_where=job.c.ended_at.is_not(None), postgresql_where=job.c.ended_at.is_not(None))
Index("ix_job_not_before", job.c.not_before, sqlite_where=job.c.not_before > 0, postgresql_where=job.c.not_before > 0)

spec = _table(
    "spec",
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("parent", Id, nullable=False, server_default="0"),  # as in job, for lists by user and title
    _text("title", 255),
    Column("command", LongText),
    Column("dir", LongText, nullable=False),
    Column("environment", LongText, nullable=False),  # JSON object
    _text("user", 64),
    Column("timeout_s", Seconds, nullable=False),
    Column("url", LongText, nullable=False),
    Column("progress_pattern", LongText),
    Column("created_at", Seconds, nullable=False),
    Column("rules", LongText),  # JSON of what only the worker needs: further timeouts, patterns; NULL: none
    _text("note", 1_000),
    Column("chunk", Integer),  # of a frame range: frames a job; its texts are those that its frames' are made of; NULL elsewhere
    Index("ix_spec_user_parent_job_id", "user", "parent", "job_id"),
    Index("ix_spec_parent_title_job_id", "parent", "title", "job_id"),
)

# Who waits for whom. What a job names itself, and, of the frames of ranges, what follows from a frame rule.
dependency = _table(
    "dependency",
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("by_rule", Boolean, primary_key=True, autoincrement=False),
    Column("on_id", Id, primary_key=True, autoincrement=False),
    Column("met", Boolean, nullable=False),
    Column("done", Boolean, nullable=False, server_default=false()),  # met also when the target has ended in ERROR
    Index("ix_dependency_on_id", "on_id"),
    rowid=False,
)

# Between two frame ranges: frame n of the one waits for frame n * step + shift of the other.
frame_rule = _table(
    "frame_rule",
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("on_id", Id, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("shift", Integer, primary_key=True, autoincrement=False),
    Column("done", Boolean, nullable=False),
    Index("ix_frame_rule_on_id", "on_id"),
    rowid=False,
)

# What a group hands down: priority path (hex, two digits a level, no trailing zeros), requirements, pause, holds of it and above.
group_inherited = _table(
    "group_inherited",
    Column("group_id", Id, primary_key=True, autoincrement=False),
    Column("prio_path", String(2_000), nullable=False),
    Column("set_id", Id, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("holds", Integer, nullable=False),
)

# The leaves below a group, by state; below 0, all of the farm. Times: the earliest start and the latest end of those below.
group_count = _table(
    "group_count",
    Column("group_id", Id, primary_key=True, autoincrement=False),
    Column("total", Integer, nullable=False, server_default="0"),
    Column("waiting", Integer, nullable=False, server_default="0"),
    Column("pending", Integer, nullable=False, server_default="0"),
    Column("working", Integer, nullable=False, server_default="0"),
    Column("finished", Integer, nullable=False, server_default="0"),
    Column("error", Integer, nullable=False, server_default="0"),
    Column("run_ms", BigInteger, nullable=False, server_default="0"),
    Column("cost_micro", Money, nullable=False, server_default="0"),
    Column("started_at", Seconds),
    Column("ended_at", Seconds),
    Index("ix_group_count_started_at", "started_at"),
    Index("ix_group_count_ended_at", "ended_at"),
)

reqset = _table(
    "reqset",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("json", LongText, nullable=False),  # matching.Requirement
)

klass = _table(
    "class",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("set_id", Id, nullable=False),
    Column("prio_path", String(2_000), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("nonempty", Boolean, nullable=False),
    Column("generation", BigInteger, nullable=False, server_default="0"),  # raised by whoever adds to ready
    _text("fair_key", 128),  # who shares: a user, or a tree's root; empty with `fair = no`
    Index("ix_class_nonempty", "nonempty"),
)

ready = _table(
    "ready",
    Column("class_id", Id, primary_key=True, autoincrement=False),
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("avoid", Id, nullable=False, server_default="0"),  # a worker that gets it only if no other can take it
    rowid=False,
)

# A counted token (a licence). "group#ID" and "user#NAME" are those of max_running; they are not shown as limits.
farm_limit = _table(
    "farm_limit",
    Column("name", String(128), primary_key=True),
    Column("maximum", Integer, nullable=False),
    Column("per_host", Boolean, nullable=False, server_default=false()),
)

# How many tokens open attempts hold: of the farm (worker 0), or of one worker's machine.
limit_use = _table(
    "limit_use",
    Column("name", String(128), primary_key=True),
    Column("worker_id", Id, primary_key=True, autoincrement=False),
    Column("used", Integer, nullable=False),
    rowid=False,
)

# A worker that keeps its room for a job which needs more than it has free now.
reservation = _table(
    "reservation",
    Column("worker_id", Id, primary_key=True, autoincrement=False),
    Column("job_id", Id, nullable=False, unique=True),
    Column("since", Seconds, nullable=False),
)

# Slot-seconds used lately by whoever shares the farm, halved every half-life; as of `at`.
fair_use = _table(
    "fair_use",
    Column("fair_key", String(128), primary_key=True),
    Column("used_s", Seconds, nullable=False),
    Column("at", Seconds, nullable=False),
)

attempt = _table(
    "attempt",
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("job_id", Id, nullable=False),
    Column("worker_id", Id, nullable=False),
    Column("open_worker", Id),  # worker_id while the lease is open, else NULL
    Column("epoch", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("deadline", Seconds, nullable=False),
    Column("leased_at", Seconds, nullable=False),
    Column("started_at", Seconds),
    Column("ended_at", Seconds),
    Column("run_ms", BigInteger, nullable=False, server_default="0"),
    Column("progress", Seconds, nullable=False, server_default="0"),
    Column("exit_code", BigInteger),  # Windows gives 32 bits without a sign
    Column("signal", Integer),
    Column("reason", LongText),
    Column("cost_micro", Money, nullable=False, server_default="0"),
    Column("set_id", Id, nullable=False, server_default="0"),  # what it was leased for, and so holds: room, limits
    _text("fair_key", 128),  # whose use of the farm it is, as its class said
    Column("no_licence", Boolean, nullable=False, server_default=false()),  # ERROR, and counted nowhere as one
    Column("memory_bytes", BigInteger, nullable=False, server_default="0"),  # the most that one of its processes took
    Index("ix_attempt_job_id", "job_id"),
    Index("ix_attempt_worker_id", "worker_id", "id"),
    Index("ix_attempt_ended_at", "ended_at"),
)
Index(
    "ix_attempt_open_worker",
    attempt.c.open_worker,
    sqlite_where=attempt.c.open_worker.is_not(None),
    postgresql_where=attempt.c.open_worker.is_not(None),
)

# Finished trees that have left the tables above: one row a job. Those whose parent is still there are counted in its counters.
archive = _table(
    "archive",
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("parent", Id, nullable=False),
    Column("is_group", Boolean, nullable=False),
    _text("title", 255),
    _text("user", 64),
    Column("archived_at", Seconds, nullable=False),
    Column("json", LongText, nullable=False),  # the job as it was shown, model.Job
    Index("ix_archive_parent_job_id", "parent", "job_id"),
    Index("ix_archive_user_job_id", "user", "job_id"),
)

# What submissions with an Idempotency-Key were answered, so that a repeat gets the same answer. One row a caller and key.
submission = _table(
    "submission",
    Column("who", String(128), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("digest", String(64), nullable=False),  # sha256 of the body, hex
    Column("answer", LongText, nullable=False),  # JSON of ids, count and refs
    Column("created_at", Seconds, nullable=False),
    Index("ix_submission_created_at", "created_at"),
)

# Jobs that somebody wants to hear of, with what was told of them.
watch = _table(
    "watch",
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("notify", LongText, nullable=False),  # JSON list of its words; empty: what the farm says of trees
    Column("first", Integer, nullable=False),  # so many finished below it are told; 0: not
    Column("told_end", Boolean, nullable=False, server_default=false()),
    Column("told_errors", Integer, nullable=False, server_default="0"),
    Column("told_first", Boolean, nullable=False, server_default=false()),
)

# What is on its way to somebody, and what was sent lately.
notice = _table(
    "notice",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Seconds, nullable=False),
    Column("channel", String(8), nullable=False),  # mail, webhook
    Column("target", String(255), nullable=False),  # an address, or a webhook's name
    Column("kind", String(16), nullable=False),  # of wishes.KINDS
    Column("job_id", Id),
    _text("title", 255),
    Column("text", LongText, nullable=False),
    _text("path", 255),  # of the page
    Column("due_at", Seconds, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    _text("claimed_by", 32),  # who sends it
    Column("claimed_until", Seconds, nullable=False, server_default="0"),
    Column("sent_at", Seconds),
    _text("why", 500),  # it is late
    Index("ix_notice_sent_at_due_at", "sent_at", "due_at"),
)

# ---------------------------------------------------------------- workers, identity, history

worker = _table(
    "worker",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("session", String(64), nullable=False),
    Column("credential", String(64), nullable=False),  # sha256, hex
    _text("old_credential", 64),  # the one before, which holds until the new one was used, or `old_until`
    Column("old_until", Seconds),
    Column("credential_at", Seconds, nullable=False, server_default="0"),  # when it was given
    Column("state", String(12), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("affinity", LongText, nullable=False),  # JSON list of tag lists, best first
    Column("facts", LongText, nullable=False),  # JSON of model.Facts
    _text("version", 64),
    Column("load", Seconds, nullable=False, server_default="0"),
    Column("memory_free_bytes", BigInteger, nullable=False, server_default="0"),
    Column("finished", BigInteger, nullable=False, server_default="0"),
    Column("errors", BigInteger, nullable=False, server_default="0"),
    Column("enrolled_at", Seconds, nullable=False),
    Column("seen_at", Seconds, nullable=False),
    Column("idle_since", Seconds),  # NULL while it runs something
    Column("instance_id", Id),
    _text("hours", 500),  # when it takes jobs, such as "mon-fri 19:00-07:00, sat-sun 00:00-24:00"; empty: always
    _text("timezone", 64, "UTC"),
    Column("hours_end", String(8), nullable=False, server_default="finish"),  # or requeue: of what runs when the hours end
    Column("idle_user_s", Seconds, nullable=False, server_default="0"),  # takes jobs when nobody used it for so long; 0: no rule
    Column("idle_load", Seconds, nullable=False, server_default="0"),  # ... and its load is below this; 0: no rule
    Column("streak", Integer, nullable=False, server_default="0"),  # errors in a row of different jobs
    Column("streak_of", Id, nullable=False, server_default="0"),  # the group (else the job) of the last of them
    Column("used_at", Seconds),  # when somebody last used its keyboard or mouse; NULL: cannot be told
    Column("sick_until", Seconds),
    _text("why", 500),  # why it is set aside
    _text("note", 1_000),
    Index("ix_worker_instance_id", "instance_id"),
)

token = _table(
    "token",
    Column("id", String(32), primary_key=True),
    Column("kind", String(8), nullable=False),  # user, enrol, site, session (a log-in with a password)
    Column("hash", String(64), nullable=False),  # sha256 of the secret, hex; also the key of discovery's answers
    _text("user", 64),
    _text("role", 16),  # of a user token or session: one of rights.ROLES
    Column("uses_left", Integer),  # NULL: any number
    Column("expires_at", Seconds),
    Column("intent_id", Id),
    Column("created_at", Seconds, nullable=False),
    _text("name", 64),  # what it is for, as its owner says
    _text("scope", 255),  # of user tokens: the rights it is narrowed to, with commas; empty: all of its role's
    _text("networks", 255),  # from which it may be used to enrol, with commas; empty: any
    Index("ix_token_user", "user"),
    Index("ix_token_expires_at", "expires_at"),
)

# Users who log in with a password, in `mode = local`.
account = _table(
    "account",
    Column("name", String(64), primary_key=True),
    Column("password", String(255), nullable=False),  # scrypt, with its parameters and salt
    Column("role", String(16), nullable=False),
    Column("created_at", Seconds, nullable=False),
    Column("changed_at", Seconds, nullable=False),  # the password
)

# Users of the directory of `mode = ldap` who were here: what it said of them last, which bounds all that calls in their names.
person = _table(
    "person",
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("rights", String(255), nullable=False),  # with commas; empty: none, or they are no longer there
    Column("checked_at", Seconds, nullable=False),
)

# Log-ins and enrolments that failed lately, by who and from where; they are counted before they are looked at.
failure = _table(
    "failure",
    Column("key", String(200), primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("last_at", Seconds, nullable=False),
    Index("ix_failure_last_at", "last_at"),
)

event = _table(
    "event",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Seconds, nullable=False),
    Column("kind", String(32), nullable=False),  # noun.verb, for example job.pause
    _text("who", 128),
    Column("job_id", Id),
    Column("worker_id", Id),
    Column("instance_id", Id),
    Column("text", LongText, nullable=False),
    _text("address", 64),  # from where somebody called; empty: the farm did it by itself
    Column("changes", LongText),  # JSON: field -> [before, after]
    Index("ix_event_job_id", "job_id"),
    Index("ix_event_worker_id", "worker_id"),
    Index("ix_event_instance_id", "instance_id"),
    Index("ix_event_at", "at"),
    Index("ix_event_who_id", "who", "id"),
)

# How the farm did, a row a minute: what there was to do, slots, machines paid for, and what an hour cost.
history = _table(
    "history",
    Column("minute", Integer, primary_key=True, autoincrement=False),  # since 1970
    *[Column(name, Integer, nullable=False) for name in ("waiting", "pending", "working", "error", "slots", "busy", "instances")],
    Column("burn_micro", Money, nullable=False),
)

# Numbers that processes share: id sequences, and versions that tell the others to read again.
counter = _table(
    "counter",
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# One row a role ("autoscaler", "sweeper"): who holds it, until when, and a number that only grows.
leader = _table(
    "leader",
    Column("role", String(32), primary_key=True),
    _text("holder", 64),
    Column("fence", BigInteger, nullable=False),
    Column("deadline", Seconds, nullable=False),
)

# ---------------------------------------------------------------- cloud and money

budget_window = _table(
    "budget_window",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("budget", String(64), nullable=False),
    Column("starts_at", Seconds, nullable=False),
    Column("ends_at", Seconds, nullable=False),
    Column("cap_micro", Money, nullable=False),
    Column("committed_micro", Money, nullable=False, server_default="0"),  # spend plus reservation
    Column("alerted", Seconds, nullable=False, server_default="0"),  # the highest share of the cap that was told
    _text("currency", 3),
    UniqueConstraint("budget", "starts_at", "ends_at"),
)

intent = _table(
    "intent",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("token", String(64), nullable=False, unique=True),
    Column("pool", String(64), nullable=False),
    Column("request", LongText, nullable=False),  # JSON, frozen: what is sent, whatever cloud.ini says later
    Column("count", Integer, nullable=False),
    Column("state", String(12), nullable=False),  # OPEN (also: outcome unknown), DONE, REFUSED, LOST
    Column("launch_by", Seconds, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("sponsors", LongText, nullable=False),  # JSON list of the budgets that all of it counts against
    _text("payer", 255),
    Column("minimum_s", Seconds, nullable=False),  # how the provider bills
    Column("granularity_s", Seconds, nullable=False),
    Column("reason", LongText, nullable=False),
    Column("created_at", Seconds, nullable=False),
    Index("ix_intent_state", "state"),
)

instance = _table(
    "instance",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("intent_id", Id, ForeignKey("intent.id"), nullable=False),
    Column("k", Integer, nullable=False),
    Column("pool", String(64), nullable=False),
    Column("offering", String(255), nullable=False),
    _text("provider", 128),  # and its region: whose list it is in
    _text("provider_id", 255),
    Column("state", String(12), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("price_micro", Money, nullable=False),  # ceiling per hour, overhead included
    _text("currency", 3),
    _text("payer", 255),
    Column("worker_id", Id),
    Column("committed_until", Seconds, nullable=False),  # money is reserved up to there
    Column("funded_until", Seconds, nullable=False),  # the deadline in force, never later; what the guest is told
    Column("created_at", Seconds, nullable=False),
    Column("launched_at", Seconds),
    Column("enrolled_at", Seconds),
    Column("drained_at", Seconds),
    Column("ended_at", Seconds),
    Column("taken_at", Seconds),  # when its cloud takes it away, as it announced
    _text("wish", 12),  # drain, terminate: asked for by hand, carried out by the next tick
    _text("wished_by", 128),
    Column("spent_micro", Money, nullable=False, server_default="0"),  # booked at settlement
    _text("reason", 1_000),
    Index("ix_instance_state", "state"),
    Index("ix_instance_pool_id", "pool", "id"),
    UniqueConstraint("intent_id", "k"),
)

commitment = _table(
    "commitment",
    Column("instance_id", Id, ForeignKey("instance.id"), primary_key=True),
    Column("window_id", Id, ForeignKey("budget_window.id"), primary_key=True),
    Column("amount_micro", Money, nullable=False),
)

ledger = _table(
    "ledger",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Seconds, nullable=False),
    _text("day", 10),  # in UTC, such as 2024-03-31
    Column("kind", String(12), nullable=False),  # run, waste (of attempts that did not count), boot, idle
    Column("instance_id", Id),
    Column("pool", String(64), nullable=False),
    _text("offering", 255),
    Column("attempt_id", Id),  # and whose it was, for run and waste; NULL and empty for boot and idle
    Column("job_id", Id),
    Column("group_id", Id),  # at the top of the job's tree
    _text("user", 64),
    Column("tags", LongText),  # JSON list: the job's and those of the groups above it
    Column("seconds", Seconds, nullable=False),
    Column("amount_micro", Money, nullable=False),
    _text("currency", 3),
    Index("ix_ledger_instance_id", "instance_id"),
    Index("ix_ledger_at", "at"),
    Index("ix_ledger_job_id", "job_id"),
)

# What an hour of an offering costs from `at` on, as its provider said while we had one, or asked for one.
rate = _table(
    "rate",
    Column("pool", String(64), primary_key=True),
    Column("offering", String(255), primary_key=True),
    Column("at", Seconds, primary_key=True),
    Column("price_micro", Money, nullable=False),  # overhead included
)

# What was changed while the server ran and goes before cloud.ini: "budget NAME", "pool NAME", "autoscaler".
setting_override = _table(
    "setting_override",
    Column("section", String(80), primary_key=True),
    Column("json", LongText, nullable=False),  # the fields that it sets
    Column("who", String(128), nullable=False),
    Column("at", Seconds, nullable=False),
)

decision = _table(
    "decision",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("at", Seconds, nullable=False),
    Column("last_at", Seconds, nullable=False),  # the same decision again only moves this
    Column("pool", String(64), nullable=False),
    Column("action", String(12), nullable=False),  # launch, drain, terminate, hold
    Column("count", Integer, nullable=False),
    Column("reason", LongText, nullable=False),
    Index("ix_decision_at", "at"),
    Index("ix_decision_pool_id", "pool", "id"),
)

# What an hour of a machine costs, as each source said it last.
price = _table(
    "price",
    Column("provider", String(32), primary_key=True),
    Column("region", String(64), primary_key=True),
    Column("zone", String(64), primary_key=True),  # empty: all of the region's
    Column("type", String(128), primary_key=True),
    Column("market", String(16), primary_key=True),
    Column("source", String(32), primary_key=True),  # studio: imported; a provider's name: its own word
    Column("price_micro", Money, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("as_of", Seconds, nullable=False),
)

# Instances asked for by hand, until the next tick of the autoscaler.
launch_wish = _table(
    "launch_wish",
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("pool", String(64), nullable=False),
    Column("offering", String(255), nullable=False),  # an offer's or a type's name; empty: any
    Column("count", Integer, nullable=False),
    Column("who", String(128), nullable=False),
    Column("created_at", Seconds, nullable=False),
)

# What must not be asked for until `until` (NULL: until somebody allows it again). An empty offering means the whole pool.
block = _table(
    "block",
    Column("pool", String(64), primary_key=True),
    Column("offering", String(255), primary_key=True),
    Column("kind", String(12), nullable=False),  # a provider's reason, or boot
    Column("at", Seconds, nullable=False),
    Column("until", Seconds),
    _text("image", 255),  # another image ends the block
    Column("reason", LongText, nullable=False),
)
