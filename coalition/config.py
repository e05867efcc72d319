"""cloud.ini -> Settings. The dataclasses below are the one table of knobs: name, type, default, bounds, help.

An unknown section or key, or a value that is not allowed, raises ConfigError with file, line and the nearest valid name.
A field's unit (`idle_s`, `log_max_bytes`, `amount_micro`) is not part of its key (`idle`, `log_max`, `amount`).
Durations are written 30, 30s, 5m, 2h, 7d; sizes 512, 64K, 10M, 2G, 1T; money 12.50; lists with commas. A comment is a line
that starts with # or ;, or what follows a # or ; with a space on both sides. `documented()` is the shipped cloud.ini.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from coalition import wishes
from coalition.errors import ConfigError, nearest
from coalition.journal import FORMATS, Journal, a_level_list
from coalition.model import NAME
from coalition.values import (
    BOOTED,
    CLOUDS,
    MICRO,
    NAME_OF_SECTION,
    OWN,
    PLATFORMS,
    SWEPT_SLACK_S,
    a_command_list,
    a_count,
    a_currency,
    a_directory_list,
    a_domain_list,
    a_duration,
    a_filter,
    a_flag,
    a_list,
    a_list_of,
    a_money,
    a_mount_list,
    a_name_list,
    a_network_list,
    a_package_list,
    a_pair_list,
    a_path_of,
    a_provider,
    a_run_as,
    a_scheme_list,
    a_share,
    a_share_list,
    a_size,
    a_tag_list,
    a_target,
    a_text,
    a_timezone,
    a_url,
    a_word,
    an_address,
    an_address_list,
    an_attribute,
    an_id_list,
    an_octal,
    an_origin_list,
    any_of,
    kind_of,
    knob,
    one_of,
    some_of,
    without_password,
    without_path,
)

T = TypeVar("T")

# ---------------------------------------------------------------- the knobs

LABEL = r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?"  # what Google allows as a name
A_LABEL = a_path_of(LABEL, "a name of small letters, digits and -")
LABELS = a_list_of(LABEL, "names of small letters, digits and -, with commas between them")
A_PROJECT = a_path_of(r"(?:[a-z0-9.\-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "the id of a project, such as studio-render-1")
A_SUBNETWORK = a_path_of(
    r"(?:(?:projects/[^/\s]+/)?regions/[^/\s]+/subnetworks/)?(?:[-a-z0-9]|\{zone\}){1,63}",
    "NAME or projects/PROJECT/regions/REGION/subnetworks/NAME, where {zone} is the machine's zone",
)
A_USER = a_path_of(r"[a-z_][a-z0-9_\-]{0,31}", "the name of a user, such as root or debian")
AN_ACCOUNT = a_path_of(r"default|[^@\s]+@[^@\s]+", "a service account's address, or default")
AN_ACCELERATOR = a_path_of(rf"{LABEL}(?::[1-9]\d?)?", "TYPE:COUNT, such as nvidia-tesla-t4:1")


@dataclass(frozen=True)
class ServerSettings:
    farm: str = knob("coalition", a_text, "this farm's name; discovery and cloud tags carry it")
    listen: str = knob("127.0.0.1:19211", an_address, "address and port; beyond loopback needs authentication")
    url: str = knob("", a_url, "the address workers and people use, if it is not the one above")
    tls_cert: str = knob("", a_text, "a file with its certificate and those above it: https; read again when it is renewed")
    tls_key: str = knob("", a_text, "a file with that certificate's key, for its owner only")
    data_dir: str = knob("~/.coalition", a_text, "logs, the SQLite file and secrets live here")
    database: str = knob("", a_text, "an SQLAlchemy address; empty: SQLite in data_dir", hide=without_password)
    processes: int = knob("1", a_count, "server processes on this machine; more than 1 not with SQLite", low=1, high=64)
    durability: str = knob(
        "power", one_of("power", "process"), "what acknowledged calls survive: a power cut, or only kill -9 (faster)"
    )
    threads: int = knob("64", a_count, "requests each process serves at a time; half may wait in long polls", low=4)
    proxies: tuple[str, ...] = knob("", a_network_list, "networks of proxies whose X-Forwarded-For tells who calls")
    discovery: bool = knob("yes", a_flag, "answer workers that look for the server by UDP broadcast")
    discovery_port: int = knob("0", a_count, "UDP port of discovery; 0: the port of `listen`", high=65_535)
    max_body_bytes: int = knob("64M", a_size, "the largest request body", low=1_024)
    log_max_bytes: int = knob(
        "1G",
        a_size,
        "what is kept of an attempt's log, from its beginning; what is beyond is cut and marked",
        high=64 << 30,
    )
    url_schemes: tuple[str, ...] = knob(
        "http, https", a_scheme_list, "schemes of jobs' addresses that the page opens, such as rvlink; others are only text"
    )
    pictures_from: tuple[str, ...] = knob(
        "",
        an_origin_list,
        "where the page shows jobs' pictures from besides this server: https://renders.studio.example, http://nas:8080",
    )
    legacy: bool = knob("no", a_flag, "serve the scripts and workers of Coalition 3.x and 4.0 as well, see docs/migration.md")


@dataclass(frozen=True)
class AuthSettings:
    mode: str = knob(
        "none",
        one_of("none", "token", "local", "ldap"),
        "none: loopback only, for everybody; token: API tokens; local: users and passwords too; ldap: those of a directory",
    )
    enrol_from: tuple[str, ...] = knob("", a_network_list, "networks from which workers may enrol without a token")
    legacy_networks: tuple[str, ...] = knob("", a_network_list, "networks whose old scripts and workers need no log-in")
    legacy_user: str = knob("legacy", a_text, "who those scripts are")
    legacy_role: str = knob("user", one_of("user", "admin"), "and what they may do: change their own jobs, or everything")
    metrics_networks: tuple[str, ...] = knob(
        "127.0.0.0/8, ::1/128", a_network_list, "networks from which /metrics is read without a token"
    )
    session_s: float = knob("12h", a_duration, "how long a log-in with a password lasts", low=60)


def _role(role: str) -> Any:
    return knob("", a_text, f"a group's name (DN), whose members have the role {role}")


def _right(words: str) -> Any:
    return knob("", a_filter, f"a filter that must find who may {words}")


@dataclass(frozen=True)
class LdapSettings:
    """`mode = ldap`. {user}, or __login__, is the user's name, escaped; {dn} the name of their entry."""

    servers: tuple[str, ...] = knob(
        "", a_directory_list, "ldaps://host or ldap://host, with a port if need be; the next one when one does not answer"
    )
    start_tls: bool = knob("yes", a_flag, "encrypt ldap:// by StartTLS; without, passwords are readable on their way")
    ca: str = knob("", a_text, "a file of the authorities that its certificates are checked by; empty: the system's")
    base: str = knob("", a_text, "below which users are, such as ou=people,dc=studio,dc=example")
    bind_template: str = knob("", a_text, "who binds: uid={user},ou=people,dc=studio,dc=example; empty: searched for first")
    bind_dn: str = knob("", a_text, "who searches; empty: nobody in particular")
    bind_password_file: str = knob("", a_text, "a file with that one's password, for its owner only")
    user_filter: str = knob("(uid={user})", a_filter, "what finds a user's entry by the name that is given at log-in")
    name_attribute: str = knob("uid", an_attribute, "where that entry has the name by which jobs belong to the user")
    default_role: str = knob(
        "none", one_of("none", "guest", "user", "wrangler", "budget"), "of who is in none of these groups; none: no rights"
    )
    role_guest: str = _role("guest")
    role_user: str = _role("user")
    role_wrangler: str = _role("wrangler")
    role_budget: str = _role("budget")
    role_admin: str = _role("admin")
    right_create: str = _right("submit jobs")
    right_view: str = _right("see own jobs")
    right_edit: str = _right("change own jobs")
    right_delete: str = _right("delete own jobs")
    right_create_all: str = _right("submit jobs for others")
    right_view_all: str = _right("see everybody's jobs")
    right_edit_all: str = _right("change everybody's jobs")
    right_delete_all: str = _right("delete everybody's jobs")
    right_workers: str = _right("change workers and limits")
    right_cloud: str = _right("start and end machines")
    right_budgets: str = _right("change prices and budgets")
    right_admin: str = _right("make tokens and users")
    timeout_s: float = knob("5s", a_duration, "how long each answer of the directory is waited for", low=0.1, high=60)
    cache_s: float = knob("60s", a_duration, "how long what the directory said of somebody holds", high=3_600)

    @property
    def gives_rights(self) -> bool:
        """Whether anybody could have a right."""
        return self.default_role != "none" or any(
            getattr(self, field.name) for field in dataclasses.fields(self) if field.name.startswith(("role_", "right_"))
        )


