"""What `agents doctor` finds out by reading: who can be discovered, what nobody can do, whose secret it is."""

from __future__ import annotations

from core.operations.finding import Finding
from core.operations.fleet_checkup import check_fleet
from core.operations.overview import read_overview
from core.operations.reader import reading
from core.tasks import Task
from tests.builders import SECRET
from tests.integration.hierarchy import FAST, House
from tests.waiting import until_async


async def findings(home: House, secret: str, coordinator_id: str = "k") -> dict[str, Finding]:
    async with reading(home.redis) as reader:
        overview = await read_overview(reader, coordinator_id, FAST)
        return {finding.check: finding for finding in await check_fleet(reader, overview, secret)}


async def test_a_fleet_at_work_is_found_well_and_what_nobody_can_do_is_named(agents: House) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    me = await agents.client()

    async def all_is_well() -> bool:
        found = await findings(agents, SECRET.decode())
        assert found.get("clocks") is None or found["clocks"].state == "ok"
        return "3 agent(s)" in found["clocks"].what and {finding.state for finding in found.values()} == {"ok"}

    await until_async(all_is_well, "all have registered, and are of this version")

    await me.submit.aio(Task(task_id="t1", task_type="no-such-type"))

    async def names_it() -> bool:
        found = await findings(agents, SECRET.decode())
        return "capabilities" in found and "'no-such-type'" in found["capabilities"].what

    await until_async(names_it, "the coordinator has told that nobody has it")


async def test_another_secret_and_another_coordinator_are_told(agents: House) -> None:
    await agents.coordinator()
    await agents.distributor()

    assert (await findings(agents, "another secret, long enough"))["secret"].state == "fail"
    assert "of k" in (await findings(agents, SECRET.decode(), "other"))["tiers"].what
