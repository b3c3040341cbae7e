"""Everything that the project uses of Ray Train and that Ray Train does not export.

Apart from ray_internals.py, because this import takes a second that only training needs. Written
for Ray 2.60; tests/unit/cluster/test_ray_internals.py fails where a later version differs.
"""

# A worker that died or does not answer. Ray Train raises it, but exports no name for it.
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

# Its hook before workers are replaced has no public counterpart.
from ray.train.v2._internal.execution.callback import ControllerCallback

__all__ = ["ControllerCallback", "WorkerHealthCheckFailedError"]