@dataclass(frozen=True)
class LogSettings:
    format: str = knob("text", one_of(*FORMATS), "lines for people, or a JSON object on each")
    level: str = knob("info", a_level_list, "debug, info, warning or error; of single parts too: info, store:debug")
    file: str = knob("", a_text, "where the server's own log goes; empty: stderr")
    max_bytes: int = knob("10M", a_size, "a file larger than this becomes FILE.1, and a new one begins", low=1_024)
    files: int = knob("5", a_count, "how many of those are kept", high=1_000)

    @property
    def journal(self) -> Journal:
        file = str(Path(self.file).expanduser()) if self.file else ""
        return Journal(self.format, self.level, file, self.max_bytes, self.files)


@dataclass(frozen=True)
class LogStoreSettings:
    kind: str = knob(
        "folder", one_of("folder", "s3"), "folder: logs in data_dir; s3: in an S3-compatible bucket, for several servers"
    )
    bucket: str = knob(
        "", a_text, "the bucket; its credentials are those of the environment, of AWS's files or the machine's role"
    )
    prefix: str = knob("logs", a_text, "what the names of its objects begin with")
    endpoint: str = knob("", a_url, "the address of a store that is not Amazon's")
    region: str = knob("", a_text, "the bucket's region, if the environment does not tell it")
    compress_after_s: float = knob("10m", a_duration, "the log of an attempt that ended is compressed when quiet for so long")


@dataclass(frozen=True)
class WorkerSettings:
    sync_s: float = knob("5s", a_duration, "how often a worker calls when nothing happens", low=0.1)
    lease_s: float = knob("60s", a_duration, "a worker silent for so long loses its jobs", low=0.5)
    wait_s: float = knob("10s", a_duration, "how long an idle worker's call may wait for a job", high=60)
    grace_s: float = knob("10s", a_duration, "between SIGTERM and SIGKILL of a job that is stopped")
    umask: int = knob("002", an_octal, "umask of jobs")
    nice: int = knob("10", a_count, "how far jobs yield the processor to the machine's other work; 0: not at all", high=19)
    run_as: str = knob(
        "",
        a_run_as,
        "runs a command as its job's user: sudo -n -u {user} env {environment} /bin/sh -c {command}; empty: as the worker's",
    )
    credential_s: float = knob("24h", a_duration, "after so long a worker gets another credential; 0: never")
    environment: tuple[str, ...] = knob("", a_pair_list, "NAME=value pairs given to every job")


