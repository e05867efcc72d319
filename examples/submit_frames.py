"""Submits a frame range and a job that runs after it, and follows them to the end.

    python examples/submit_frames.py 1-10 -- povray shot.pov +K{frame} +Oframe_{frame:04d}.png -D

Needs the base install only (the client is standard library), and a server: `coalition serve`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from coalition.client import Client
from coalition.errors import CoalitionError
from coalition.model import Job, JobSpec


def tell(jobs: Sequence[Job]) -> None:
    for job in jobs:
        counts = f" {job.counts.finished}/{job.counts.total}" if job.counts else ""
        print(f"{job.title}: {job.state}{counts}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Submits a frame range and a job that runs after it.")
    parser.add_argument("frames", help="for example 1-100, 1-100x2 or 1,5,9-12")
    parser.add_argument("command", nargs="+", help="{frame} and {frame:04d} are replaced")
    parser.add_argument("--title", default="example")
    parser.add_argument("--server", help="the server's address; found by itself when left out")
    given = parser.parse_args()
    here = os.getcwd()
    frames = JobSpec(title="frames", ref="frames", frames=given.frames, command=shlex.join(given.command), dir=here)
    after = JobSpec(title="after", depends_on=("frames",), command="echo all frames are there", dir=here)
    try:
        client = Client(given.server)
        group = client.submit_many([JobSpec(title=given.title, group=True, children=(frames, after))]).ids[0]
        (job,) = client.wait(group, on_progress=tell)
    except CoalitionError as error:
        print(f"submit_frames: {error}", file=sys.stderr)
        return 1
    return 0 if job.state == "FINISHED" else 1


if __name__ == "__main__":
    sys.exit(main())
