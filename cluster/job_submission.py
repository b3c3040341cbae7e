"""Submits commands to Ray's job API and follows their output."""

import asyncio
import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.session import ROOT, start_local
from ctrdist.errors import UserError

PACKAGES = ("cluster", "ctrdist", "jobs", "preprocessing")
"""The part of the project's directory that a job needs; nothing else is uploaded."""
_NOISE = re.compile(r"[-\d]+ [\d:,]+\tINFO job_manager\.py|Running entrypoint for job ")
"""Lines that Ray writes into a job's output before the job begins."""
_AGENT_SECONDS = 120.0
"""The longest time that a busy machine may take to start Ray's agent."""


class JobFailed(UserError):
    """A submitted job did not succeed. Its output, which says why, has been shown."""


@contextmanager
def own_cluster(num_cpus: int) -> Iterator[str]:
    """Starts a Ray of this machine, and yields the address of its job API, behind a token."""
    import ray

    try:
        yield f"http://{start_local(num_cpus, job_api=True)}"
    finally:
        ray.shutdown()


def submit(
    address: str,
    command: Sequence[str],
    *,
    show: Callable[[str], object] = print,
) -> str:
    """Runs a command as a job of the cluster, and returns all of its output.

    Args:
        address: of the job API.
        command: a script of the project and its arguments, run by this Python in the project's
            directory.
        show: receives each line of the output.

    Raises:
        JobFailed: the job did not succeed.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    # what these log about uploads and closed sockets is of no use to the user
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    client = JobSubmissionClient(address)
    runtime_env = {"working_dir": str(ROOT), "excludes": not_uploaded()}
    job = _submit(client, shlex.join([sys.executable, *command]), runtime_env)
    received: list[str] = []
    start = ""

    async def follow() -> None:
        nonlocal start
        async for text in client.tail_job_logs(job):
            received.append(text)
            *lines, start = (start + text).split("\n")
            for line in lines:
                if not _NOISE.match(line):
                    show(line)
        if start:
            show(start)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    info: Any = client.get_job_info(job)
    if info.status != JobStatus.SUCCEEDED:
        raise JobFailed(f"job {job} ended as {info.status}: {info.message}")
    return "".join(received)


def not_uploaded() -> list[str]:
    """Patterns, as in .gitignore, of all that a job does not need of the project's directory."""
    others = sorted(path.name for path in ROOT.iterdir() if path.name not in PACKAGES)
    return [*("/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", name) for name in others), "__pycache__"]


def _submit(client: Any, entrypoint: str, runtime_env: dict[str, Any]) -> str:
    """Returns the job's id. Waits for the agent that starts jobs, which comes after the job API."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)