@dataclass(frozen=True)
class CommandSettings:
    """[commands], and [commands NAME] of a user."""

    name: str = ""
    line: int = 0
    allow: tuple[str, ...] = knob("", a_command_list, "regular expressions, one a line: one must fit all of a command")
    environment: tuple[str, ...] = knob("", a_name_list, "variables that jobs may set, such as SHOT, NUKE_*; empty: any")


@dataclass(frozen=True)
class SchedulerSettings:
    fair: str = knob("no", one_of("no", "user", "group"), "share the farm within a priority by user, by top group, or not at all")
    fair_half_life_s: float = knob("24h", a_duration, "use counts half as much after so long", low=1)
    max_running_per_user: int = knob("0", a_count, "jobs of one user that run at a time; 0: any number")
    retry_delay_s: float = knob("1s", a_duration, "before the first retry; doubled for each further one")
    retry_delay_max_s: float = knob("60s", a_duration, "between retries at most")
    licence_delay_s: float = knob("60s", a_duration, "before a job that found no licence runs again", low=1)
    stop_after_workers: int = knob("3", a_count, "a job that erred on so many workers is not run again; 0: no such rule")
    sick_after: int = knob("3", a_count, "errors in a row of different jobs that set a worker aside; 0: never")
    sick_for_s: float = knob("30m", a_duration, "before a worker that was set aside is tried again")


@dataclass(frozen=True)
class KeepSettings:
    events_s: float = knob("90d", a_duration, "events older than this are forgotten; 0: never")
    audit_s: float = knob("730d", a_duration, "and what somebody did is kept for so long, with from where; 0: always")
    finished_s: float = knob("30d", a_duration, "trees that are finished for so long go into the archive; 0: never")
    logs_s: float = knob("90d", a_duration, "logs to which nothing was added for so long are deleted; 0: never")
    workers_s: float = knob("1h", a_duration, "workers of machines that are gone leave the list after so long")


@dataclass(frozen=True)
class AutoscalerSettings:
    enabled: bool = knob("yes", a_flag, "start and end instances of the pools")
    interval_s: float = knob("10s", a_duration, "between two decisions when nothing wakes it", low=0.2)
    slot_target_s: float = knob("180s", a_duration, "run time a new slot should find; fewer slots start for shorter work", low=1)
    slack_s: float = knob("60s", a_duration, "paid time reserved beyond the deadline of an instance; aws: 2m or more")
    stray_age_s: float = knob("120s", a_duration, "an instance without a record is ended when seen twice past this age")
    boot_failures: int = knob("3", a_count, "failed boots in a row that stop a pool's launches", low=1)
    boot_block_s: float = knob("1h", a_duration, "for how long, unless somebody resumes it or its image changes; 0: until then")
    max_start_share: float = knob("25%", a_share, "of what is wanted, what starts at once in a pool whose newest boot failed")
    price_max_age_s: float = knob("7d", a_duration, "a price older than this is not known any more", low=60)


@dataclass(frozen=True)
class PoolSettings:
    name: str
    line: int
    provider: str = knob("local", a_provider, "who starts the instances: one of ours, or module:Class", required=True)
    enabled: bool = knob("yes", a_flag, "no: nothing is started, what runs is drained")
    region: str = knob("", a_text, "the provider's region")
    zones: tuple[str, ...] = knob("", a_list, "zones to use; empty: all")
    types: tuple[str, ...] = knob("", a_list, "instance types to choose from; local: any names")
    purchase: tuple[str, ...] = knob("spot, on-demand", some_of("spot", "on-demand"), "markets, preferred first")
    image: str = knob("", a_text, "the prepared image")
    affinity: tuple[str, ...] = knob("", a_tag_list, "tags of its workers")
    slots: int = knob("0", a_count, "slots of one instance; 0: one per cpu")
    job_estimate_s: float = knob("25m", a_duration, "run time expected of jobs whose likes never ran", low=1)
    min: int = knob("0", a_count, "instances kept though idle")
    max: int = knob("0", a_count, "instances at most; 0: none are started")
    max_start_slots: int = knob("0", a_count, "slots that are started at most between two decisions; 0: any number")
    idle_s: float = knob("5m", a_duration, "an instance idle for so long is drained and ended")
    boot_timeout_s: float = knob("10m", a_duration, "an instance that has not enrolled by then is ended", low=1)
    funding_s: float = knob("15m", a_duration, "how far ahead an instance's time is paid from the budgets", low=10)
    price_micro: int = knob("0", a_money, "price per hour of one instance; 0: ask the provider")
    currency: str = knob("USD", a_currency, "currency of `price`")
    overhead_per_hour_micro: int = knob("0", a_money, "disk, public address and the like, per instance and hour")
    accept_guest_deadline: bool = knob("no", a_flag, "allow hard budgets though only the instance itself ends its time")
    image_prepared: bool = knob("yes", a_flag, "no: the image has Python only, the worker is installed at each boot", only=BOOTED)
    packages: tuple[str, ...] = knob("", a_package_list, "archives unpacked below /opt at boot", only=BOOTED)
    mounts: tuple[str, ...] = knob("", a_mount_list, "buckets mounted at boot, such as s3://assets/shows=/mnt/shows", only=BOOTED)
    environment: tuple[str, ...] = knob("", a_pair_list, "NAME=value pairs for its workers", only=BOOTED)
    startup: str = knob("", a_text, "shell command run at boot; if it fails, so has the boot", only=BOOTED)
    root_volume_bytes: int = knob("0", a_size, "size of the boot disk; 0: the image's", only=("aws", "gce"))
    spot_headroom: float = knob("20%", a_share, "how much a spot machine's price may rise before it is given up", only=("aws",))
    subnets: tuple[str, ...] = knob("", an_id_list("subnet"), "one for each zone to use; empty: the default ones", only=("aws",))
    security_groups: tuple[str, ...] = knob("", an_id_list("sg"), "ids; empty: the network's default one", only=("aws",))
    instance_profile: str = knob("", a_text, "name or ARN of the machines' instance profile", only=("aws",))
    image_owners: tuple[str, ...] = knob("self", a_list, "accounts whose images are looked for by name or tag", only=("aws",))
    networks: tuple[str, ...] = knob("", a_list, "names or ids of networks they are in", only=("libcloud",))
    groups: tuple[str, ...] = knob("", a_list, "names of their security groups", only=("libcloud",))
    key: str = knob("", a_text, "name of an SSH key that they get, or its text", only=("libcloud",))
    deploy_key: str = knob("", a_text, "private SSH key that brings the start-up script, if no user data can", only=("libcloud",))
    deploy_user: str = knob("root", A_USER, "who logs in for that, and may use sudo", only=("libcloud",))
    extra: tuple[str, ...] = knob("", a_pair_list, "what else the driver is told: NAME=value pairs", only=("libcloud", OWN))
    project: str = knob("", A_PROJECT, "the project to start them in; empty: that of the credentials", only=("gce",))
    subnetwork: str = knob("", A_SUBNETWORK, "theirs, {zone} stands for the zone; empty: the one of `default`", only=("gce",))
    public_address: bool = knob("no", a_flag, "give each an address in the Internet", only=("gce",))
    network_tags: tuple[str, ...] = knob("", LABELS, "tags that firewall rules know them by", only=("gce",))
    service_account: str = knob("", AN_ACCOUNT, "who they are to Google; empty: nobody", only=("gce",))
    disk_type: str = knob("", A_LABEL, "kind of the boot disk, such as pd-balanced; empty: Google's default", only=("gce",))
    accelerator: str = knob("", AN_ACCELERATOR, "GPUs to attach, if the type has none itself: TYPE:COUNT", only=("gce",))
    notices_queue: str = knob("", a_url, "SQS address at which interruptions are announced by EventBridge", only=("aws",))


