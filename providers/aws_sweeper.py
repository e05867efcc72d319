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
    failed = []
    for id in overdue:
        try:
            ec2.terminate_instances(InstanceIds=[id])
        except Exception as error:  # noqa: BLE001 the others go on; it is raised below
            failed.append(f"{id}: {error}")
    if failed:
        raise RuntimeError("; ".join(failed))
    return overdue


def _until(instance: Mapping[str, Any]) -> float:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}
    if re.fullmatch(r"\d{1,12}(\.\d+)?", tags.get(UNTIL, "")):
        return float(tags[UNTIL])
    return float(instance["LaunchTime"].timestamp()) + UNREADABLE_AGE_S
