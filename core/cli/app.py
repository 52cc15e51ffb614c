"""The application `agents`, which joins all commands."""

from __future__ import annotations

import typer

from core.cli import (
    acl,
    chaos,
    config,
    cron,
    dlq,
    doctor,
    events,
    gateway,
    graph,
    healthcheck,
    key,
    limits,
    questions,
    quotas,
    redis_server,
    registry,
    rehearse,
    replay,
    run_graph,
    state,
    status,
    strategy,
    submit,
    tasks,
    threads,
    top,
    up_down,
    version,
)

__all__ = ["app"]

app = typer.Typer(
    help="Runs, watches and repairs a hierarchy of agents: a coordinator, its distributors, their workers."
    " Which Redis and which coordinator: REDIS_URL and COORDINATOR_ID, in the environment or in .env."
    " Exit codes: 0 ok, 1 task failed or refused, 2 usage, 65 recording unreadable, 69 Redis unavailable, 74 output not"
    " written, 75 not ended in time or handed back, 77 message rejected, 78 configuration.",
    no_args_is_help=True,
    rich_markup_mode=None,  # drawing rich's frames takes as long as everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(version.with_version)
app.command()(up_down.up)
app.command()(up_down.down)
app.command()(status.status)
app.command()(top.top)
app.command()(submit.submit)
app.command("run")(run_graph.run_graph)
app.add_typer(registry.app, name="registry")
app.add_typer(tasks.app, name="tasks")
app.add_typer(dlq.app, name="dlq")
app.add_typer(questions.app, name="questions")
app.add_typer(cron.app, name="cron")
app.add_typer(limits.app, name="limits")
app.add_typer(quotas.app, name="quotas")
app.add_typer(strategy.app, name="strategy")
app.add_typer(threads.app, name="threads")
app.add_typer(events.app, name="events")
app.add_typer(state.app, name="state")
app.add_typer(redis_server.app, name="redis")
app.add_typer(config.app, name="config")
app.add_typer(key.app, name="key")
app.command()(acl.acl)
app.command()(doctor.doctor)
app.command()(healthcheck.healthcheck)
app.command()(graph.graph)
app.command()(gateway.gateway)
app.command()(replay.replay)
app.command()(rehearse.rehearse)
app.command()(chaos.chaos)
app.command()(version.version)