@dataclass(frozen=True)
class LibcloudSettings:
    name: str
    line: int
    driver: str = knob("openstack", a_word, "libcloud's name of the driver, such as openstack or digitalocean", required=True)
    credentials: str = knob("", a_text, "a JSON file, for its owner only, of the driver's secret arguments: key, secret ...")
    arguments: tuple[str, ...] = knob("", a_pair_list, "the driver's other arguments: NAME=value pairs")
    lag_s: float = knob("15s", a_duration, "how long the cloud's lists may take to show a new machine", high=60)


WINDOWS = ("hour", "day", "week", "month", "total")


@dataclass(frozen=True)
class BudgetSettings:
    name: str
    line: int
    amount_micro: int = knob("200", a_money, "the cap", required=True)
    currency: str = knob("USD", a_currency, "the cap's currency")
    window: str = knob("month", one_of(*WINDOWS), "the time the cap is for")
    timezone: str = knob("UTC", a_timezone, "where the window's days begin")
    hard: bool = knob("yes", a_flag, "yes: nothing is started or extended beyond it; no: it only warns")
    applies_to: str = knob("farm", a_target, "farm, pool:NAME, offering:TYPE, user:NAME, group:TITLE or affinity:TAG")
    alert: tuple[float, ...] = knob("50%, 80%, 100%", a_share_list, "shares of the cap that are told")
    kill: bool = knob(
        "no", a_flag, "no: a job that it is not expected to pay for to its end waits; yes: it starts, and may be ended"
    )


@dataclass(frozen=True)
class MailSettings:
    host: str = knob("", a_text, "the SMTP server; empty: no mail is sent")
    port: int = knob("587", a_count, "its port", low=1, high=65_535)
    security: str = knob("starttls", one_of("starttls", "tls", "none"), "none only where nobody can listen")
    ca: str = knob("", a_text, "a file of certificates that its own is checked against; empty: the system's")
    user: str = knob("", a_text, "who logs in there; empty: nobody")
    password_file: str = knob("", a_text, "a file, for its owner only, of the password; else COALITION_MAIL_PASSWORD")
    sender: tuple[str, ...] = knob("", an_address_list, "what mail comes from, such as farm@studio.example")
    domains: tuple[str, ...] = knob("", a_domain_list, "of the users' addresses; jobs may name others in these only")
    jobs: tuple[str, ...] = knob("error, finished", any_of("error", "finished"), "what users are told of trees that do not say")
    first: int = knob("0", a_count, "and whether that so many of their jobs are finished; 0: no")
    to: tuple[str, ...] = knob("", an_address_list, "who looks after the farm")
    events: tuple[str, ...] = knob("budget, sick, boot", any_of(*wishes.KINDS), "what they are told")
    interval_s: float = knob("5m", a_duration, "between two mails to the same address; what happens meanwhile is in one")


@dataclass(frozen=True)
class WebhookSettings:
    name: str
    line: int
    url: str = knob(
        "https://chat.studio.example/hook", a_url, "where it is sent, by POST; shown to nobody", required=True, hide=without_path
    )
    secret_file: str = knob("", a_text, "a file, for its owner only, of the key that signs; else COALITION_WEBHOOK_SECRET")
    ca: str = knob("", a_text, "a file of certificates that the address's own is checked against; empty: the system's")
    events: tuple[str, ...] = knob("budget, sick, boot", any_of(*wishes.KINDS), "what is told")


