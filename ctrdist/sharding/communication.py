"""Number formats in which looked-up rows and their gradients are sent between workers."""

from __future__ import annotations

import torch
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.types import QuantizedCommCodecs

from ctrdist.config.experiment import ShardingConfig
from ctrdist.errors import ConfigError

_TYPES = {
    "float32": CommType.FP32,
    "float16": CommType.FP16,
    "bfloat16": CommType.BF16,
    "int8": CommType.INT8,
    "fp8": CommType.FP8,
}
_ON_CPU = ("float32", "float16")


def codecs(sharding: ShardingConfig, device: str) -> dict[str, QuantizedCommCodecs] | None:
    """TorchRec's codecs by collective; None where everything is sent as float32.

    Args:
        sharding: forward_comm and backward_comm.
        device: cpu or cuda.

    Raises:
        ConfigError: a type that this device cannot send. TorchRec would silently send another
            one, or fail in the first step.
    """
    for name in ("forward_comm", "backward_comm"):
        given = getattr(sharding, name)
        if device == "cpu" and given not in _ON_CPU:
            raise ConfigError(
                f"sharding.{name} = {given} needs GPUs: between CPUs rows are sent as "
                f"{' or '.join(_ON_CPU)}."
            )
    return get_qcomm_codecs_registry(
        QCommsConfig(
            forward_precision=_TYPES[sharding.forward_comm],
            backward_precision=_TYPES[sharding.backward_comm],
        ),
        device=torch.device(device),
    )
