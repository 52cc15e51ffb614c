"""`agents top`: what a hierarchy does, on a whole terminal, while it does it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import duration, print_json, print_table, say
from core.cli.session import looking, run, settings
from core.printable import printable

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.fleet_moment import FleetMoment

__all__ = ["top"]

#: Seconds between two looks that a rate is measured by, where nothing is to be seen in between.
RATE_S = 1.0


def top(
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, as text; so it is without a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One look, as JSON.")] = False,
) -> None:
    """Show live what the hierarchy does: agents, rates, what runs longest, questions, events.

    Keys: q quits; t, r, l, f, s sort the agents by tree, rate, load, failures, silence; arrows scroll; space pauses.
    """
    configured = settings()
    if once or as_json or not sys.stdout.isatty() or not sys.stdin.isatty():
        moment = run(_one_look(configured))
        if as_json:
            print_json(moment.to_dict())
        else:
            _print(moment)
        return
    from core.cli.top_screen import live

    run(live(configured, interval))


async def _one_look(configured: Settings) -> FleetMoment:
    """A moment with the rates of the second before it. Raises TransportDown."""
    import asyncio

    from core.operations.fleet_watch import FleetWatch

    async with looking(configured) as reader:
        watch = FleetWatch(reader, configured.coordinator_id, configured.agent)
        await watch.look()
        await asyncio.sleep(RATE_S)
        return await watch.look()


def _print(moment: FleetMoment) -> None:
    from core.pictures.fleet import agents_text, slots_text

    oldest = "" if moment.oldest_waiting_s is None else f", the oldest waits {duration(moment.oldest_waiting_s)}"
    say(
        f"{moment.rate:.1f} tasks/s, {moment.running} running on {slots_text(moment.slots, moment.agent_slots)} slots,"
        f" {moment.open_tasks} open{oldest}, {moment.asking} asking, {moment.dead_letters} dead"
    )
    for reason, number in moment.waiting.items():
        say(f"{number} waiting: {printable(reason)}")
    if not moment.has_all_agents:
        say(f"{agents_text(moment)}, those that most need somebody to look")
    print()
    indent = "  " if moment.has_all_agents else ""
    print_table(
        ("AGENT", "HEALTH", "IN FLIGHT>", "SLOTS>", "RATE/S>", "DONE>", "FAILED>", "UNREAD>", "HEARD>"),
        [
            (
                indent * line.depth + line.agent_id, line.health, f"{line.in_flight}",
                slots_text(line.slots, line.agent_slots) if line.role == "worker" else "",
                f"{line.rate:.1f}", f"{line.done}", f"{line.failed}", f"{line.unread}",
                "" if line.silent_s is None else duration(line.silent_s),
            )
            for line in moment.agents
        ],
    )  # fmt: skip
    if moment.slowest:
        print()
        rows = [(duration(line.runs_s), line.task_id, line.task_type, line.worker) for line in moment.slowest[:10]]
        print_table(("RUNS FOR>", "TASK", "TYPE", "WORKER"), rows)
    if moment.questions:
        print()
        print_table(
            ("ASKS FOR>", "TASK", "QUESTION"),
            [(duration(asked.waits_s), asked.task_id, asked.asks) for asked in moment.questions[:10]],
        )
