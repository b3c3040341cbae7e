"""Actor between the driver, Ray Train's controller and the workers of a run."""

import asyncio
from typing import Any

from ctrdist.training.observe import messages

END_RUN = "the run was asked to end"
"""The reason to stop that is never withdrawn."""


class RunMailbox:
    """Keeps messages until the driver fetches them, and passes stop requests to the workers."""

    def __init__(self) -> None:
        self._messages: list[messages.Message] = []
        self._training = 0
        self._reason = ""
        self._asked = asyncio.Event()

    async def push(self, message: messages.Message) -> None:
        """Takes a message for the driver."""
        if isinstance(message, messages.Start):
            self._training = message.workers
        elif isinstance(message, messages.Stopped | messages.Failure | messages.Done):
            self._training = 0
        self._messages.append(message)

    async def drain(self) -> list[messages.Message]:
        """Returns the messages since the last call."""
        drained, self._messages = self._messages, []
        return drained

    async def training(self) -> int:
        """Number of workers that are training now; 0 also while they start."""
        return self._training

    async def ask_to_stop(self, reason: str) -> None:
        """Makes the workers write a checkpoint and end; they start again unless it is END_RUN."""
        if self._reason != END_RUN:
            self._reason = reason
        self._asked.set()

    async def stop_reason(self) -> str:
        """The reason of the stop request; empty if there is none."""
        return self._reason

    async def wait_for_stop(self) -> None:
        """Returns once there is a stop request."""
        await self._asked.wait()

    async def forget_stop(self) -> None:
        """Withdraws the stop request before new workers start, unless the run is to end."""
        if self._reason != END_RUN:
            self._reason = ""
            self._asked.clear()


def start_mailbox() -> Any:
    """Starts the actor on the driver's node, because any other node may be lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(RunMailbox)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()
