"""Everything that the project uses of Ray Train and that Ray Train does not export.

Apart from ray_internals.py, because this import takes a second that only training needs. Written
for Ray 2.60; tests/unit/cluster/test_ray_internals.py fails where a later version differs.
"""

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)

# A worker that died or does not answer. Ray Train raises it, but exports no name for it.
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

# Its hook before workers are replaced has no public counterpart.
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

# ray.train.torch exports it too, where type checkers take it for that of Ray Train's first version.
from ray.train.v2.torch.torch_trainer import TorchTrainer

__all__ = ["ControllerCallback", "Trainer", "WorkerHealthCheckFailedError"]


class Trainer(TorchTrainer):
    """Ray Train without the helper actors that a run here has no use for.

    Each of them is a process that imports Ray Train and torch, which takes a core 3 to 5 seconds.
    """

    def __init__(self, *arguments: Any, own_ray: bool, **options: Any) -> None:
        """Takes the arguments of TorchTrainer.

        With `own_ray` the Ray ends with this process: it has no autoscaler, and nobody has to
        remove its placement group. Ray Train's actor for that asks the dashboard, which this Ray
        does not have, so that it would hold up the end of the run by 12 seconds.
        """
        super().__init__(*arguments, **options)
        self._own_ray = own_ray

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, *([PlacementGroupCleanerCallback] if self._own_ray else []))
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, unused)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        scaling: Any = self.scaling_config
        if self._own_ray and type(arguments["scaling_policy"]) is FixedScalingPolicy:
            arguments["scaling_policy"] = _FixedWorkers(scaling)
        return super()._initialize_and_run_controller(**arguments)


class _FixedWorkers(FixedScalingPolicy):
    """Asks no autoscaler for nodes."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