@dataclass(frozen=True)
class PathRule:
    """One place under its name on each platform; a worker replaces the others' prefix by its own, and $(NAME) too."""

    name: str
    linux: str = ""
    macos: str = ""
    windows: str = ""


@dataclass(frozen=True)
class Settings:
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    ldap: LdapSettings = LdapSettings()
    log: LogSettings = LogSettings()
    log_store: LogStoreSettings = LogStoreSettings()
    worker: WorkerSettings = WorkerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    keep: KeepSettings = KeepSettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    mail: MailSettings = MailSettings()
    paths: tuple[PathRule, ...] = ()
    commands: CommandSettings = CommandSettings()
    commands_of: tuple[CommandSettings, ...] = ()
    accounts: tuple[LibcloudSettings, ...] = ()
    pools: tuple[PoolSettings, ...] = ()
    budgets: tuple[BudgetSettings, ...] = ()
    webhooks: tuple[WebhookSettings, ...] = ()

    @property
    def data_dir(self) -> Path:
        return Path(self.server.data_dir).expanduser()

    @property
    def database_url(self) -> str:
        return self.server.database or f"sqlite:///{self.data_dir / 'coalition.db'}"

    @property
    def host(self) -> str:
        return self.server.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.server.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The address that workers and people are told."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 it is compared, not bound
        return self.server.url or f"http{'s' if self.server.tls_cert else ''}://{host}:{self.port}"


SINGLE: dict[str, type] = {
    "server": ServerSettings,
    "auth": AuthSettings,
    "ldap": LdapSettings,
    "log": LogSettings,
    "log_store": LogStoreSettings,
    "worker": WorkerSettings,
    "commands": CommandSettings,
    "scheduler": SchedulerSettings,
    "keep": KeepSettings,
    "autoscaler": AutoscalerSettings,
    "mail": MailSettings,
}
NAMED: dict[str, type] = {
    "commands": CommandSettings,
    "libcloud": LibcloudSettings,
    "pool": PoolSettings,
    "budget": BudgetSettings,
    "webhook": WebhookSettings,
}
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|::1|localhost)\Z")


Given = Mapping[tuple[str, str | None], str]
NOTHING: Given = {}


