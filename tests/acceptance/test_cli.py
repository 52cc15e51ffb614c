"""The operator's command, as a user types it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role
from core.signing import KeyRing
from tests.installation import Installation
from tests.waiting import until

SECRET = "a secret of this test, long enough"


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    """A hierarchy at work, which the tests of this module share."""
    with Installation.opened() as installation:
        installation.up()
        yield installation


@pytest.fixture(scope="module")
def empty() -> Iterator[Installation]:
    """A server, and nobody at work."""
    with Installation.opened() as installation:
        yield installation


# ---- the command itself ----


def test_help_imports_neither_langgraph_nor_redis_nor_pydantic() -> None:
    program = (
        "import sys; from core.cli.__main__ import main; sys.argv = ['agents', '--help']; code = main();"
        "heavy = {'langgraph', 'redis', 'pydantic', 'asyncio', 'rich'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: agents" in done.stdout


def test_every_command_explains_itself(empty: Installation) -> None:
    for command in ("up", "down", "status", "submit", "tasks list", "state show", "redis", "config", "key", "doctor"):
        done = empty.agents(*command.split(), "--help")
        assert done.returncode == 0, command
        assert "Usage: agents" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["submit", "echo", "{no json"], 2, "the payload is no JSON"),
        (["submit", "echo", '{"a": [{"b": 1, "b": 2}]}'], 2, "the payload has the key 'b' twice in one object"),
        (["submit", "echo", "@no/such/file"], 2, "cannot be read"),
        (["submit", "echo", 90_000 * "["], 2, "the payload nests lists and objects deeper than 64"),
        (["tasks", "show", "\udcff"], 2, "an argument is not UTF-8"),
        (["submit", "echo", "1", "--priority", "soon"], 2, "'urgent', 'critical'"),
        (["submit", "not a type", "1"], 2, "task_type"),
        (["tasks", "show", "nobody-knows-it"], 2, "no task 'nobody-knows-it'"),
        (["tasks", "list", "--status", "sleeping"], 2, "is none of pending"),
        (["state", "show", "nobody"], 2, "no stored state of 'nobody'"),
        (["events", "list", "--type", "task_complete"], 2, "Did you mean task_completed"),
        (["events", "list", "--after", "x"], 2, "take `id` of one that was told before"),
        (["events", "tail", "--since", "soon"], 2, "use 30s, 5m, 2h or 1d"),
        (["key", "king", "x"], 2, "is none of client"),
    ],
)
def test_what_is_typed_wrong_is_explained_with_exit_code_2(
    empty: Installation, arguments: list[str], code: int, words: str
) -> None:
    done = empty.agents(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["status"], ["submit", "echo", "1"], ["tasks", "list"], ["up"], ["doctor"]])
def test_without_redis_the_exit_code_is_69_and_the_message_says_what_to_do(
    empty: Installation, command: list[str]
) -> None:
    done = empty.agents(*command, REDIS_URL="unix:///tmp/no/such/socket", REDIS_MODE="external")
    assert done.returncode == 69
    said = done.stderr + done.stdout
    assert "does not answer" in said
    assert "REDIS_URL" in said
    assert "Traceback" not in said


def test_a_misspelt_setting_is_named_with_exit_code_78(empty: Installation) -> None:
    done = empty.agents("status", REDIS_PROT="1")
    assert done.returncode == 78
    assert "Did you mean REDIS_PORT?" in done.stderr


def test_a_name_that_may_be_misspelt_is_told_and_the_command_runs(empty: Installation) -> None:
    done = empty.agents("status", LOG_LEVL="DEBUG")
    assert (done.returncode, done.stderr.count("Did you mean LOG_LEVEL?")) == (0, 1)

    doctor = empty.agents("doctor", "--json", LOG_LEVL="DEBUG")
    [finding] = [finding for finding in json.loads(doctor.stdout) if finding["check"] == "settings"]
    assert (finding["state"], "Did you mean LOG_LEVEL?" in finding["what"]) == ("warn", True)


# ---- submit ----


@pytest.mark.parametrize("payload", ['{"a": [1, 2]}', "-", "@payload.json"])
def test_submit_prints_the_result_and_nothing_else_on_stdout(here: Installation, payload: str) -> None:
    (here.directory / "payload.json").write_text('{"a": [1, 2]}')
    done = here.agents("submit", "echo", payload, "--wait", stdin='{"a": [1, 2]}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"a": [1, 2]}


#: What becomes of stdout, and the exit codes of a task that completes and of one that fails.
OUTLETS = {"> /dev/full": (74, 1), "| true": (0, 1), ">&-": (0, 1), ">&- 2>&-": (0, 1), "2>/dev/full": (0, 1)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is /dev/full here")
@pytest.mark.parametrize("outlet", OUTLETS)
def test_the_exit_code_tells_of_the_task_wherever_the_output_goes(here: Installation, outlet: str) -> None:
    for task, code in zip(("echo", "boom"), OUTLETS[outlet], strict=True):
        agents = f"{shlex.quote(sys.executable)} -m core.cli submit {task} '{json.dumps('x' * 100_000)}' --wait"
        done = subprocess.run(
            ["bash", "-c", f"{agents} {outlet}; exit ${{PIPESTATUS[0]}}"],
            cwd=here.directory, env=here.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "core/cli" not in done.stderr  # a traceback of the task may be there, and none of the command
        assert "Exception ignored" not in done.stderr
        assert ("cannot be written: No space left" in done.stderr) == (code == 74)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_result_means_the_same_in_whatever_encoding_it_is_printed(here: Installation, encoding: str) -> None:
    done = here.agents("submit", "echo", json.dumps("é → 𝄞"), "--wait", PYTHONIOENCODING=encoding)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == "é → 𝄞"


def test_submitting_an_id_twice_is_one_task(here: Installation) -> None:
    first = here.agents("submit", "echo", "1", "--id", "only-one", "--wait")
    second = here.agents("submit", "echo", "1", "--id", "only-one", "--wait")
    assert first.stdout == second.stdout == "1\n"
    assert [task["task_id"] for task in here.json("tasks", "list", "--type", "echo")].count("only-one") == 1


def test_a_task_that_fails_gives_exit_code_1_and_its_error(here: Installation) -> None:
    done = here.agents("submit", "boom", '"x"', "--wait")
    assert done.returncode == 1
    assert "ValueError: no good: x" in done.stderr
    assert 'raise ValueError(f"no good: {payload}")' in done.stderr
    assert done.stdout == ""


def test_waiting_for_a_type_that_nobody_knows_says_which_are_known(here: Installation) -> None:
    done = here.agents("submit", "ehco", "1", "--wait", "--timeout", "4")
    assert done.returncode == 75
    assert "no worker knows task type 'ehco'; known: boom, echo, hold" in done.stderr
    assert "agents tasks wait" in done.stderr


def test_waiting_without_a_hierarchy_says_to_start_one(empty: Installation) -> None:
    done = empty.agents("submit", "echo", "1", "--wait", "--timeout", "4")
    assert done.returncode == 75
    assert "no coordinator is up: run `agents up`" in done.stderr


# ---- tasks ----


def test_a_task_is_listed_shown_waited_for_and_cancelled(here: Installation) -> None:
    task_id = here.agents("submit", "hold", '"never"').stdout.strip()
    here.begun("never")
    assert task_id in [task["task_id"] for task in here.json("tasks", "list", "--status", "in_progress")]
    shown = here.agents("tasks", "show", task_id).stdout
    assert "in_progress" in shown
    assert "has had attempt 1" in shown
    assert here.agents("tasks", "wait", task_id, "--timeout", "0.5").returncode == 75
    # When
    assert here.agents("tasks", "cancel", task_id).returncode == 0
    # Then
    waited = here.agents("tasks", "wait", task_id)
    assert waited.returncode == 1
    assert "ended as cancelled" in waited.stderr


def test_the_list_has_the_newest_first_and_not_more_than_asked_for(here: Installation) -> None:
    for number in range(3):
        here.agents("submit", "echo", f"{number}", "--id", f"listed-{number}", "--wait")
    ids = [task["task_id"] for task in here.json("tasks", "list", "--status", "completed", "--limit", "2")]
    assert ids == ["listed-2", "listed-1"]


# ---- looking ----


def test_status_shows_every_agent_with_its_lease(here: Installation) -> None:
    overview = here.json("status")
    assert [agent["agent_id"] for agent in overview["agents"]] == [
        "coordinator-1", "distributor-1", "worker-1", "worker-2",
    ]  # fmt: skip
    for agent in overview["agents"]:
        assert agent["health"] == "active"
        assert agent["lease"]["epoch"] == agent["fence"] > 0
        assert agent["pid"] == here.pids()[f"{agent['role']}:{agent['agent_id']}"]
    assert overview["task_types"] == ["boom", "echo", "hold"]


def test_of_more_agents_than_are_to_be_shown_all_are_counted(here: Installation) -> None:
    done = here.agents("status", "--limit", "2")
    assert re.search(r"^TIER +AGENTS +ACTIVE +SUSPECT", done.stdout)
    assert re.search(r"\nworker +2 +2 +0", done.stdout)
    assert re.search(r"\nThe 2 of 4 agents that .*:\nAGENT .*\ncoordinator-1 +active", done.stdout)
    overview = here.json("status", "--limit", "2")
    assert len(overview["agents"]) == 2
    assert overview["tiers"]["worker"]["by_health"]["active"] == overview["tiers"]["worker"]["agents"] == 2
    assert overview["task_types"] == ["boom", "echo", "hold"]


def test_what_is_piped_has_no_colours_and_one_line_for_each_agent(here: Installation) -> None:
    done = here.agents("status", COLUMNS="40")
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[:5]] == [
        "AGENT", "coordinator-1", "distributor-1", "worker-1", "worker-2",
    ]  # fmt: skip


def test_a_forged_message_is_counted_where_operators_look(here: Installation) -> None:
    forged = {"from": "client:mallory", "kid": "00000000", "sig": "0" * 64, "body": "{}"}
    with redis_of(here) as client:
        client.xadd(CoordinatorKeys("coordinator-1").inbox, forged)
    until(lambda: here.json("status")["agents"][0]["rejected"] == {"unknown_key": 1}, "it is counted")
    assert "messages rejected by coordinator-1: unknown_key 1" in here.agents("status").stdout
    assert "set the same A2A_TOKEN_SECRET" in here.agents("doctor").stdout


def test_status_of_nobody_says_what_to_do_next(empty: Installation) -> None:
    done = empty.agents("status")
    assert done.returncode == 0
    assert "Next: agents up" in done.stderr


def test_the_state_of_a_distributor_and_its_history_are_shown(here: Installation) -> None:
    here.agents("submit", "echo", "1", "--id", "in-history", "--wait")
    state = here.json("state", "show", "distributor-1")
    assert state["assigned_workers"] == ["worker-1", "worker-2"]
    assert state["lease"]["owner"] == "distributor:distributor-1"
    changes = until(
        lambda: [
            (change["side"], change["changes"]["in-history"].partition(" ")[0])
            for change in here.json("state", "history", "distributor-1", "--limit", "100")
            if "in-history" in change["changes"]
        ],
        "the task is in the history",
    )
    assert ("coordinator", "wanted") in changes
    assert ("distributor", "completed") in changes
    for command in ("show", "history"):
        assert "distributor" in here.agents("state", command, "distributor-1").stdout


def test_config_names_the_source_of_each_value_and_shows_no_secret(empty: Installation) -> None:
    (empty.directory / ".env").write_text("LOG_LEVEL=DEBUG\n")
    done = empty.agents("config", "show", "--json", A2A_TOKEN_SECRET=SECRET, AGENT_HEARTBEAT_S="0.5")
    (empty.directory / ".env").unlink()
    settings = {setting["name"]: (setting["value_shown"], setting["source"]) for setting in json.loads(done.stdout)}
    assert settings["LOG_LEVEL"] == ("DEBUG", ".env")
    assert settings["AGENT_HEARTBEAT_S"] == ("0.5", "environment")
    assert settings["REDIS_DB"] == ("0", "default")
    assert settings["A2A_TOKEN_SECRET"] == ("********", "environment")
    assert SECRET not in empty.agents("config", "show", A2A_TOKEN_SECRET=SECRET).stdout


def test_an_agents_own_key_is_the_one_that_the_root_gives_it(empty: Installation) -> None:
    done = empty.agents("key", "worker", "w-7", "--distributor", "d-2", A2A_TOKEN_SECRET=SECRET)
    chain = [
        Address(Role.COORDINATOR, "coordinator-1"), Address(Role.DISTRIBUTOR, "d-2"), Address(Role.WORKER, "w-7"),
    ]  # fmt: skip
    assert done.stdout.strip() == KeyRing.from_secret(SECRET.encode(), chain).export()
    assert "secret" in done.stderr
    assert SECRET not in done.stderr


def test_the_shell_is_told_how_to_complete_a_command(empty: Installation) -> None:
    script = empty.agents("--show-completion", "bash")
    completed = empty.agents(_AGENTS_COMPLETE="complete_bash", COMP_WORDS="agents dl", COMP_CWORD="1")

    assert "complete -o default -F _agents_completion agents" in script.stdout
    assert completed.stdout.split() == ["dlq"]


def test_version_prints_the_version_of_the_project(empty: Installation) -> None:
    assert empty.agents("--version").stdout == empty.agents("version").stdout
    assert empty.agents("version").stdout == "agent-system 0.1.0\n"
    assert empty.json("version")["agent-system"] == "0.1.0"


# ---- doctor ----


def test_the_doctor_finds_nothing_wrong_with_a_hierarchy_at_work(here: Installation) -> None:
    findings = here.json("doctor")
    assert {finding["check"] for finding in findings} >= {
        "python",
        "packages",
        "secret",
        "eviction",
        "leases",
        "agents",
    }
    assert [finding["check"] for finding in findings if finding["state"] == "fail"] == []


def test_the_doctor_warns_of_secrets_that_other_users_can_read(empty: Installation) -> None:
    (empty.directory / ".env").write_text("A2A_TOKEN_SECRET=a secret that all of the machine can read\n")
    (empty.directory / ".env").chmod(0o644)

    done = empty.agents("doctor", "--json")

    [finding] = [finding for finding in json.loads(done.stdout) if finding["check"] == "secret files"]
    assert finding["state"] == "warn"
    assert "chmod 600 .env" in finding["cure"]
    assert done.returncode == 0


def test_the_doctor_finds_a_server_that_may_delete_tasks_and_tells_the_cure(empty: Installation) -> None:
    with redis_of(empty) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        done = empty.agents("doctor")
        client.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == 78
    assert "maxmemory-policy is allkeys-lru" in done.stdout
    assert "Cure: redis-cli config set maxmemory-policy noeviction" in done.stdout


# ---- the embedded server ----


def test_the_embedded_server_is_started_shown_and_stopped(empty: Installation) -> None:
    own = {"REDIS_URL": "", "REDIS_PASSWORD": "", "REDIS_MODE": "embedded", "REDIS_PORT": free_port()}
    assert empty.agents("redis", "status", **own).returncode == 69
    assert empty.agents("redis", "start", **own).returncode == 0
    status = empty.agents("redis", "status", "--json", **own)
    assert json.loads(status.stdout)["port"] == int(own["REDIS_PORT"])
    coordinator = subprocess.Popen(
        [sys.executable, "-m", "coordinator"], env={**empty.environment, **own}, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: '"health": "active"' in empty.agents("status", "--json", **own).stdout, "an agent uses it")
        asked = empty.agents("redis", "stop", **own)
        assert (asked.returncode, "coordinator:coordinator-1 will wait" in asked.stderr) == (1, True)
    finally:
        coordinator.terminate()
        coordinator.wait(30)
    stopped = empty.agents("redis", "stop", **own)
    assert stopped.returncode == 0
    assert "its data are kept" in stopped.stderr
    assert empty.agents("redis", "status", **own).returncode == 69


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def redis_of(installation: Installation) -> redis.Redis:
    """redis-py itself, behind the back of our code."""
    path = installation.environment["REDIS_URL"].removeprefix("unix://").partition("?")[0]
    return redis.Redis(unix_socket_path=path, password=installation.environment["REDIS_PASSWORD"])
