"""A request as instances.insert and bulkInsert want it. The same request makes the same order; pure."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from providers.base import LAUNCH_WINDOW_S, Request
from providers.names import Names

FARM, POOL, TOKEN, UNTIL = "coalition-farm", "coalition-pool", "coalition-token", "coalition-until"
PLAIN = re.compile(r"^(?!b32-)[a-z0-9_-]{0,63}\Z")
LABEL_LENGTH = 63
RUN_S = (30.0, 120 * 86_400.0)  # the shortest and longest maxRunDuration
FUNDING_S = (RUN_S[0] + LAUNCH_WINDOW_S, RUN_S[1])
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def label(text: str) -> str:
    """A label's value for any text: itself where Google allows it, else in base32. ValueError if it is too long."""
    value = text if PLAIN.match(text) else "b32-" + base64.b32encode(text.encode()).decode().rstrip("=").lower()
    if len(value) > LABEL_LENGTH:
        raise ValueError(f'"{text}" is too long for a label of Google Compute Engine')
    return value


def read_label(value: str) -> str:
    """What `label` made a value of."""
    if not value.startswith("b32-"):
        return value
    letters = value[4:].upper()
    try:
        return base64.b32decode(letters + "=" * (-len(letters) % 8)).decode()
    except ValueError:
        return value


def accelerator_of(text: str) -> tuple[str, int] | None:
    """nvidia-tesla-t4:2 -> (nvidia-tesla-t4, 2)."""
    kind, _, count = text.partition(":")
    return (kind, int(count or 1)) if kind else None


def order(names: Names, request: Request, script: str) -> tuple[str, dict[str, Any]]:
    """(method of InstancesClient, its arguments but project and request_id)."""
    zone = request.offering.zone
    if request.count == 1:
        body = {"name": names.of(request.token, 0), **_properties(request, script, f"zones/{zone}/")}
        body["machine_type"] = f"zones/{zone}/machineTypes/{request.offering.type}"
        return "insert_unary", {"zone": zone, "instance_resource": body}
    each = [names.of(request.token, k) for k in range(request.count)]
    body = {
        "count": request.count,
        "min_count": 1,
        "per_instance_properties": {name: {"name": name} for name in each},
        "instance_properties": {**_properties(request, script, ""), "machine_type": request.offering.type},
    }
    return "bulk_insert_unary", {"zone": zone, "bulk_insert_instance_resource_resource": body}


def _properties(request: Request, script: str, place: str) -> dict[str, Any]:
    """`place` is what names of types are prefixed with: only those of a single instance are."""
    options = request.options
    metadata = {"startup-script": script, "serial-port-logging-enable": "true"}
    properties: dict[str, Any] = {
        "labels": _labels(request),
        "disks": [_disk(request, place)],
        "network_interfaces": [_network(options, request.region, request.offering.zone)],
        "scheduling": _scheduling(request),
        "metadata": {"items": [{"key": key, "value": value} for key, value in metadata.items()]},
        "tags": {"items": list(options.get("network_tags", ()))},
    }
    if account := options.get("service_account"):
        properties["service_accounts"] = [{"email": account, "scopes": [SCOPE]}]
    if gpus := accelerator_of(options.get("accelerator", "")):
        kind, count = gpus
        prefix = f"{place}acceleratorTypes/" if place else ""
        properties["guest_accelerators"] = [{"accelerator_type": f"{prefix}{kind}", "accelerator_count": count}]
    return properties


def _labels(request: Request) -> Mapping[str, str]:
    until = str(math.ceil(request.until))
    return {FARM: label(request.farm), POOL: label(request.pool), TOKEN: request.token, UNTIL: until}


def _disk(request: Request, place: str) -> dict[str, Any]:
    disk: dict[str, Any] = {"source_image": request.offering.image or request.image}
    if size := request.options.get("root_volume_bytes"):
        disk["disk_size_gb"] = -(-size // 2**30)
    if kind := request.options.get("disk_type"):
        disk["disk_type"] = f"{place}diskTypes/{kind}" if place else kind
    return {"boot": True, "auto_delete": True, "initialize_params": disk}


def _network(options: Mapping[str, Any], region: str, zone: str) -> dict[str, Any]:
    subnetwork = options.get("subnetwork", "").replace("{zone}", zone)
    network: dict[str, Any] = {"network": "global/networks/default"}
    if subnetwork:
        network = {"subnetwork": subnetwork if "/" in subnetwork else f"regions/{region}/subnetworks/{subnetwork}"}
    if options.get("public_address"):
        network["access_configs"] = [{"type_": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    return network


def _scheduling(request: Request) -> dict[str, Any]:
    """Its time counts from when it runs, and it runs at the latest soon after `launch_by`: so it ends by `until`."""
    run_s = min(max(request.until - request.launch_by, RUN_S[0]), RUN_S[1])
    stays = request.offering.market == "on-demand" and not request.offering.gpus
    return {
        "provisioning_model": "SPOT" if request.offering.market == "spot" else "STANDARD",
        "instance_termination_action": "DELETE",
        "max_run_duration": {"seconds": math.floor(run_s)},
        "automatic_restart": False,
        "on_host_maintenance": "MIGRATE" if stays else "TERMINATE",
    }
