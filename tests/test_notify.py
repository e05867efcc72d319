"""Who is told of what: by mail to a real SMTP server, and by signed webhooks; late where those are away, once, and never lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from coalition import hooks, wishes
from coalition.cli import cli
from coalition.config import MailSettings, Settings, WebhookSettings, describe, parse
from coalition.errors import ConfigError
from coalition.mail import Item, message
from coalition.model import JobChanges, JobSpec, from_dict
from coalition.schema import notice, watch
from coalition.server.notifier import HOOKS_GIVE_UP_S, Hooks, Mailer, check
from coalition.store import notices
from coalition.store.notices import GATHER_S
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, a_range
from tests.cloud_world import World
from tests.databases import KINDS
from tests.fakes.smtp import Calls, Inbox, certificate, inbox, receiver

MAIL = MailSettings(
    host="127.0.0.1", security="none", sender=("farm@studio.example",), domains=("studio.example",), to=("wim@studio.example",)
)
ANN = "ann@studio.example"


@pytest.fixture(scope="module")
def sink() -> Iterator[Inbox]:
    with inbox() as made:
        yield made


@pytest.fixture(scope="module")
def hook_sink() -> Iterator[Calls]:
    with receiver() as made:
        yield made


@pytest.fixture
def mails(sink: Inbox) -> Inbox:
    sink.mails.clear()
    sink.envelopes.clear()
    sink.refuse.clear()
    sink.busy = False
    return sink


@pytest.fixture
def calls(hook_sink: Calls) -> Calls:
    for one in (hook_sink.bodies, hook_sink.raw, hook_sink.headers, hook_sink.statuses):
        one.clear()
    return hook_sink


def with_mail(store: WatchedStore, port: int, **changes: Any) -> Settings:
    store.settings = replace(store.settings, mail=replace(MAIL, port=port, **changes))
    return store.settings


@pytest.fixture
def mailer(store: WatchedStore, mails: Inbox) -> Mailer:
    made = Mailer(with_mail(store, mails.port), store)
    store.collect()  # from now on events are news
    return made


@pytest.fixture
def hand(mailer: Mailer, store: WatchedStore) -> Hand:
    return Hand(store)


def deliver(mailer: Mailer, clock: Clock, wait_s: float = GATHER_S + 1) -> int:
    """Finds the news, waits for what else comes, and sends."""
    found = mailer.tidy()
    clock.advance(wait_s)
    return found + mailer.tidy()


def subjects(mails: Inbox, to: str = ANN) -> list[str]:
    return [str(mail["Subject"]) for mail in mails.of(to)]


def plain(mails: Inbox, number: int = -1) -> str:
    part = mails.mails[number].get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


# ---------------------------------------------------------------- what jobs may ask for


@pytest.mark.parametrize(
    ("words", "kinds", "first", "addresses"),
    [
        ([], set(), 0, ()),
        (["none"], set(), 0, ()),
        (["error"], {"error"}, 0, ()),
        (["finished", "first:10"], {"finished", "first"}, 10, ()),
        ([ANN], {"error", "finished"}, 0, (ANN,)),
        (["error", ANN], {"error"}, 0, (ANN,)),
    ],
)
def test_words_say_what_is_told_and_to_whom(words: list[str], kinds: set[str], first: int, addresses: tuple[str, ...]) -> None:
    assert wishes.problem(words) is None
    assert wishes.wish(words) == (frozenset(kinds), first, addresses)


WRONG = ["", "first:0", "ann@", "a b@x.y", "a..b@x.y", ".a@x.y", "a.@x.y", "a@x.y\nBcc: b@x.y", "a@x.y,b@x.y", "<a@x.y>"]


@pytest.mark.parametrize("word", [*WRONG, "first:x", "a@-x", "fin\u0131shed"])
def test_other_words_are_refused_by_name(word: str) -> None:
    assert wishes.problem([word]) is not None
    assert wishes.problem(["none", "error"]) == "none stands alone"


def test_only_addresses_of_the_named_domains_are_written_to() -> None:
    domains = ("studio.example", "Other.example")
    assert wishes.address_of("ann", domains) == ANN
    assert wishes.address_of("bob@other.example", domains) == "bob@other.example"
    assert [wishes.address_of(user, domains) for user in ("eve@stranger.example", "", "a b", "a\nb")] == [""] * 4
    assert wishes.address_of("ann", ()) == ""


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_what_a_job_asks_for_is_kept_shown_edited_and_deleted_with_it(store: WatchedStore) -> None:
    one, other = store.submit([a_job(notify=("error", ANN)), a_job()]).ids
    assert [list(store.job(job).notify) for job in (one, other)] == [["error", ANN], []]
    store.edit([one, other], JobChanges(notify=("first:3",)))
    assert [list(store.job(job).notify) for job in (one, other)] == [["first:3"]] * 2
    store.edit([one], JobChanges(notify=()))
    assert list(store.job(one).notify) == []
    store.delete([other])
    with store.read() as db:
        assert db.execute(select(watch)).all() == []
    assert from_dict(JobSpec, {"title": "a", "command": "true", "notify": ["none"]}).notify == ("none",)


# ---------------------------------------------------------------- mail


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_errors_the_first_and_the_end_are_told_once_each(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    frames = (a_job(f"frame {n}", user="ann") for n in range(4))
    group = a_group("shot", *frames, user="ann", notify=("error", "finished", "first:2"))
    (job,) = store.submit([group]).ids
    assert deliver(mailer, clock) == 0
    leases = hand.take(4)
    hand.fail(leases[0], reason="no such texture")
    hand.finish(leases[1])
    assert deliver(mailer, clock) == 1
    assert deliver(mailer, clock, 1_000) == 0, "told once"
    hand.finish(leases[2])
    deliver(mailer, clock, 1_000)
    hand.finish(leases[3])
    store.skip([leases[0].job])
    deliver(mailer, clock, 1_000)
    assert subjects(mails) == [
        f"[coalition] group {job} shot: 1 job of 4 in error",
        f"[coalition] group {job} shot: the first 2 are finished",
        f"[coalition] group {job} shot: finished",
    ]
    link = f"{store.settings.url}/?view=jobs&job={job}"
    assert plain(mails, 0).splitlines()[1:] == [f"job {leases[0].job} frame 0: no such texture", link]
    store.reset([job])
    assert deliver(mailer, clock, 1_000) == 0
    hand.finish_all()
    assert deliver(mailer, clock, 1_000) == 1, "what runs again ends again"


def test_trees_that_do_not_say_are_told_to_their_users_as_the_farm_says(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    quiet = a_job("quiet", user="ann", notify=("none",))
    store.submit([a_group("tree", a_job("leaf", user="ann"), user="ann"), quiet, a_job("nobody", user="")])
    hand.finish_all()
    deliver(mailer, clock)
    assert subjects(mails) == ["[coalition] group 1 tree: finished"]
    mailer.settings = with_mail(store, mails.port, jobs=("error",))
    store.reset([1])
    deliver(mailer, clock)
    hand.finish_all()
    assert deliver(mailer, clock, 1_000) == 0


def test_who_asks_later_hears_of_what_comes_later(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    store.submit([a_group("g", *(a_job(user="ann") for _ in range(3)), user="ann", notify=("none",))])
    leases = hand.take(3)
    hand.fail(leases[0])
    store.edit([1], JobChanges(notify=("error", "bob@studio.example", "eve@stranger.example")))
    assert deliver(mailer, clock) == 0
    hand.fail(leases[1])
    deliver(mailer, clock)
    assert sorted(to for _, all_to in mails.envelopes for to in all_to) == [ANN, "bob@studio.example"]


def test_a_storm_is_one_mail_and_the_next_comes_after_the_interval(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    store.settings = replace(store.settings, scheduler=replace(store.settings.scheduler, sick_after=0))
    store.submit([a_range("1-40", f"shot {n}", user="ann") for n in range(5)])
    for n in range(5):
        hand.fail(*hand.take(20), reason=f"broken {n}")
        mailer.tidy()
        clock.advance(1)
    clock.advance(GATHER_S)
    assert mailer.tidy() > 1
    assert len(mails.mails) == 1
    assert plain(mails).count("in error") == 3, "of each job its last news"
    hand.fail(*hand.take(20))
    mailer.tidy()
    clock.advance(200)
    assert mailer.tidy() == 0, "not yet"
    clock.advance(200)
    assert mailer.tidy() > 0
    assert len(mails.mails) == 2


def test_alerts_of_the_farm_go_to_who_looks_after_it(
    store: WatchedStore, mailer: Mailer, clock: Clock, mails: Inbox, tmp_path: Path
) -> None:
    hand = Hand(store)
    store.submit([a_job(str(n), notify=("none",)) for n in range(3)])
    hand.fail(*hand.take(3))
    with store.write() as db:
        store._event(db, "budget.alert", "autoscaler", "budget night has reached 80%: 8 of 10 USD are spent or reserved")
        store._event(db, "pool.block", "autoscaler", "pool big is blocked (capacity): none left")
        store._event(db, "pool.block", "autoscaler", "pool big is blocked (boot): 3 boots failed in a row")
        store._event(db, "instance.console", "autoscaler", "mount: no such host\nhalted", instance_id=7)
    assert deliver(mailer, clock) == 4
    text = plain(mails)
    assert mails.mails[-1]["To"] == "wim@studio.example"
    assert all(told in text for told in ("worker w1 is set aside as sick", "budget night has reached 80%", "(boot): 3 boots"))
    assert "instance 7 failed to boot\nmount" in text
    assert "capacity" not in text
    assert f"{store.settings.url}/?view=money" in text


def test_a_boot_that_failed_is_told_with_what_the_machine_said(tmp_path: Path, mails: Inbox) -> None:
    world = World(tmp_path)
    world.store.settings = replace(world.settings, mail=replace(MAIL, port=mails.port))
    mailer = Mailer(world.store.settings, world.store)
    world.store.collect()
    world.submit(1)
    world.tick(9, seconds=100)
    mailer.tidy()
    world.clock.wait(GATHER_S + 1)
    mailer.tidy()
    assert "instance 1 failed to boot" in plain(mails)
    world.store.close()


def test_without_a_server_for_mail_nothing_is_made(store: WatchedStore, clock: Clock) -> None:
    hand = Hand(store)
    store.submit([a_job(user="ann", notify=("error", "finished"))])
    hand.fail(hand.take_one())
    assert store.has_news()
    assert store.collect() == 0


# ---------------------------------------------------------------- late, and once


def rows(store: WatchedStore) -> list[Any]:
    with store.read() as db:
        return list(db.execute(select(notice).order_by(notice.c.id)).all())


def test_an_outage_delays_mail_and_loses_none(store: WatchedStore, clock: Clock, mails: Inbox) -> None:
    with inbox() as gone:
        port = gone.port
    mailer = Mailer(with_mail(store, port), store)
    store.collect()
    hand = Hand(store)
    store.submit([a_job(f"job {n}", user=f"user{n}") for n in range(3)])
    hand.finish_all()
    assert deliver(mailer, clock) == 0
    waits = []
    for _ in range(8):
        before = min(row.due_at for row in rows(store)) - clock()
        waits.append(round(before))
        clock.advance(before)
        assert mailer.tidy() == 0
    assert waits == [15, 30, 60, 120, 240, 480, 900, 900]
    assert "Connection refused" in store.unsent()[0]["why"]
    assert store.unsent_counts() == {"mail": 3, "webhook": 0}
    mailer.settings = with_mail(store, mails.port)
    clock.advance(900)
    assert mailer.tidy() == 3
    assert sorted(str(mail["To"]) for mail in mails.mails) == [f"user{n}@studio.example" for n in range(3)]
    assert store.unsent() == []


def test_a_busy_server_is_asked_again_and_a_refused_address_is_given_up(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    mails.refuse = {"gone@studio.example": "550 no such user", "full@studio.example": "452 mailbox is full"}
    store.submit([a_job(user=user) for user in ("gone", "full", "ann")])
    hand.finish_all()
    mails.busy = True
    assert deliver(mailer, clock) == 0
    assert [event["text"] for event in store.events({"kind": "notice.lost"}, 0, 9)] == [
        "gone@studio.example was not told (job 1 job: finished): 550 no such user"
    ]
    mails.busy = False
    mails.refuse.clear()
    clock.advance(60)
    assert mailer.tidy() == 2
    assert sorted(str(mail["To"]) for mail in mails.mails) == [ANN, "full@studio.example"]


def test_a_full_mailbox_keeps_nobody_elses_mail(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    mails.refuse = {"a@studio.example": "452 mailbox is full"}
    store.submit([a_job(user=user) for user in ("a", "ann")])
    hand.finish_all()
    assert deliver(mailer, clock) == 1
    assert [str(mail["To"]) for mail in mails.mails] == [ANN]


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_two_servers_send_each_once(store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox) -> None:
    other = Mailer(store.settings, store)
    store.submit([a_job(user=f"user{n}") for n in range(4)])
    hand.finish_all()
    mailer.tidy()
    clock.advance(GATHER_S + 1)
    first = store.claim("mail", 0, mailer.holder, 900)
    assert len(first) == 4
    assert store.claim("mail", 0, other.holder, 900) == [], "they are somebody's already"
    clock.advance(100)  # the role is free again; what is claimed is not
    assert other.tidy() == 0
    assert mailer.send(first, clock() + 100) == 4
    assert other.tidy() == mailer.tidy() == 0
    assert len(mails.mails) == 4


def test_who_ends_while_sending_is_succeeded_and_the_same_mail_has_the_same_id(
    store: WatchedStore, hand: Hand, mailer: Mailer, clock: Clock, mails: Inbox
) -> None:
    store.submit([a_job(user="ann")])
    hand.finish_all()
    mailer.tidy()
    clock.advance(GATHER_S + 1)
    claimed = store.claim("mail", 0, "the one that ends", 900)
    clock.advance(1_000)
    assert mailer.tidy() == 1
    late = Mailer(store.settings, store)
    late.holder = "the one that ends"
    assert late.send(claimed, clock() + 100) == 0, "it holds them no longer"
    assert len({str(mail["Message-ID"]) for mail in mails.mails}) == 1


# ---------------------------------------------------------------- the way to the SMTP server


def send_one(settings: Settings, store: WatchedStore, clock: Clock) -> int:
    mailer = Mailer(settings, store)
    store.collect()
    hand = Hand(store)
    store.submit([a_job(user="ann")])
    hand.finish_all()
    return deliver(mailer, clock)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_it_logs_in_over_tls_and_checks_the_certificate(
    store: WatchedStore, clock: Clock, tmp_path: Path, security: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    monkeypatch.setenv("COALITION_MAIL_PASSWORD", "hunter2")
    with inbox(security, pem, login=True) as box:
        stranger = with_mail(store, box.port, security=security, user="farm")
        assert send_one(stranger, store, clock) == 0
        assert "certificate verify failed" in store.unsent()[0]["why"]
        assert box.logins == []
        known = with_mail(store, box.port, security=security, user="farm", ca=str(pem))
        clock.advance(60)
        assert Mailer(known, store).tidy() == 1
        assert (box.logins, subjects(box)) == ([b"farm"], ["[coalition] job 1 job: finished"])


def test_a_server_without_starttls_gets_no_password(
    store: WatchedStore, clock: Clock, mails: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COALITION_MAIL_PASSWORD", "hunter2")
    assert send_one(with_mail(store, mails.port, security="starttls", user="farm"), store, clock) == 0
    assert "STARTTLS" in store.unsent()[0]["why"]


def test_secrets_come_from_a_file_for_its_owner_only(store: WatchedStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o644)
    settings = with_mail(store, 25, password_file=str(file))
    with pytest.raises(ConfigError, match=r"password_file: .* may be read by others: chmod 600"):
        check(settings)
    file.chmod(0o600)
    check(settings)
    assert "hunter2" not in repr(settings)


def test_in_headers_there_is_one_line_and_in_html_no_markup_of_others() -> None:
    evil = "x\r\nBcc: all@studio.example\n\n<script>alert(1)</script>\x1b[31m\u202e\u2028"
    mail = message(MAIL, "farm\r\nX-Evil: 1", ANN, [Item(evil, evil, 'https://farm/?a=1&b="><b>')], "id", 0.0)
    data = mail.as_bytes()
    head = data.partition(b"\r\n\r\n")[0].decode()
    assert {line.partition(":")[0] for line in head.splitlines() if not line.startswith((" ", "\t"))} == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")
    }
    assert mail["Bcc"] is None
    page = mail.get_body(("html",))
    assert page is not None
    text = page.get_content()
    assert "<script" not in text
    assert '"><b>' not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not {"\x1b", "\u202e", "\u2028"} & {*text, *str(mail["Subject"])}


# ---------------------------------------------------------------- webhooks


@pytest.fixture
def hooked(store: WatchedStore, calls: Calls, tmp_path: Path) -> Hooks:
    secret = tmp_path / "key"
    secret.write_text("a key")
    secret.chmod(0o600)
    hook = WebhookSettings("chat", 1, url=calls.url, secret_file=str(secret), events=("error", "finished", "sick"))
    store.settings = replace(store.settings, webhooks=(hook,))
    store.collect()
    return Hooks(store.settings, store)


def test_a_call_is_signed_so_that_nobody_else_can_send_it_nor_send_it_later(
    store: WatchedStore, hooked: Hooks, calls: Calls, clock: Clock
) -> None:
    hand = Hand(store)
    store.submit([a_job("<b>", user="ann")])
    hand.fail(hand.take_one())
    assert hooked.tidy() == 1
    (told,) = calls.bodies
    link = f"{store.settings.url}/?view=jobs&job=1"
    assert told == {
        **{"id": 1, "farm": "coalition", "at": clock(), "kind": "error", "job": 1, "link": link},
        **{"title": "job 1 <b>: in error", "text": "job 1 <b>: exit code 1"},
    }
    header, body = calls.headers[0]["Coalition-Signature"], calls.raw[0]
    assert hooks.verify("a key", body, header, clock() + 299)
    assert not hooks.verify("a key", body, header, clock() + 301)
    assert not hooks.verify("another", body, header, clock())
    assert not hooks.verify("a key", body + b" ", header, clock())
    assert not hooks.verify("a key", body, "t=1,v1=é", clock())


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_what_was_not_taken_is_sent_again_in_order_and_once(
    store: WatchedStore, hooked: Hooks, calls: Calls, clock: Clock
) -> None:
    hand = Hand(store)
    store.submit([a_job(), a_job(), a_job()])
    hand.finish_all()
    calls.statuses += [200, 503]
    assert hooked.tidy() == 1
    calls.statuses += [302]  # leads elsewhere, and is not followed
    clock.advance(15)
    assert hooked.tidy() == 0
    clock.advance(30)
    assert hooked.tidy() == 2
    assert hooked.tidy() == 0
    assert [body["job"] for body in calls.bodies] == [1, 2, 2, 2, 3]
    keys = [headers["Idempotency-Key"] for headers in calls.headers]
    assert (len({*keys}), len({*keys[1:4]})) == (3, 1)


def test_an_address_that_never_answers_is_given_up_after_days(
    store: WatchedStore, hooked: Hooks, calls: Calls, clock: Clock
) -> None:
    hand = Hand(store)
    store.submit([a_job()])
    hand.finish_all()
    calls.statuses += [500] * 2
    assert hooked.tidy() == 0
    clock.advance(HOOKS_GIVE_UP_S + 1)
    assert hooked.tidy() == 0
    assert store.unsent() == []
    assert "chat was not told" in store.events({"kind": "notice.lost"}, 0, 1)[0]["text"]


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_hook_that_is_away_with_much_to_tell_holds_up_no_other(
    store: WatchedStore, hooked: Hooks, calls: Calls, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "PIECE", 10)
    dead = WebhookSettings("away", 2, url="http://127.0.0.1:9/x", events=("finished",))
    chat = replace(store.settings.webhooks[0], events=("error",))
    store.settings = hooked.settings = replace(store.settings, webhooks=(dead, chat))
    hand = Hand(store)
    store.submit([a_job() for _ in range(30)])
    hand.finish_all()
    store.collect()
    store.submit([a_job("b")])
    hand.fail(hand.take_one())
    assert hooked.tidy() == 1
    assert [body["title"] for body in calls.bodies] == ["job 31 b: in error"]
    waits = store.unsent()
    assert len(waits) == 30
    assert {row["due_at"] for row in waits} == {clock() + 15}, "none of them is tried before the first"
    assert not store.has_due("webhook", 0.0)


def test_the_address_of_a_hook_is_a_secret_that_is_told_nowhere(
    store: WatchedStore, hooked: Hooks, calls: Calls, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for name, path in (("w1", "/T0/s3cret?key=s3cret"), ("w2", "/s3cret s3cret")):
        hook = WebhookSettings("chat", 1, url=f"{calls.url}{path}", events=("finished",))
        store.settings = hooked.settings = replace(store.settings, webhooks=(hook,))
        store.submit([a_job()])
        Hand(store, name).finish_all()
        calls.statuses.append(500)
        assert hooked.tidy() == 0
        told = [store.unsent(), store.events({}, 0, 100), caplog.text, repr(store.settings), list(describe(store.settings))]
        assert "chat" in caplog.text
        assert "s3cret" not in str(told)
        clock.advance(HOOKS_GIVE_UP_S + 1)
        calls.statuses.clear()
        hooked.tidy()
        assert "s3cret" not in str([store.events({"kind": "notice.lost"}, 0, 100), caplog.text])
    with pytest.raises(ConfigError) as refused:
        parse("[webhook chat]\nurl = ftp://x/s3cret\n")
    assert "s3cret" not in str(refused.value)


def test_a_hook_that_is_gone_from_the_file_gets_nothing(store: WatchedStore, hooked: Hooks, calls: Calls) -> None:
    hand = Hand(store)
    store.submit([a_job()])
    hand.finish_all()
    store.collect()
    hooked.settings = replace(store.settings, webhooks=())
    assert hooked.tidy() == 0
    assert (calls.bodies, store.unsent()) == ([], [])


# ---------------------------------------------------------------- configuration and command line


def test_the_configuration_names_both_and_says_what_is_missing() -> None:
    hook = "[webhook chat]\nurl = https://x/y\nevents = error, boot\n"
    read = parse(f"[mail]\nhost = smtp\nsender = farm@studio.example\nevents =\n{hook}")
    assert (read.mail.sender, read.mail.events, read.webhooks[0].events) == (("farm@studio.example",), (), ("error", "boot"))
    for wrong, told in (
        ("[mail]\nhost = smtp\n", "[mail] sender: is needed"),
        ("[mail]\nto = ann\n", "addresses such as"),
        ("[mail]\nevents = erorr\n", "error"),
        ("[webhook chat]\n", "needs `url`"),
        ("[webhook chat]\nurl = ftp://x\n", "http"),
    ):
        with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
            parse(wrong)


def test_the_command_tries_both_and_shows_what_waits(
    store: WatchedStore, mails: Inbox, calls: Calls, tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / "cloud.ini"
    mail = f"[mail]\nhost = 127.0.0.1\nport = {mails.port}\nsecurity = none\nsender = farm@studio.example\n"
    file.write_text(f"[server]\ndata_dir = {tmp_path}\n{mail}[webhook chat]\nurl = {calls.url}\n")
    run = CliRunner()
    asked = run.invoke(cli, ["notify", "test", "--config", str(file)])
    assert (asked.exit_code, "--to ADDRESS" in asked.output) == (2, True)
    done = run.invoke(cli, ["--json", "notify", "test", "--config", str(file), "--to", ANN])
    assert (done.exit_code, [row["result"] for row in json.loads(done.output)]) == (0, ["sent", "sent"])
    assert (subjects(mails), calls.bodies[0]["kind"]) == (["[coalition] a test"], "test")
    calls.statuses.append(500)
    failed = run.invoke(cli, ["notify", "test", "--config", str(file), "--to", ANN])
    assert (failed.exit_code, "answered 500" in failed.output) == (1, True)
    with_mail(store, mails.port)
    hand = Hand(store)
    store.submit([a_job(user="ann")])
    hand.finish_all()
    store.collect()
    told = run.invoke(cli, ["--json", "notify", "list", "--config", str(file)])
    assert [row["title"] for row in json.loads(told.output)["notices"]] == ["job 1 job: finished"]