def knobs(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The keys a section of this kind may hold: the fields' names without their units."""
    return {re.sub(r"_(s|bytes|micro)$", "", f.name): f for f in dataclasses.fields(kind) if "read" in f.metadata}


def options_of(pool: PoolSettings) -> dict[str, Any]:
    """What only this pool's provider knows: it is frozen into a request as it is now."""
    fields = knobs(PoolSettings).values()
    return {field.name: getattr(pool, field.name) for field in fields if kind_of(pool.provider) in field.metadata["only"]}


# ---------------------------------------------------------------- reading


def load(path: str | os.PathLike[str] | None, given: Given = NOTHING) -> Settings:
    """Settings of a cloud.ini; the defaults if `path` is None. ConfigError says file, line and what is allowed.

    `given` are values of the command line, by (section, key), that go before the file's.
    """
    if path is None:
        return parse("", "cloud.ini", given)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", file=str(path)) from None
    return parse(text, str(path), given)


def parse(text: str, name: str = "cloud.ini", given: Given = NOTHING) -> Settings:
    """Settings of the text of a cloud.ini; `name` is what messages call it."""
    reader = _Reader(name, text, given)
    parts: dict[str, Any] = {}
    named: dict[str, list[Any]] = {kind: [] for kind in NAMED}
    for section in reader.sections():
        kind, _, label = section.partition(" ")
        label = label.strip()
        if section in SINGLE:
            parts[section] = reader.read(section, SINGLE[section], {})
        elif section == "paths":
            parts["paths"] = reader.read_paths(section)
        elif kind in NAMED and NAME_OF_SECTION.match(label):
            entry: Any = reader.read(section, NAMED[kind], {"name": label, "line": reader.line_of(section)})
            named[kind].append(entry)
        elif kind in NAMED:
            raise reader.error(section, None, f"[{kind} NAME] needs a name of letters, digits and _ . -")
        else:
            valid = [*SINGLE, "paths", *(f"{k} NAME" for k in NAMED)]
            raise reader.error(section, None, f"unknown section [{section}]; {nearest(f'{kind} NAME' if label else kind, valid)}")
    commands, accounts, pools, budgets, webhooks = (tuple(named[kind]) for kind in NAMED)
    settings = Settings(**parts, commands_of=commands, accounts=accounts, pools=pools, budgets=budgets, webhooks=webhooks)
    _check_together(settings, reader)
    return _with_slack(settings, reader)


def _with_slack(settings: Settings, reader: _Reader) -> Settings:
    """What EC2 machines may run beyond their deadline is paid for: their sweeper looks once a minute, and takes its time."""
    rules = settings.autoscaler
    if rules.slack_s >= SWEPT_SLACK_S or all(pool.provider != "aws" for pool in settings.pools):
        return settings
    if reader.parser.has_option("autoscaler", "slack"):
        why = "the sweeper that ends EC2 machines looks once a minute"
        raise reader.error("autoscaler", "slack", f"{rules.slack_s:g} s is not allowed with a pool of aws: 2m or more; {why}")
    return replace(settings, autoscaler=replace(rules, slack_s=SWEPT_SLACK_S))


def _check_together(settings: Settings, reader: _Reader) -> None:
    if settings.auth.mode == "none" and not LOOPBACK.match(settings.host):
        line = "set `mode` in [auth] to token, local or ldap, or `listen` to 127.0.0.1"
        raise reader.error("server", "listen", f"{settings.server.listen} is beyond loopback and [auth] mode is none; {line}")
    if settings.server.processes > 1 and settings.database_url.startswith("sqlite"):
        allowed = "allowed: 1, as the database is SQLite; give `database` the address of a MariaDB or PostgreSQL for more"
        raise reader.error("server", "processes", f'"{settings.server.processes}" is not allowed; {allowed}')
    if bool(settings.server.tls_cert) != bool(settings.server.tls_key):
        raise reader.error(
            "server", "tls_key" if settings.server.tls_cert else "tls_cert", "is needed: a certificate and its key"
        )
    if settings.log_store.kind == "s3" and not settings.log_store.bucket:
        raise reader.error("log_store", "bucket", "is needed, as `kind` is s3")
    if settings.worker.lease_s <= settings.worker.sync_s:
        raise reader.error("worker", "lease", "must be longer than `sync`")
    if settings.mail.host and len(settings.mail.sender) != 1:
        raise reader.error("mail", "sender", "is needed, one address, as there is a `host`")
    named_ones = (settings.commands_of, settings.accounts, settings.pools, settings.budgets, settings.webhooks)
    groups: tuple[tuple[Any, ...], ...] = named_ones
    for kind, named in zip(NAMED, groups, strict=True):
        seen: dict[str, int] = {}
        for entry in named:
            if entry.name in seen:
                raise reader.error_at(entry.line, f"[{kind} {entry.name}] is there already, in line {seen[entry.name]}")
            seen[entry.name] = entry.line
    _check_durability(settings, reader)
    if settings.auth.mode == "ldap":
        _check_ldap(settings.ldap, reader)
    for pool in settings.pools:
        if pool.min > pool.max:
            raise reader.error(f"pool {pool.name}", "min", f"{pool.min} is more than `max`, which is {pool.max}")
        _check_pool(pool, reader)
        names = [account.name for account in settings.accounts]
        if pool.provider == "libcloud" and pool.region not in names:
            raise reader.error(f"pool {pool.name}", "region", f"no [libcloud {pool.region}]; {nearest(pool.region, names)}")
    for budget in settings.budgets:
        if (wrong := wrong_budget(budget, settings.pools)) is not None:
            raise reader.error(f"budget {budget.name}", *wrong)


IMAGES = {
    "aws": r"ami-[0-9a-f]{8,17}|ssm:/\S+|name:\S.*|tag:[^=\s]+=\S.*",
    "gce": rf"(family:)?{LABEL}|projects/[^/\s]+/global/images/(family/)?{LABEL}",
}
IMAGE_HELP = {
    "aws": "ami-..., ssm:/PARAMETER, name:PATTERN or tag:KEY=VALUE (the newest one)",
    "gce": "NAME, family:NAME (the newest one), or projects/PROJECT/global/images/NAME or .../family/NAME",
}
NEEDED = dict.fromkeys(CLOUDS, ("region", "types", "image"))


def _check_pool(pool: PoolSettings, reader: _Reader) -> None:
    """What its provider needs is there, what it does not know is not, and its image is named as it names images."""
    section = f"pool {pool.name}"
    for key, field in knobs(PoolSettings).items():
        only = field.metadata["only"]
        if only and kind_of(pool.provider) not in only and getattr(pool, field.name) != field.default:
            raise reader.error(section, key, f"is for provider {' or '.join(only)}, and this pool's is {pool.provider}")
    for key in NEEDED.get(pool.provider, ()):
        if not getattr(pool, key):
            raise reader.error(section, None, f"[{section}] needs `{key}`, as its provider is {pool.provider}")
    for zone in pool.zones if pool.provider == "gce" else ():
        if not re.fullmatch(rf"{re.escape(pool.region)}-[a-z]", zone):
            raise reader.error(section, "zones", f'"{zone}" is not allowed: zones of {pool.region}, such as {pool.region}-b')
    if pool.provider == "libcloud" and "on-demand" not in pool.purchase:
        raise reader.error(section, "purchase", "libcloud's drivers start on-demand machines only")
    if not re.fullmatch(IMAGES.get(pool.provider, "(?s).*"), pool.image):
        raise reader.error(section, "image", f'"{pool.image[:80]}" is not allowed: {IMAGE_HELP[pool.provider]}')


def _check_ldap(ldap: LdapSettings, reader: _Reader) -> None:
    """What a log-in needs is there, and no password travels in the clear."""
    for key in ("servers", "base", "user_filter"):
        if not getattr(ldap, key):
            raise reader.error("ldap", key, "is needed, as [auth] mode is ldap")
    for address in ldap.servers:
        parts = urlsplit(address)
        if parts.scheme == "ldap" and not ldap.start_tls and not LOOPBACK.match(parts.hostname or ""):
            raise reader.error("ldap", "start_tls", f"no is not allowed with {address}: passwords would be readable on their way")
    if "{user}" not in ldap.user_filter and "__login__" not in ldap.user_filter:
        raise reader.error("ldap", "user_filter", "needs {user} in it, else it finds anybody")
    if ldap.bind_template and "{user}" not in ldap.bind_template and "__login__" not in ldap.bind_template:
        raise reader.error("ldap", "bind_template", "needs {user} in it")
    if bool(ldap.bind_dn) != bool(ldap.bind_password_file):
        raise reader.error("ldap", "bind_dn", "goes together with `bind_password_file`")
    if ldap.bind_template and ldap.bind_dn:
        raise reader.error(
            "ldap", "bind_template", "and `bind_dn` exclude one another: who logs in binds, or a search finds them"
        )
    if not ldap.gives_rights:
        raise reader.error("ldap", "default_role", "nobody would have a right; set it, or one of role_... or right_...")


def _check_durability(settings: Settings, reader: _Reader) -> None:
    """What was reserved must be known after a power cut, and MariaDB lets no single user choose."""
    if settings.server.durability == "power":
        return
    if settings.pools:
        why = "there are pools, and money that was reserved must be known after a power cut"
    elif settings.database_url.startswith(("mysql", "mariadb")):
        why = "MariaDB's own innodb_flush_log_at_trx_commit decides"
    else:
        return
    raise reader.error("server", "durability", f'"{settings.server.durability}" is not allowed; allowed: power: {why}')


def wrong_budget(budget: BudgetSettings, pools: tuple[PoolSettings, ...]) -> tuple[str, str] | None:
    """A budget may pay for any pool, or for the one it names: they must be there, in its currency. Else (key, what is wrong)."""
    kind, _, target = budget.applies_to.partition(":")
    payable = [pool for pool in pools if kind != "pool" or pool.name == target]
    if kind == "pool" and not payable:
        return "applies_to", f"no [pool {target}]; {nearest(target, [pool.name for pool in pools])}"
    for pool in payable:
        if pool.currency != budget.currency:
            where = f"[pool {pool.name}]" + (f" (line {pool.line})" if pool.line else "")
            return "currency", f"{budget.currency} cannot pay for {where}, which is in {pool.currency}"
    return None


class _Reader:
    """configparser, with the line of every section and key for the messages."""

    def __init__(self, name: str, text: str, given: Given) -> None:
        self.name = name
        self.given = given
        self.lines: dict[tuple[str, str | None], int] = {}
        self.parser = configparser.ConfigParser(interpolation=None, default_section="\0")
        # Not by configparser: to it, the tag in `affinity = #big` is a comment.
        text = re.sub(r"[ \t]+[#;](?:[ \t].*)?$", "", text, flags=re.MULTILINE)
        self._index(text)
        try:
            self.parser.read_string(text, name)
            self.parser.read_dict(_nested(given))
        except configparser.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: configparser.Error) -> ConfigError:
        line = getattr(error, "lineno", None) or 0
        reason = "does not stand under a [section]"
        if isinstance(error, configparser.DuplicateSectionError):
            reason = f"[{error.section}] is there already, in line {self.line_of(error.section)}"
        elif isinstance(error, configparser.DuplicateOptionError):
            reason = f"[{error.section}] {error.option}: is there already, in line {self.line_of(error.section, error.option)}"
        elif wrong := getattr(error, "errors", None):
            line, reason = wrong[0][0], "is neither a [section] nor `key = value`"
        return self.error_at(line, reason)

    def _index(self, text: str) -> None:
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\[([^\]]+)\]", line):
                section = match[1]
                self.lines.setdefault((section, None), number)
            elif match := re.match(r"([^\s#;=:][^=:]*?)\s*[=:]", line):
                self.lines.setdefault((section, match[1].lower()), number)

    def error_at(self, line: int, message: str) -> ConfigError:
        return ConfigError(f"{self.name}:{line}: {message}", file=self.name, line=line)

    def sections(self) -> list[str]:
        return self.parser.sections()

    def line_of(self, section: str, key: str | None = None) -> int:
        return self.lines.get((section, key)) or self.lines.get((section, None), 0)

    def error(self, section: str, key: str | None, message: str) -> ConfigError:
        where = f"[{section}] {key}: " if key else ""
        if (section, key) in self.given:
            return ConfigError(f"command line: {where}{message}")
        return self.error_at(self.line_of(section, key), where + message)

    def read(self, section: str, kind: type[T], given: Mapping[str, Any]) -> T:
        valid = knobs(kind)
        values = dict(given)
        for key, text in self.parser.items(section):
            if key not in valid:
                raise self.error(section, key, f"unknown key; {nearest(key, valid)}")
            values[valid[key].name] = self._value(section, key, text.strip(), valid[key].metadata)
        for key, field in valid.items():
            if field.metadata["required"] and field.name not in values:
                raise self.error(section, None, f"[{section}] needs `{key}`: {field.metadata['help']}")
        return kind(**values)

    def _value(self, section: str, key: str, text: str, rules: Mapping[str, Any]) -> Any:
        try:
            value = rules["read"](text)
            if rules["low"] is not None and value < rules["low"]:
                raise ValueError(f"{rules['low']:,.10g} or more")
            if rules["high"] is not None and value > rules["high"]:
                raise ValueError(f"{rules['high']:,.10g} or less")
        except ValueError as error:
            shown = (rules["hide"](text) if rules["hide"] else text)[:80].replace("\n", "\\n")
            raise self.error(section, key, f'"{shown}" is not allowed: {error}') from None
        return value

    def read_paths(self, section: str) -> tuple[PathRule, ...]:
        rules = []
        for key, text in self.parser.items(section):
            places: dict[str, str] = {}
            for part in filter(None, (part.strip() for part in text.split("|"))):
                platform, _, place = part.partition(":")
                if platform.strip() not in PLATFORMS or not place.strip():
                    raise self.error(section, key, f'"{part}": write `linux:/mnt/show | macos:/Volumes/show | windows:X:\\show`')
                places[platform.strip()] = place.strip()
            if not NAME.match(key):
                raise self.error(section, key, "a rule's name has letters, digits and _ only")
            rules.append(PathRule(key.upper(), **places))
        return tuple(rules)


