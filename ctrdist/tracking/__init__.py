"""Records runs: always in events.jsonl, and in MLflow if it can be reached."""

from ctrdist.tracking.events import DatasetUse
from ctrdist.tracking.sender import end_killed, replay
from ctrdist.tracking.tracker import RunTracker

__all__ = ["DatasetUse", "RunTracker", "end_killed", "replay"]
