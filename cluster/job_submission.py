"""Submits commands to Ray's job API and follows their output."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# what Ray's job supervisor writes into a job's output before the job begins
_NOISE = re.compile(r"[-\d]+ [\d:,]+\tINFO job_manager\.py|Running entrypoint for job ")

_AGENT_SECONDS = 120.0
"""How long a busy machine may take to start Ray's agent."""


class JobFailed(RuntimeError):
    """A submitted job did not end well; its output has been shown."""


@contextmanager
def own_cluster(num_cpus: int) -> Iterator[str]:
    """A one-machine Ray cluster with the job API behind a token, as long as the context lasts.

    Args:
        num_cpus: CPUs that it offers.

    Yields:
        The address of the job API.
    """
    import os

    # a port on this machine that starts processes must not be open to its other users
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    context = ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=0,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()


def _submitted(client: Any, entrypoint: str, runtime_env: dict[str, Any]) -> str:
    """The job's id; waits for the agent that starts jobs, which comes up after the job API."""
    until = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1.0)


def submit(
    address: str,
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    show: Callable[[str], object] = print,
) -> str:
    """Runs a command as a job of the cluster, with this project as its working directory.

    Args:
        address: of the job API.
        command: a script of the project and its arguments, run by this Python.
        environment: variables for the job.
        show: receives each line of the job's output as it comes.

    Returns:
        All of the job's output.

    Raises:
        JobFailed: the job ended in another way than well.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    # uploads and closed sockets are told to nobody who waits for a job
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    client = JobSubmissionClient(address)
    runtime_env = {
        "working_dir": str(ROOT),
        "excludes": [".git", ".venv", "runs", "demo", "tests", "docs"],
        "env_vars": environment or {},
    }
    job = _submitted(client, shlex.join([sys.executable, *command]), runtime_env)
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