def _nested(given: Given) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for (section, key), text in given.items():
        sections.setdefault(section, {})[str(key)] = text
    return sections


# ---------------------------------------------------------------- writing

HEAD = """\
# cloud.ini: everything that Coalition can be told, with what it does when it is not told.
#
# Each setting below is commented out and shows its default: take away the # to change one. A name that is not known here,
# or a value that is not allowed, stops the start with its line; `coalition config check FILE` looks beforehand, and
# `coalition config show FILE` prints what is in force.
#
# Durations: 30, 30s, 5m, 2h, 7d. Sizes: 512, 64K, 10M, 2G, 1T (powers of 1024). Money: 12.50. Switches: yes, no.
# Lists: with commas. A comment starts a line, or has a space on both sides of its #.
"""
SECTIONS = {
    "server": "The server's process, its address and what it keeps.",
    "auth": "Who may do what. Beyond loopback, another mode than none is required.",
    "ldap": "The directory of `mode = ldap`. {user} in a template or filter is the user's name, {dn} the name of their entry.",
    "log": "What the server says of itself. Tokens and passwords are never in it.",
    "log_store": "Where the logs of jobs are kept; `log_max` in [server] and `logs` in [keep] say how much and for how long.",
    "worker": "What workers are told when they enrol.",
    "commands": "What jobs may run; a section [commands NAME] adds what one user may. Without any rule: everything.",
    "scheduler": "Who goes first, and what happens after errors.",
    "keep": "What is kept, and for how long.",
    "autoscaler": "When instances of the pools below are started and ended.",
    "mail": "Who is told of what by mail; of single jobs their `notify` says it.",
    "paths": "One place under its name on each platform. A worker replaces the other platforms' prefix by its own, in commands,\n"
    "# folders and environments; $(SHOWS) works as well. NAME = linux:PATH | macos:PATH | windows:PATH",
    "libcloud": "One section [libcloud NAME] for each account at a cloud of libcloud's; NAME is the `region` of its pools.",
    "pool": "One section [pool NAME] for each kind of machine that may be started.",
    "budget": "One section [budget NAME] for each cap. With a hard one, money is reserved before a machine starts.",
    "webhook": "One section [webhook NAME] for each address that is told by HTTP, signed.",
}
PATHS_EXAMPLE = "#shows = linux:/mnt/shows | macos:/Volumes/shows | windows:S:\\shows\n"


