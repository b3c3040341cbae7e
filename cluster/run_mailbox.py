"""Actor between the driver, Ray Train's controller and the workers of a run."""

from __future__ import annotations

import asyncio

from ctrdist.training.observe import messages

FOR_GOOD = "the run was asked to end"


class Channel:
    """Keeps messages until the driver fetches them, and hands requests to stop to the workers."""

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
        """Hands out the messages since the last time."""
        fetched, self._messages = self._messages, []
        return fetched

    async def training(self) -> int:
        """How many workers are training now; 0 also while they start."""
        return self._training

    async def ask_to_stop(self, reason: str) -> None:
        """Lets the workers write a checkpoint and end.

        Args:
            reason: FOR_GOOD, which nothing takes back, or why they are to start again.
        """
        if self._reason != FOR_GOOD:
            self._reason = reason
        self._asked.set()

    async def stop_reason(self) -> str:
        """The reason; empty where nobody asked."""
        return self._reason

    async def wait_for_stop(self) -> None:
        """Returns once somebody has asked."""
        await self._asked.wait()

    async def forget_stop(self) -> None:
        """Lets new workers train on, unless the run is to end for good."""
        if self._reason != FOR_GOOD:
            self._reason = ""
            self._asked.clear()
