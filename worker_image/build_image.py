"""A worker's disk image from nothing but Debian's packages: for OpenStack, KVM, and import into clouds. Run as root.

    python3 worker_image/build_image.py --wheel dist/coalition-5.0.0-py3-none-any.whl --output worker.qcow2

debootstrap makes a system in a folder, provision.sh makes it a worker's, and it becomes a disk: no loop device is needed,
nothing is mounted but the folder's own /proc. The disk boots by BIOS, from GRUB. qcow2 needs qemu-img (package qemu-utils).
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECTOR = 512
BOOT_AT, BOOT_SECTORS = 2_048, 2_048  # the partition that holds GRUB
ROOT_AT = BOOT_AT + BOOT_SECTORS
TOOLS = ("debootstrap", "mkfs.ext4", "sfdisk", "chroot")
BASE = ("linux-image-amd64", "grub-pc-bin", "grub-common", "systemd-sysv", "dbus", "iproute2", "cloud-guest-utils")
KERNEL_OPTIONS = "root=LABEL=coalition ro console=tty0 console=ttyS0"
GRUB_MODULES = ("biosdisk", "part_gpt", "ext2", "linux", "normal", "configfile", "search", "search_label")
NETWORK = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"


class Failed(Exception):
    """What went wrong, in words."""


def run(*command: str | Path, **environment: str) -> None:
    print("build_image:", *command, flush=True)
    done = subprocess.run([str(word) for word in command], env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} ended with exit code {done.returncode}")


# ---------------------------------------------------------------- the system


def bootstrap(root: Path, suite: str, mirror: str | None) -> None:
    """A Debian system that boots, without a worker."""
    place: list[str | Path] = [
        suite,
        root,
        *([mirror] if mirror else []),
    ]  # without one, debootstrap knows where Debian's packages are
    try:
        run("debootstrap", "--variant=minbase", f"--include={','.join(BASE)}", *place, DEBIAN_FRONTEND="noninteractive")
    except Failed as error:
        log = root / "debootstrap/debootstrap.log"
        last = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else ["it wrote no log"]
        raise Failed("\n  ".join([f"{error}; the last of its log:", *last])) from None
    (root / "etc/fstab").write_text("LABEL=coalition / ext4 errors=remount-ro,discard 0 1\n")
    (root / "etc/hostname").write_text("worker\n")
    (root / "etc/systemd/network").mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/network/80-dhcp.network").write_text(NETWORK)


@contextmanager
def entered(root: Path) -> Iterator[None]:
    """The folder as a system in which packages can be installed, and in which nothing starts."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    run("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield
    finally:
        run("umount", root / "proc")
        policy.unlink()
        (root / "etc/resolv.conf").unlink()


def provision(root: Path, wheel: Path, hooks: Path | None, wheels: Path | None) -> None:
    work = root / "root/worker_image"
    shutil.copytree(HERE / "files", work / "files", dirs_exist_ok=True)
    shutil.copy(HERE / "provision.sh", work)
    shutil.copy(wheel, work)
    if hooks:
        shutil.copytree(hooks, root / "etc/coalition/image.d", dirs_exist_ok=True)
    inside = {"WHEEL": f"/root/worker_image/{wheel.name}"}
    if wheels:
        shutil.copytree(wheels, work / "wheels")
        inside |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/root/worker_image/wheels"}
    with entered(root):
        run("chroot", root, "/root/worker_image/provision.sh", **inside)
        run("chroot", root, "systemctl", "enable", "systemd-networkd")
    shutil.rmtree(work)


# ---------------------------------------------------------------- the disk


def grub_config(root: Path) -> str:
    """What starts the newest kernel."""
    kernel = max((root / "boot").glob("vmlinuz-*"), default=None, key=lambda path: path.stat().st_mtime)
    if kernel is None:
        raise Failed("there is no kernel in the system")
    version = kernel.name.removeprefix("vmlinuz-")
    lines = ("set timeout=1", "search --label coalition --set=root")
    start = f"linux /boot/vmlinuz-{version} {KERNEL_OPTIONS}\ninitrd /boot/initrd.img-{version}\n"
    return "\n".join(lines) + "\nmenuentry Coalition {\n" + start + "}\n"


