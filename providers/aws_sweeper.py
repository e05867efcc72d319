"""Ends EC2 instances whose paid time is over, also when no server runs: a scheduled function on AWS, in one file.

It needs nothing but boto3, and the rights ec2:DescribeInstances and ec2:TerminateInstances. The environment variable
COALITION_FARM names the farm; instances without its tag are never touched. An instance of the farm whose tag coalition:until
cannot be read is ended, too, once it is an hour old: nothing says that anybody pays for it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import boto3

FARM, UNTIL = "coalition:farm", "coalition:until"
BATCH = 100
UNREADABLE_AGE_S = 3_600.0
LIVE = ["pending", "running", "stopping", "stopped"]


def handler(event: object, context: object) -> dict[str, Sequence[str]]:
    """What the schedule calls."""
    return {"ended": sweep(boto3.client("ec2"), os.environ["COALITION_FARM"], time.time())}


def sweep(ec2: Any, farm: str, now: float) -> Sequence[str]:
    """Ends what is past its deadline; the ids. One that cannot be ended keeps no other from it."""
    filters = [{"Name": f"tag:{FARM}", "Values": [farm]}, {"Name": "instance-state-name", "Values": LIVE}]
    overdue = []
    for page in ec2.get_paginator("describe_instances").paginate(Filters=filters):
        for group in page["Reservations"]:
            overdue += [one["InstanceId"] for one in group["Instances"] if now >= _until(one)]
    failed: list[str] = []
    for some in (overdue[start : start + BATCH] for start in range(0, len(overdue), BATCH)):
        failed += _end(ec2, some)
    if failed:
        raise RuntimeError("; ".join(failed))
    return overdue


def _end(ec2: Any, ids: Sequence[str]) -> Sequence[str]:
    """Ends them together; where one is in the way, each by itself. What could not be ended, and why."""
    try:
        ec2.terminate_instances(InstanceIds=list(ids))
    except Exception as error:  # noqa: BLE001 the others go on; it is raised by the caller
        return [f"{ids[0]}: {error}"] if len(ids) == 1 else [words for id in ids for words in _end(ec2, [id])]
    return []


def _until(instance: Mapping[str, Any]) -> float:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}
    if re.fullmatch(r"\d{1,12}(\.\d+)?", tags.get(UNTIL, "")):
        return float(tags[UNTIL])
    return float(instance["LaunchTime"].timestamp()) + UNREADABLE_AGE_S
