"""Machines on two VLANs, as network namespaces: a switch with a bridge for each VLAN, a router between them, cables to cut.

Needs root. Nothing of it is in the network of this machine itself.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.polling import poll_until

VLANS = (10, 20)
ROUTER, SWITCH = "router", "switch"
CLONE_NEWNET = 0x4000_0000
DOMAIN = "farm.test"
libc = ctypes.CDLL(None, use_errno=True)


def hindrance() -> str | None:
    """Why this cannot be done here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    for command, package in (("ip", "iproute2"), ("dnsmasq", "dnsmasq-base")):
        if shutil.which(command) is None:
            return f"{command} is missing (Debian's {package})"
    name = f"c{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    ip("netns", "del", name)
    return None


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


class Lan:
    """The wires. A machine is called by its name; its address is 10.77.VLAN.NUMBER."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(3)
        self.machines: dict[str, str] = {}  # name: namespace
        self.processes: list[subprocess.Popen[bytes]] = []
        self._dns: subprocess.Popen[bytes] | None = None
        self._namespace(SWITCH)
        self._namespace(ROUTER)
        self.inside_run(ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for vlan in VLANS:
            ip("-n", self.machines[SWITCH], "link", "add", f"vlan{vlan}", "type", "bridge")
            ip("-n", self.machines[SWITCH], "link", "set", f"vlan{vlan}", "up")
            self._cable(ROUTER, f"eth{vlan}", f"router{vlan}", vlan)
            self.address(ROUTER, f"10.77.{vlan}.1", f"eth{vlan}")

    def machine(self, name: str, vlan: int, number: int, dns: bool = False) -> str:
        """Puts a machine on a VLAN, with the router as its gateway and, with `dns`, as its name server; its address."""
        self._namespace(name)
        self._cable(name, "eth0", name, vlan)
        self.address(name, f"10.77.{vlan}.{number}")
        ip("-n", self.machines[name], "route", "add", "default", "via", f"10.77.{vlan}.1")
        server = f"10.77.{vlan}.1" if dns else "127.0.0.1"  # where nobody answers
        folder = Path("/etc/netns") / self.machines[name]
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text(f"search {DOMAIN}\nnameserver {server}\noptions timeout:1\n")
        return f"10.77.{vlan}.{number}"

    def address(self, name: str, address: str, device: str = "eth0", *, gone: bool = False) -> None:
        """Gives an address to a machine, or takes it away."""
        what = [f"{address}/24"] if gone else [f"{address}/24", "brd", "+"]
        ip("-n", self.machines[name], "address", "del" if gone else "add", *what, "dev", device)

    def tap(self, name: str, vlan: int) -> None:
        """A port of the switch for a virtual machine, which is to be started there."""
        ip("-n", self.machines[SWITCH], "tuntap", "add", name, "mode", "tap")
        ip("-n", self.machines[SWITCH], "link", "set", name, "master", f"vlan{vlan}", "up")

    def give_addresses(self, vlan: int) -> None:
        """The router gives machines on that VLAN their addresses, 50 to 99, and tells them no name server."""
        net = f"10.77.{vlan}"
        options = ["--port=0", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--keep-in-foreground"]
        options.append("--dhcp-leasefile=/dev/null")
        self.start(ROUTER, "dnsmasq", *options, f"--interface=eth{vlan}", f"--dhcp-range={net}.50,{net}.99,1h", "--dhcp-option=6")

    def move(self, name: str, old: str, new: str) -> None:
        """Gives a machine another address on its VLAN."""
        self.address(name, old, gone=True)
        self.address(name, new)
        ip("-n", self.machines[name], "route", "replace", "default", "via", f"{new.rpartition('.')[0]}.1")

    def cut(self, name: str) -> None:
        """Pulls a machine's cable out of the switch. Whoever speaks to it gets no word of that."""
        ip("-n", self.machines[SWITCH], "link", "set", name, "down")

    def mend(self, name: str) -> None:
        ip("-n", self.machines[SWITCH], "link", "set", name, "up")

    def lose_answers(self, name: str, to: str, *, lost: bool = True) -> None:
        """What `name` sends to that address goes to no machine, while the other direction works."""
        what = ["replace", to, "lladdr", "02:00:00:00:00:01", "nud", "permanent"] if lost else ["del", to]
        ip("-n", self.machines[name], "neigh", *what, "dev", "eth0")

    def _namespace(self, name: str) -> None:
        self.machines[name] = f"c{self.mark}-{name}"
        ip("netns", "add", self.machines[name])
        ip("-n", self.machines[name], "link", "set", "lo", "up")

    def _cable(self, name: str, device: str, port: str, vlan: int) -> None:
        switch, machine = self.machines[SWITCH], self.machines[name]
        ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", device, "netns", machine)
        ip("-n", switch, "link", "set", port, "master", f"vlan{vlan}", "up")
        ip("-n", machine, "link", "set", device, "up")

    # ------------------------------------------------------------ on the machines

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and those it starts, are on that machine's network meanwhile."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.machines[name]}", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(here)
            os.close(there)

    def inside_run(self, name: str, *command: str) -> None:
        ip("netns", "exec", self.machines[name], *command)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Starts a command on a machine; what it says goes to a file of its name."""
        words = ["ip", "netns", "exec", self.machines[name], *command]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COALITION_")}
        environment |= {"PYTHONUNBUFFERED": "1", "HOME": str(self.folder)}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.processes.append(process)
        return process

    def coalition(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        return self.start(name, sys.executable, "-m", "coalition", *words)

    def log_of(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def names(self, **addresses: str) -> None:
        """Tells the router's name server what these names are; starts it when it is not there yet."""
        hosts = self.folder / "hosts"
        hosts.write_text("".join(f"{address} {name}.{DOMAIN}\n" for name, address in addresses.items()))
        if self._dns:
            self._dns.send_signal(signal.SIGHUP)  # it reads the file again
            return
        options = ["--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--keep-in-foreground"]
        self._dns = self.start(ROUTER, "dnsmasq", *options, f"--addn-hosts={hosts}")
        with self.inside(ROUTER):
            poll_until(_has_dns, 10, lambda: self.log_of(ROUTER))

    def close(self) -> None:
        workers = [process for process in self.processes if "worker" in process.args]
        for processes in (workers, [process for process in self.processes if process not in workers]):
            for process in processes:
                process.terminate()
            for process in processes:
                _end(process)
        for namespace in self.machines.values():
            ip("netns", "del", namespace)
            shutil.rmtree(Path("/etc/netns") / namespace, ignore_errors=True)


def _has_dns() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 53)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def _enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