def documented() -> str:
    """The text of the shipped cloud.ini: every section and every knob, each with its help and its default."""
    parts = [HEAD]
    for section, kind in SINGLE.items():
        parts.append(f"# {SECTIONS[section]}\n[{section}]\n{_documented_knobs(kind)}")
    parts.append(f"# {SECTIONS['paths']}\n[paths]\n{PATHS_EXAMPLE}")
    for section, kind in ((section, kind) for section, kind in NAMED.items() if section not in SINGLE):
        parts.append(f"# {SECTIONS[section]}\n#[{section} example]\n{_documented_knobs(kind)}")
    return "\n".join(parts)


def _documented_knobs(kind: type) -> str:
    lines = []
    for key, field in knobs(kind).items():
        needed = " (required)" if field.metadata["required"] else ""
        needed += f" ({', '.join(field.metadata['only'])})" if field.metadata["only"] else ""
        lines.append(f"# {field.metadata['help']}{needed}\n#{key} = {field.metadata['default']}".rstrip() + "\n")
    return "".join(lines)


class Knob(NamedTuple):
    """A setting in force, as it would be written; `default` is None where it must be given."""

    section: str
    key: str
    value: str
    default: str | None
    help: str

    @property
    def changed(self) -> bool:
        return self.value != self.default


def describe(settings: Settings, hide: bool = True) -> Iterator[Knob]:
    """Every knob of every section, with its value and its default in the same notation; secrets in them are hidden."""
    for section in SINGLE:
        yield from _described(section, getattr(settings, section), hide)
    for rule in settings.paths:
        places = " | ".join(f"{platform}:{getattr(rule, platform)}" for platform in PLATFORMS if getattr(rule, platform))
        yield Knob("paths", rule.name.lower(), places, None, "a place on each platform")
    for rules in settings.commands_of:
        yield from _described(f"commands {rules.name}", rules, hide)
    for account in settings.accounts:
        yield from _described(f"libcloud {account.name}", account, hide)
    for pool in settings.pools:
        yield from _described(f"pool {pool.name}", pool, hide)
    for budget in settings.budgets:
        yield from _described(f"budget {budget.name}", budget, hide)
    for hook in settings.webhooks:
        yield from _described(f"webhook {hook.name}", hook, hide)


def _described(section: str, values: Any, hide: bool) -> Iterator[Knob]:
    for key, field in knobs(type(values)).items():
        rules = field.metadata
        default = None if rules["required"] else write(field.default, rules["read"])
        value = write(getattr(values, field.name), rules["read"])
        yield Knob(section, key, rules["hide"](value) if hide and rules["hide"] else value, default, rules["help"])


def write(value: Any, read: Callable[[str], Any]) -> str:
    """The text for cloud.ini that `read` reads as `value`."""
    if read in WRITERS:
        return WRITERS[read](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def write_duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def write_size(size: int) -> str:
    for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size and size % 1_024**power == 0:
            return f"{size // 1_024**power}{unit}"
    return str(size)


def write_money(micro: int) -> str:
    return f"{Decimal(micro) / MICRO:f}"


WRITERS: dict[Callable[[str], Any], Callable[[Any], str]] = {
    a_duration: write_duration,
    a_size: write_size,
    a_money: write_money,
    an_octal: lambda mode: f"{mode:03o}",
    a_command_list: "\n    ".join,
    a_share: lambda share: f"{share:.0%}",
    a_share_list: lambda shares: ", ".join(f"{share:.0%}" for share in shares),
}
