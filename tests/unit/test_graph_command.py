"""`agents graph`, and the pictures in the documentation that it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.cli.app import app

ROOT = Path(__file__).parents[2]
TIERS = ("coordinator", "distributor", "worker")


def printed(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["graph", *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.mark.parametrize("tier", TIERS)
def test_the_picture_in_the_design_is_the_one_that_the_graph_draws(tier: str) -> None:
    pictures = re.findall(r"^```mermaid\n(.*?)^```", (ROOT / "docs/design.md").read_text(), re.DOTALL | re.MULTILINE)

    assert printed(tier) in pictures


@pytest.mark.parametrize("tier", TIERS)
def test_the_readme_names_the_nodes_of_a_tier_in_their_order(tier: str) -> None:
    nodes = [name for name in json.loads(printed(tier, "--json"))["nodes"] if not name.startswith("__")]

    assert re.search(rf'"{tier}( 1)?<br/>{" → ".join(nodes)}[<"]', (ROOT / "README.md").read_text())


def test_json_tells_which_ways_every_run_takes() -> None:
    assert json.loads(printed("worker", "--json"))["edges"] == [
        {"from": "__start__", "to": "receive", "always": True},
        {"from": "receive", "to": "__end__", "always": False},
        {"from": "receive", "to": "report", "always": False},
        {"from": "report", "to": "__end__", "always": True},
    ]


def test_what_is_no_tier_has_no_graph() -> None:
    ran = CliRunner().invoke(app, ["graph", "client"])

    assert ran.exit_code == 2
    assert "coordinator, distributor, worker" in ran.stderr
