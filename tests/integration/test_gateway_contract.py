"""What a gateway says of itself in OpenAPI is what it does: requests made from it, right and wrong, are answered so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from core.chaos.processes import Processes
from tests.executor_bench import INTEGRATION
from tests.gateways import gateways_of

#: Checks of every answer. A server error is one of them, whatever is asked.
CHECKS = ",".join(
    (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance",
        "missing_required_header", "unsupported_method",
    )
)  # fmt: skip
OWN = ("tasks", "messages")
#: Those that are answered when something happens.
LONG = r"/stream$|/agents/\{agent_id\}/(messages|tasks)$"
CONFIG = """
request-timeout = 10.0
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "413", "422", "503"]
negative_data_rejection.expected-statuses = ["4xx", "503"]
"""


@pytest.mark.timeout(200)
def test_every_route_does_what_its_description_says(
    tmp_path_factory: pytest.TempPathFactory, processes: Processes
) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    with gateways_of(processes, folder, str(INTEGRATION / "gateway_user_graphs.py"), WORKER_HOSTS="1") as gateways:
        url = gateways.start("operator:ops")
        #: Those of our own API at each edge of their schemas, and all of them by chance.
        for options in (
            ("--phases", "examples,coverage", *(part for tag in OWN for part in ("--include-tag", tag))),
            ("--phases", "fuzzing"),
        ):
            ran = tried(url, folder, *options, "--exclude-path-regex", LONG)
            assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2000:]
        assert httpx.get(f"{url}/ok").status_code == 200
        assert "request_failed" not in gateways.log(url)


def tried(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What Schemathesis says of the gateway: as many examples as fit, the same every time. It has one thread, since
    CPython 3.11 counts the depth of syntax trees that two threads parse at once as that of one."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    return subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json",
            "--checks", CHECKS, "--max-examples", "3", "--workers", "1", "--seed", "1",
            "--generation-database", "none", "--no-color", "--max-failures", "20", *options,
        ],
        capture_output=True, text=True, cwd=folder, check=False, timeout=180,
    )  # fmt: skip
