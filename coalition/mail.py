"""Mail: what one address is told, as one message in plain text and HTML, and its way to the SMTP server.

Titles and reasons come from users and their jobs: in a header they are one line without control characters, in HTML they are
text.
"""

from __future__ import annotations

import html
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from coalition.config import MailSettings
from coalition.secret import secret

PATIENCE_S = 30.0  # for each answer of the SMTP server
SHOWN = 100  # messages of one mail; the others are counted
KEPT = 500  # characters of a title


class Refused(Exception):
    """The SMTP server will never take mail for this address."""


class Later(Exception):
    """It could not be sent now."""


@dataclass(frozen=True)
class Item:
    """One thing that is told; `link` leads to it."""

    title: str
    text: str
    link: str


def message(rules: MailSettings, farm: str, to: str, items: Sequence[Item], id: str, at: float) -> EmailMessage:
    """What one address is told, in one mail. `id` is the same whenever the same is sent again."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address("Coalition", addr_spec=rules.sender[0])
    mail["To"] = Address(addr_spec=to)
    mail["Subject"] = f"[{_line(farm)}] {_subject(items)}"
    mail["Date"] = formatdate(at)
    mail["Message-ID"] = f"<{id}@{rules.sender[0].rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(_plain(items))
    mail.add_alternative(_html(items), subtype="html")
    return mail


def _subject(items: Sequence[Item]) -> str:
    first = _line(items[0].title)[:150]
    return first if len(items) == 1 else f"{first}, and {len(items) - 1:,} more"


def _line(text: str) -> str:
    """Text as one line: what ends a header, hides, or turns the direction of writing is a space."""
    return "".join(one if one.isprintable() else " " for one in text)[:KEPT].strip()


def _block(text: str) -> str:
    return "\n".join(_line(line) for line in text.splitlines())


def _more(items: Sequence[Item]) -> str:
    return f"... and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""


def _plain(items: Sequence[Item]) -> str:
    parts = ["\n".join(filter(None, (_line(one.title), _block(one.text), one.link))) for one in items[:SHOWN]]
    return "\n\n".join(filter(None, [*parts, _more(items)])) + "\n"


def _html(items: Sequence[Item]) -> str:
    parts = [_html_item(one) for one in items[:SHOWN]]
    more = f"<p>{_more(items)}</p>" if _more(items) else ""
    return f'<!doctype html><html><body style="font-family:sans-serif">{"".join(parts)}{more}</body></html>'


def _html_item(one: Item) -> str:
    title = html.escape(_line(one.title))
    linked = f'<a href="{html.escape(one.link)}">{title}</a>' if one.link else title
    text = html.escape(_block(one.text)).replace("\n", "<br>")
    return f'<h3 style="margin:1em 0 0.2em">{linked}</h3><p style="margin:0">{text}</p>'


class Busy(Later):
    """Not to this address now; others may do."""


class Post:
    """A connection to the SMTP server, for some mails. Later if there is none; to be used by `with`."""

    def __init__(self, rules: MailSettings) -> None:
        self.rules = rules

    def __enter__(self) -> Post:
        try:
            self.smtp = self._connect()
        except (OSError, smtplib.SMTPException) as error:
            raise Later(f"{self.rules.host}:{self.rules.port}: {error}") from error
        return self

    def _connect(self) -> smtplib.SMTP:
        rules = self.rules
        context = ssl.create_default_context(cafile=rules.ca or None)
        if rules.security == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(rules.host, rules.port, timeout=PATIENCE_S, context=context)
        else:
            smtp = smtplib.SMTP(rules.host, rules.port, timeout=PATIENCE_S)
        try:
            if rules.security == "starttls":
                smtp.starttls(context=context)  # raises where the server has none: the password does not go in the clear
            if rules.user:
                smtp.login(rules.user, password(rules))
        except BaseException:
            smtp.close()
            raise
        return smtp

    def send(self, mail: EmailMessage, to: str) -> None:
        """Refused if it never will, Later if it cannot now."""
        try:
            self.smtp.send_message(mail, self.rules.sender[0], [to])
        except smtplib.SMTPRecipientsRefused as error:
            code, words = error.recipients[to]
            self._refuse(code, words)
        except smtplib.SMTPServerDisconnected as error:
            raise Later(str(error)) from error
        except smtplib.SMTPDataError as error:
            said = error.smtp_error
            self._refuse(error.smtp_code, said if isinstance(said, bytes) else said.encode())
        except smtplib.SMTPResponseException as error:
            raise Later(f"{error.smtp_code} {_line(str(error.smtp_error))}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise Later(str(error)) from error

    def _refuse(self, code: int, words: bytes) -> None:
        text = f"{code} {_line(words.decode('utf-8', 'replace'))}"
        raise Refused(text) if code >= 500 else Busy(text)

    def __exit__(self, *_: object) -> None:
        try:
            self.smtp.quit()
        except (OSError, smtplib.SMTPException):  # everything was answered by then
            self.smtp.close()


def password(rules: MailSettings) -> str:
    """The password of the SMTP server; ConfigError if its file cannot be used."""
    return secret("[mail] password_file", rules.password_file, "COALITION_MAIL_PASSWORD")
