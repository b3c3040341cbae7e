"""The process group: errors of rank 0 reach all ranks, and nothing listens beyond the machine."""

import psutil
import pytest

from ctrdist.distributed.process_group import World, run_on_main
from ctrdist.errors import ConfigError
from ctrdist.training.faults.stopping import Interrupted
from tests.ranks import run_ranks


def raised(world: World, error: BaseException) -> tuple[str, str]:
    """Class and text of what this rank raises when the function of rank 0 raises."""

    def function() -> None:
        raise error

    try:
        run_on_main(function)
    except BaseException as caught:
        code = f" {caught.code}" if isinstance(caught, SystemExit) else ""
        return type(caught).__name__, f"{caught}{code}"
    return "", ""


@pytest.mark.parametrize(
    ("error", "main", "other"),
    [
        (ConfigError("no"), ("ConfigError", "no"), ("ConfigError", "no")),
        (ValueError("no"), ("ValueError", "no"), ("RuntimeError", "no")),
        (SystemExit(3), ("SystemExit", "3 3"), ("SystemExit", "3 3")),
        (KeyboardInterrupt(), ("KeyboardInterrupt", ""), ("KeyboardInterrupt", "")),
    ],
)
def test_an_error_of_rank_0_ends_all_ranks(error, main, other):
    assert run_ranks(raised, 2, error, timeout=30) == [main, other]


def interrupted(world: World) -> tuple[str, str]:
    return raised(world, Interrupted(7, 15))


def test_an_interruption_on_rank_0_ends_all_ranks():
    main, other = run_ranks(interrupted, 2, timeout=30)
    assert main[0] == "Interrupted" and main[1].endswith("143")
    assert other == ("SystemExit", "143 143")


def listening(world: World) -> list[str]:
    """Addresses on which this process accepts connections."""
    return [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_one_machine_listen_on_its_loopback_interface_alone(workers):
    for addresses in run_ranks(listening, workers):
        assert addresses
        assert set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
