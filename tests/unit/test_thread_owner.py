"""No client goes on where the runs of another one have ended, unless they are shared with it."""

from __future__ import annotations

import pytest

from core.errors import BadTask
from worker.hosts.thread_owner import thread_owner

ADAS = {"owner": "client:ada", "shared_with": "bob,eve"}


@pytest.mark.parametrize(
    ("asker", "shared_with", "stored", "said"),
    [
        ("client:ada", [], {}, {"owner": "client:ada", "shared_with": ""}),
        ("client:ada", ["bob", "eve"], {}, ADAS),
        ("client:ada", ["carl"], ADAS, {"owner": "client:ada", "shared_with": "carl"}),
        ("client:bob", ["carl"], ADAS, ADAS),
        ("operator:root", [], ADAS, ADAS),
        ("client:carl", [], {**ADAS, "shared_with": "*"}, {**ADAS, "shared_with": "*"}),
        ("client:carl", [], {"source": "update"}, {"owner": "client:carl", "shared_with": ""}),
    ],
    ids=["new", "shared", "its own", "shared with it", "operator", "shared with all", "made by a program"],
)
def test_a_thread_stays_its_owners(
    asker: str, shared_with: list[str], stored: dict[str, str], said: dict[str, str]
) -> None:
    assert thread_owner({"id": "t", "owner": asker, "shared_with": shared_with}, stored) == said


@pytest.mark.parametrize("shared_with", ["", "bob,eve"])
@pytest.mark.parametrize("asker", ["client:carl", "client:root", "client:"])
def test_to_others_it_is_refused(asker: str, shared_with: str) -> None:
    with pytest.raises(BadTask, match="thread 't' is another client's; choose another thread_id"):
        thread_owner(
            {"id": "t", "owner": asker, "shared_with": []}, {"owner": "client:ada", "shared_with": shared_with}
        )
