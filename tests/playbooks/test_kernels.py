"""What the health of a self-service seat says of its kernels, as the engine keeps it; unknown counts as use."""

from typing import Any

import pytest

from tests.playbooks.node_code import module_util

kernels = module_util("docker.kernels")
UNKNOWN = ["jupyter: it is unknown whether kernels run code"]


def said(*outputs: Any) -> dict[str, Any]:
    log = [{"Start": "t0", "End": "t1", "ExitCode": 0, "Output": output} for output in outputs]
    return {"State": {"Health": {"Status": "healthy", "Log": log}}}


@pytest.mark.parametrize(
    ("container", "lines"),
    [
        (said("HTTP 200, busy kernels: 0\n"), []),
        (said("HTTP 200, busy kernels: 2\n"), ["jupyter: 2 kernels run code"]),
        (said("HTTP 200, busy kernels: 3\n", "HTTP 200, busy kernels: 0\n"), []),
        (said("HTTP 200, busy kernels: 0\n", "HTTP 200, busy kernels: 1\n"), ["jupyter: 1 kernels run code"]),
        (said("HTTP 200, busy kernels: unknown\n"), UNKNOWN),
        (said("HTTP 200\n"), UNKNOWN),
        (said("HTTP 200, busy kernels: 0\nHTTP 200, busy kernels: 0"), UNKNOWN),
        (said("HTTP 200, busy kernels: " + "9" * 4000), UNKNOWN),
        (said("HTTP 200, busy kernels: ²"), UNKNOWN),
        (said("Health check exceeded timeout (10s)"), UNKNOWN),
        (said(), UNKNOWN),
        (said(None), UNKNOWN),
        ({"State": {"Health": None}}, UNKNOWN),
        ({"State": {}}, UNKNOWN),
        ({}, UNKNOWN),
        (None, UNKNOWN),
    ],
    ids=lambda value: ascii(value)[-50:],
)
def test_kernels_that_run_code_are_use(container: Any, lines: list[str]) -> None:
    assert kernels.kernel_use(container) == lines
