"""The census of the demo, by a hierarchy in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def census(*options: str) -> subprocess.CompletedProcess[str]:
    # Nobody listens at this address, so asking a server for anything fails.
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"}
    command = [sys.executable, str(ROOT / "example_e2e.py"), str(ROOT / "distributor"), "--local", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_a_census_in_one_process_is_verified_without_a_server(tmp_path: Path) -> None:
    done = census("--distributors", "2", "--workers", "3", "--json", "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert report["tasks"]["completed"] > 2
    assert {path.name for path in tmp_path.iterdir()} >= {"timeline.svg", "hierarchy.svg", "report.json"}
    drawn = (tmp_path / "hierarchy.svg").read_text()
    assert all(name in drawn for name in ("distributor-1", "distributor-2", "worker-1", "worker-2", "worker-3"))


def test_no_process_is_killed_where_all_share_one(tmp_path: Path) -> None:
    refused = census("--kill", "worker", "--report", str(tmp_path))
    assert refused.returncode == 2
    assert "leave out one of the two" in refused.stderr
