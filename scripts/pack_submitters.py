"""Packs what applications install, into build/submitters: the client alone, and Blender's add-on with the client in it.

coalition-client.zip is a Python path of its own: copy it anywhere, and `sys.path.append("/tools/coalition-client.zip")`.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "submitters"
ADD_ON = ROOT / "submitters" / "blender" / "coalition_farm"


def client() -> dict[str, str]:
    """The client's module and those that it imports, by their paths: nothing but these and the standard library is needed."""
    found: dict[str, str] = {}
    waiting = ["coalition", "coalition.client"]
    while waiting:
        path = _path(waiting.pop())
        if path and (name := path.relative_to(ROOT).as_posix()) not in found:
            found[name] = path.read_text(encoding="utf-8")
            waiting += _imported(found[name])
    return found


def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)


def _imported(source: str) -> Iterator[str]:
    """What it imports of ours when it is imported itself; what a function imports later is only for whoever calls it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coalition":
            yield str(node.module)
            yield from (f"{node.module}.{one.name}" for one in node.names)


def pack(folder: Path) -> tuple[Path, Path]:
    """Writes both archives; the client's path and the add-on's."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = client()
    add_on = {f"coalition_farm/lib/{name}": text for name, text in parts.items()}
    add_on |= {f"coalition_farm/{file.name}": file.read_text(encoding="utf-8") for file in sorted(ADD_ON.glob("*.py"))}
    return _packed(folder / "coalition-client.zip", parts), _packed(folder / "coalition-blender.zip", add_on)


def _packed(path: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return path


if __name__ == "__main__":
    for made in pack(TARGET):
        print(made.relative_to(ROOT))