def boot_code(image: bytes, core: bytes) -> tuple[bytes, bytes]:
    """GRUB's first sector and its core, told where they are: what grub-bios-setup writes, of which it is the format."""
    first, core = bytearray(image[:440]), core + bytes(-len(core) % SECTOR)
    first[0x5C:0x64] = struct.pack("<Q", BOOT_AT)  # where the core's first sector is
    first[0x66:0x68] = b"\x90\x90"  # a disk's number is believed
    rest = len(core) // SECTOR - 1
    if rest >= BOOT_SECTORS:
        raise Failed("GRUB does not fit its partition")
    placed = bytearray(core)
    placed[0x1F4:0x200] = struct.pack("<QHH", BOOT_AT + 1, rest, 0x820)  # where the others are, and where they are loaded
    return bytes(first), bytes(placed)


def make_disk(root: Path, disk: Path, size_gib: int) -> None:
    """A disk of two partitions, GRUB and the system; sparse."""
    sectors = size_gib * 2**30 // SECTOR
    with disk.open("wb") as file:
        file.truncate(sectors * SECTOR)
    last = sectors - 2_048
    table = f"label: gpt\nstart={BOOT_AT}, size={BOOT_SECTORS}, type=21686148-6449-6E6F-744E-656564454649\n"
    table += f"start={ROOT_AT}, size={last - ROOT_AT}, type=linux, uuid={uuid.uuid4()}\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    (root / "boot/grub").mkdir(parents=True, exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(grub_config(root))
    core = root / "boot/grub/core.img"
    words = ("grub-mkimage", "-O", "i386-pc", "-o", "/boot/grub/core.img", "-p", "(hd0,gpt2)/boot/grub")
    run("chroot", root, *words, *GRUB_MODULES)
    first, placed = boot_code((root / "usr/lib/grub/i386-pc/boot.img").read_bytes(), core.read_bytes())
    offset = f"offset={ROOT_AT * SECTOR}"
    blocks = (last - ROOT_AT) * SECTOR // 4_096
    run("mkfs.ext4", "-q", "-F", "-L", "coalition", "-b", "4096", "-E", offset, "-d", root, disk, str(blocks))
    with disk.open("r+b") as file:
        file.write(first)
        file.seek(BOOT_AT * SECTOR)
        file.write(placed)


# ---------------------------------------------------------------- the command


def missing_tools(output: Path) -> Sequence[str]:
    wanted = (*TOOLS, "qemu-img") if output.suffix == ".qcow2" else TOOLS
    return [name for name in wanted if shutil.which(name) is None]


def build(options: argparse.Namespace) -> None:
    output = Path(options.output)
    if absent := missing_tools(output):
        raise Failed(f"needs {', '.join(absent)}")
    if os.geteuid() != 0:
        raise Failed("must be run as root: it makes a system with users")
    with tempfile.TemporaryDirectory(prefix="coalition-image-", dir=options.work) as folder:
        root, disk = Path(folder, "root"), Path(folder, "disk.raw")
        bootstrap(root, options.suite, options.mirror)
        provision(root, Path(options.wheel), options.hooks and Path(options.hooks), options.wheels and Path(options.wheels))
        make_disk(root, disk, options.size)
        if output.suffix == ".qcow2":
            run("qemu-img", "convert", "-c", "-O", "qcow2", disk, output)
        else:
            shutil.move(disk, output)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Make a worker's disk image from Debian's packages. Run as root.")
    made.add_argument("--wheel", required=True, help="the worker's wheel")
    made.add_argument("--output", required=True, help="the image: NAME.qcow2, or NAME.raw")
    made.add_argument("--size", type=int, default=8, metavar="GIB", help="the disk's size (8)")
    made.add_argument("--suite", default="bookworm", help="the release of Debian (bookworm)")
    made.add_argument("--mirror", metavar="URL", help="where its packages are; else Debian's own place")
    made.add_argument("--hooks", metavar="DIR", help="steps of your own, for /etc/coalition/image.d")
    made.add_argument("--wheels", metavar="DIR", help="the wheels that the worker needs, instead of the package index")
    made.add_argument("--work", metavar="DIR", help="where to build; 4 GiB and the disk's content must fit")
    return made


def main(words: Sequence[str] | None = None) -> int:
    try:
        build(parser().parse_args(words))
    except (Failed, OSError, subprocess.CalledProcessError) as error:
        print(f"build_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
