"""What arguments Google's Terraform provider takes, for tests: its own schema comes only with the provider itself.

    npm pack @cdktf/provider-google && python -m scripts.google_schema cdktf-provider-google-*.tgz

That package declares each resource's arguments, with their names in HCL, and what can be read of it. Of the resources in
terraform/gcp they are written to tests/google_schema.json:

    {resource: {"takes": {argument: [needed, its own arguments or null]}, "tells": [what can be read besides]}}
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "tests" / "google_schema.json"
RESOURCE = re.compile(r'^(resource|data) "google_(\w+)"', re.MULTILINE)
INTERFACE = re.compile(r"^export interface (\w+)[^{\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
ARGUMENT = re.compile(r"#([a-z0-9_]+) \w+#\1\}.*?readonly \w+(\??): ([^;\n]+)", re.DOTALL)


def used(folder: Path) -> set[tuple[str, str]]:
    """(resource or data, type without google_) of all that the modules have."""
    return {found for file in folder.rglob("*.tf") for found in RESOURCE.findall(file.read_text())}


def arguments(interfaces: dict[str, str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for argument, optional, kind in ARGUMENT.findall(interfaces[name]):
        inner = re.match(r"\w+", kind.strip())
        block = inner[0] if inner and inner[0] in interfaces else None
        found[argument] = [not optional, arguments(interfaces, block) if block else None]
    return found


def schema(archive: tarfile.TarFile, kind: str, name: str) -> dict[str, Any]:
    folder = ("data-google-" if kind == "data" else "") + name.replace("_", "-")
    file = archive.extractfile(f"package/lib/{folder}/index.d.ts")
    assert file
    text = file.read().decode()
    interfaces = dict(INTERFACE.findall(text))
    (top,) = (one for one in interfaces if one.endswith("Config") and is_top(interfaces, one))
    takes = arguments(interfaces, top)
    resource = text[text.rindex("export declare class ") :]
    tells = {re.sub(r"([A-Z])", r"_\1", name).lower() for name in re.findall(r"get (\w+)\(\)", resource)}
    return {"takes": takes, "tells": sorted(name for name in tells - takes.keys() if not name.endswith("_input"))}


def is_top(interfaces: dict[str, str], name: str) -> bool:
    """Whether no other interface refers to it."""
    return not any(re.search(rf": {name}\b", body) for body in interfaces.values())


def main(words: list[str]) -> int:
    with tarfile.open(words[0]) as archive:
        version = json.load(archive.extractfile("package/package.json"))["version"]  # type: ignore[arg-type]
        made = {f"{kind} google_{name}": schema(archive, kind, name) for kind, name in sorted(used(ROOT / "terraform" / "gcp"))}
    lines = [f" {json.dumps(name)}: {json.dumps(one, separators=(',', ':'))}" for name, one in made.items()]
    TARGET.write_text("{\n" + ",\n".join([f' "version": {json.dumps(version)}', *lines]) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
