"""A real slapd for the tests, in a temporary folder, on free ports, with an authority of its own; ended with the tests."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from scripts.packages import find
from tests.certificates import Authority
from tests.polling import poll_until

SUFFIX = "dc=studio,dc=example"
PEOPLE, GROUPS = f"ou=people,{SUFFIX}", f"ou=groups,{SUFFIX}"
SERVICE, SERVICE_PASSWORD = f"cn=coalition,{SUFFIX}", "the service's own"
PASSWORD = "pass of {}"
USERS = ("ann", "ben", "cara", "dora", "a(b)*c", "x,y=z", "änn")
MEMBERS = {"artists": ("ann", "a(b)*c"), "leads": ("ben",), "money": ("cara", "ben")}
LDIF = f"""\
dn: {SUFFIX}
objectClass: domain
dc: studio

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: {GROUPS}
objectClass: organizationalUnit
ou: groups

dn: {SERVICE}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: coalition
userPassword: {SERVICE_PASSWORD}
"""


def dn_of(user: str) -> str:
    return f"uid={user.replace(',', chr(92) + ',').replace('=', chr(92) + '=')},{PEOPLE}"


def _entries() -> str:
    """Who is there: users, two of whom share a mail address; groups by member and by memberUid."""
    parts = [LDIF]
    for user in USERS:
        kind = "contractor" if user == "dora" else "staff"
        lines = ["objectClass: inetOrgPerson", f"uid: {user}", f"cn: {user}", f"sn: {user}", f"employeeType: {kind}"]
        parts.append(
            "\n".join([f"dn: {dn_of(user)}", *lines, "mail: all@studio.example", f"userPassword: {PASSWORD.format(user)}", ""])
        )
    for group, users in MEMBERS.items():
        members = [f"member: {dn_of(user)}" for user in users]
        parts.append("\n".join([f"dn: cn={group},{GROUPS}", "objectClass: groupOfNames", f"cn: {group}", *members, ""]))
    posix = [f"dn: cn=render,{GROUPS}", "objectClass: posixGroup", "cn: render", "gidNumber: 500", "memberUid: dora", ""]
    return "\n".join([*parts, "\n".join(posix)])


class Slapd:
    """Started, stopped and started again on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        certificate, key = self.authority.certificate("slapd", "localhost")
        (folder / "data").mkdir()
        schemas = [f"include /etc/ldap/schema/{name}.schema" for name in ("core", "cosine", "inetorgperson", "nis")]
        lines = [
            *schemas,
            "modulepath /usr/lib/ldap",
            "moduleload back_mdb",
            f"pidfile {folder / 'pid'}",
            f"TLSCACertificateFile {self.authority.file}",
            f"TLSCertificateFile {certificate}",
            f"TLSCertificateKeyFile {key}",
            "database mdb",
            "maxsize 8388608",
            f'suffix "{SUFFIX}"',
            f"directory {folder / 'data'}",
            "access to attrs=userPassword by anonymous auth by * none",
            "access to * by users read by * none",
        ]
        self.configuration = folder / "slapd.conf"
        self.configuration.write_text("\n".join(lines) + "\n")
        (folder / "all.ldif").write_text(_entries(), encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None
        self.fill()
        self.start()

    def fill(self) -> None:
        command = [str(find("slapadd")), "-f", str(self.configuration), "-l", str(self.folder / "all.ldif")]
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        """Serves; on other ports when these were taken meanwhile."""
        for _ in range(5):
            self.port, self.tls_port = _free_ports()
            addresses = f"ldap://localhost:{self.port}/ ldaps://localhost:{self.tls_port}/"
            command = [str(find("slapd")), "-f", str(self.configuration), "-h", addresses, "-d", "stats"]
            with (self.folder / "log").open("wb") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            poll_until(lambda: "slapd starting" in self._log() or self._ended(), 20, self._log)
            if not self._ended():
                return
        raise RuntimeError(self._log())

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    @property
    def plain(self) -> str:
        return f"ldap://localhost:{self.port}"

    @property
    def over_tls(self) -> str:
        return f"ldaps://localhost:{self.tls_port}"

    def stall(self) -> None:
        """It is there, and answers nobody."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.go_on()
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
