"""Settings: which place wins, what is refused and how, what is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.config.directories import data_dir
from core.config.settings import A2AConfig, AgentConfig, RedisConfig, Setting, Settings, with_client_certificate
from core.config.sources import KNOWN, load
from core.config.variables import secret_text
from core.errors import ConfigError
from core.machine.process_secrets import SECRETS
from core.wiring import redis_or_configured
from tests.conftest import ROOT

SECRET = "a secret that is long enough"


def of(tmp_path: Path, flags: dict[str, object], environ: dict[str, str], dotenv: str = "") -> Settings:
    path = tmp_path / ".env"
    path.write_text(dotenv)
    return load(flags, environ, path)


def shown(settings: Settings, name: str) -> Setting:
    return next(setting for setting in settings.sources if setting.name == name)


@pytest.mark.parametrize(
    ("flags", "environ", "dotenv", "port", "source"),
    [
        ({"REDIS_PORT": 1}, {"REDIS_PORT": "2"}, "REDIS_PORT=3", 1, "flag"),
        ({"REDIS_PORT": None}, {"REDIS_PORT": "2"}, "REDIS_PORT=3", 2, "environment"),
        ({}, {}, "REDIS_PORT=3", 3, ".env"),
        ({}, {"REDIS_PORT": ""}, "REDIS_PORT=3", 3, ".env"),
        ({}, {}, "REDIS_PORT=", 6379, "default"),
    ],
)
def test_the_first_of_flag_environment_dotenv_and_default_wins_and_empty_counts_as_not_set(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], dotenv: str, port: int, source: str
) -> None:
    settings = of(tmp_path, flags, environ, dotenv)

    assert settings.redis.port == port
    assert shown(settings, "REDIS_PORT") == Setting("REDIS_PORT", str(port), source)


@pytest.mark.parametrize(
    ("environ", "names", "cure"),
    [
        ({"REDIS_PORT": "abc"}, "REDIS_PORT (from environment)", "1 to 65535"),
        ({"REDIS_PORT": "70000"}, "'70000'", "1 to 65535"),
        ({"REDIS_MODE": "magic"}, "REDIS_MODE", "auto"),
        ({"REDIS_USE_TLS": "maybe"}, "REDIS_USE_TLS", "true or false"),
        ({"REDIS_PROT": "1"}, "REDIS_PROT (from environment)", "Did you mean REDIS_PORT?"),
        ({"A2A_TOKEN_SECRETS": SECRET}, "A2A_TOKEN_SECRETS", "Did you mean A2A_TOKEN_SECRET?"),
        ({"REDIS_PASSWD": "x"}, "REDIS_PASSWD", "Did you mean REDIS_PASSWORD?"),
        ({"AGENT_LEASE": "20"}, "AGENT_LEASE ", "Did you mean AGENT_LEASE_S?"),
        ({"agent_standby": "true"}, "agent_standby", "Did you mean AGENT_STANDBY?"),
        ({"A2A_TOKEN_SECRET": "short"}, "A2A_TOKEN_SECRET", "token_urlsafe"),
        ({"A2A_TOKEN_SECRET": SECRET, "A2A_TOKEN_SECRET_FILE": "/x"}, "A2A_TOKEN_SECRET_FILE", "Keep one"),
        ({"A2A_TOKEN_SECRET_FILE": "/nowhere"}, "A2A_TOKEN_SECRET_FILE", "No such file"),
        ({"A2A_USE_MTLS": "true"}, "A2A_CERT_PATH", "A2A_USE_MTLS=false"),
        ({"A2A_USE_MTLS": "1", "A2A_CERT_PATH": "/nowhere", "A2A_KEY_PATH": "/nowhere"}, "A2A_CERT_PATH", "PEM"),
        ({"REDIS_URL": "http://host"}, "REDIS_URL", "rediss://"),
        ({"REDIS_URL": "redis://host:99999"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "redis://host/zero"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "redis://"}, "REDIS_URL", "names no server"),
        ({"REDIS_URL": "redis://host?ssl_cert_reqs=none"}, "REDIS_URL", "options"),
        ({"REDIS_URL": "redis://host", "REDIS_USE_TLS": "true"}, "REDIS_URL", "rediss://"),
        *(({"REDIS_URL": f"redis://:hunter{sign}2@host:1/0"}, "REDIS_URL", "percent-encoding") for sign in "#/?[]"),
        *(({"REDIS_URL": f"rediss://user:12{sign}34@host"}, "REDIS_PASSWORD", "%23") for sign in "#/?[]"),
        ({"REDIS_CA_PATH": "/nowhere"}, "REDIS_CA_PATH", "PEM"),
        ({"AGENT_HEARTBEAT_S": "3"}, "AGENT_FAILURE_TIMEOUT_S", "Set it above 6"),
        ({"AGENT_LEASE_S": "2"}, "AGENT_LEASE_S", "AGENT_HEARTBEAT_S"),
        ({"DRAIN_TIMEOUT": "nan"}, "DRAIN_TIMEOUT", "0 or more"),
        ({"WORKER_ID": "a b"}, "WORKER_ID", "letters, digits"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "DEBUG"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_is_unknown_or_malformed_is_an_error_with_variable_and_cure(
    tmp_path: Path, environ: dict[str, str], names: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, {}, environ)

    assert caught.value.exit_code == 78
    assert names in str(caught.value)
    assert cure in str(caught.value)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.variable.secret])
def test_a_secret_is_in_no_error_no_repr_and_no_list(tmp_path: Path, name: str) -> None:
    value = "redis://:hunter2-hunter2-hunter2@host" if name == "REDIS_URL" else "hunter2-hunter2-hunter2"
    settings = of(tmp_path, {}, {name: value})

    assert "hunter2" not in repr(settings)
    assert "********" in shown(settings, name).value_shown
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, {}, {name: value.replace("redis", "magic"), "REDIS_MODE": "x", "A2A_USE_MTLS": "x"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        A2AConfig(token_secret=value)  # type: ignore[call-arg]  # what lacks an agent_id
    assert "hunter2" not in str(caught.value)


def test_every_secret_is_kept_from_processes_that_run_user_code() -> None:
    secrets = {name for name, known in KNOWN.items() if known.variable.secret}
    of_others = {"A2A_JWT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"}

    assert secrets | of_others == SECRETS


def test_a_secret_can_come_from_a_file_whose_last_newline_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")

    settings = of(
        tmp_path, {}, {"A2A_TOKEN_SECRET_FILE": str(tmp_path / "secret")}, "A2A_TOKEN_SECRET=another one, weaker"
    )

    assert secret_text(settings.a2a.token_secret) == SECRET
    assert shown(settings, "A2A_TOKEN_SECRET") == Setting("A2A_TOKEN_SECRET", "********", "file")


def test_the_files_that_hold_secrets_are_known_and_no_others(tmp_path: Path) -> None:
    secret, certificate = tmp_path / "secret", tmp_path / "certificate"
    secret.write_text(SECRET)
    certificate.touch()
    mutual = {"A2A_USE_MTLS": "true", "A2A_CERT_PATH": f"{certificate}", "A2A_KEY_PATH": f"{certificate}.key"}
    Path(mutual["A2A_KEY_PATH"]).touch()
    example = (ROOT / ".env.example").read_text()

    assert of(tmp_path, {}, {}, example).secret_files == ()
    assert of(tmp_path, {}, {}, "REDIS_URL=redis://host").secret_files == ()
    assert of(tmp_path, {}, {}, "REDIS_URL=redis://:hunter2@host").secret_files == (tmp_path / ".env",)
    assert of(tmp_path, {}, {"A2A_TOKEN_SECRET_FILE": f"{secret}", **mutual}, "REDIS_PASSWORD=p").secret_files == (
        secret,
        tmp_path / ".env",
        Path(mutual["A2A_KEY_PATH"]),
    )


def test_dotenv_may_hold_names_of_other_programs_quotes_comments_and_a_byte_order_mark(tmp_path: Path) -> None:
    dotenv = "\ufeffREDIS_HOST=\"a host\"  # where\r\nexport OTHER_PROGRAM=1\r\n\r\nREDIS_PASSWORD='p$w${x}#1'\r\n"

    redis = of(tmp_path, {}, {}, dotenv).redis

    assert (redis.host, secret_text(redis.password)) == ("a host", "p$w${x}#1")


@pytest.mark.parametrize(
    ("dotenv", "says"),
    [
        ("REDIS_HOST=a\nthis is no line\n", "line 2"),
        ("REDIS_HOST\n", "line 1"),
        ("REDIS_PROT=1\n", "REDIS_PROT .from .env.*REDIS_PORT"),
        ("REDIS_TLS_URL=1\n", "REDIS_TLS_URL .from .env"),
        ("AGENT_NAME=1\n", "AGENT_NAME .from .env.*agents config show"),
        ("REDIS_PORT=tcp://10.0.0.1:6379\n", "REDIS_PORT .from .env"),
        ("WORKER_CONCURENCY=9\n", "Did you mean WORKER_CONCURRENCY"),
        ("worker_concurrency=9\n", "Did you mean WORKER_CONCURRENCY"),
        ("LOG_LEVL=DEBUG\n", "Did you mean LOG_LEVEL"),
        ("DRAIN_TIMEOU=9\n", "Did you mean DRAIN_TIMEOUT"),
        ("MAX_OPEN_TASK=9\n", "Did you mean MAX_OPEN_TASKS"),
        ("A2A_TOKEN_SECRET_FIEL=x\n", "Did you mean A2A_TOKEN_SECRET_FILE"),
    ],
)
def test_a_line_of_dotenv_that_cannot_be_meant_is_an_error_that_says_where(
    tmp_path: Path, dotenv: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        of(tmp_path, {}, {}, dotenv)


@pytest.mark.parametrize("service", ["REDIS", "REDIS_MASTER", "AGENT_API", "AGENT_HEALTH", "A2A", "WORKER"])
def test_the_variables_kubernetes_adds_for_a_service_of_any_name_are_no_settings(tmp_path: Path, service: str) -> None:
    links = {
        "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "1", "SERVICE_PORT_TCP_REDIS": "1", "PORT": "tcp://10.0.0.1:1",
        "PORT_1_TCP": "tcp://10.0.0.1:1", "PORT_1_TCP_PROTO": "tcp", "PORT_1_TCP_PORT": "1", "PORT_1_TCP_ADDR": "::1",
    }  # fmt: skip

    settings = of(tmp_path, {}, {f"{service}_{name}": value for name, value in links.items()})

    assert {setting.source for setting in settings.sources} == {"default"}
    assert settings.doubts == ()


@pytest.mark.parametrize(
    "name",
    ["REDIS_TLS_URL", "REDIS_DSN", "REDIS_PASS", "REDIS_MAXMEMORY", "AGENT_NAME", "AGENT_ID", "AGENT_TOOLSDIRECTORY",
     "AGENT_WORKDIR", "AGENT_OS", "A2A_SERVER", "LOG_FILE", "TASK_ID", "MAX_OPEN_FILES", "WORKER_CLASS"],
)  # fmt: skip
def test_what_other_programs_have_in_the_environment_is_ignored(tmp_path: Path, name: str) -> None:
    settings = of(tmp_path, {}, {name: "theirs"})

    assert {setting.source for setting in settings.sources} == {"default"}
    assert settings.doubts == ()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("WORKER_CONCURENCY", "WORKER_CONCURRENCY"), ("LOG_LEVL", "LOG_LEVEL"), ("DRAIN_TIMEOU", "DRAIN_TIMEOUT"),
     ("MAX_OPEN_TASK", "MAX_OPEN_TASKS"), ("REDSI_URL", "REDIS_URL"), ("TASK_RETENTION", "TASK_RETENTION_S")],
)  # fmt: skip
def test_a_name_in_the_environment_that_may_be_meant_for_ours_is_doubted_with_the_right_one(
    tmp_path: Path, name: str, meant: str
) -> None:
    [doubt] = of(tmp_path, {}, {name: "9"}).doubts

    assert f"{name} (from environment)" in doubt
    assert f"Did you mean {meant}?" in doubt


def test_a_program_that_asks_for_the_settings_around_it_is_told_what_may_be_misspelt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOG_LEVL", "DEBUG")

    redis_or_configured(None)

    assert "Did you mean LOG_LEVEL?" in caplog.text


def test_the_example_works_as_it_is_names_every_variable_and_holds_no_secret() -> None:
    settings = load(environ={}, dotenv_path=ROOT / ".env.example")

    assert settings.a2a_for("coordinator-1") == A2AConfig(
        agent_id="coordinator-1", cert_path=settings.a2a.cert_path, key_path=settings.a2a.key_path
    )
    assert (settings.redis, settings.agent) == (RedisConfig(), AgentConfig())
    text = (ROOT / ".env.example").read_text()
    assert [name for name in KNOWN if f"\n{name}=" not in text] == []


@pytest.mark.parametrize(
    ("config", "endpoint", "local"),
    [
        (RedisConfig(), "redis://localhost:6379/0", True),
        (RedisConfig(host="127.8.0.1", db=3), "redis://127.8.0.1:6379/3", True),
        (RedisConfig(host="::1", use_tls=True), "rediss://[::1]:6379/0", True),
        (RedisConfig(host="redis"), "redis://redis:6379/0", False),
        (RedisConfig(host="ignored", url="redis://10.0.0.1/2"), "redis://10.0.0.1:6379/2", False),
        (RedisConfig(url="rediss://u:p@host:1?db=4"), "rediss://host:1/4", False),
        (RedisConfig(url="unix:///tmp/a%20b?db=5"), "unix:///tmp/a%20b?db=5", True),
    ],
    ids=str,
)
def test_url_and_parts_come_to_one_endpoint_in_which_the_url_wins(
    config: RedisConfig, endpoint: str, local: bool
) -> None:
    assert (str(config.endpoint), config.endpoint.is_local) == (endpoint, local)


def test_what_the_url_does_not_say_comes_from_the_parts_and_percent_signs_are_undone() -> None:
    endpoint = RedisConfig(url="redis://us%65r:p%40ss@host", db=7, password="other", username="other").endpoint
    assert (endpoint.username, secret_text(endpoint.password), endpoint.db) == ("user", "p@ss", 7)

    endpoint = RedisConfig(url="redis://host", password="part").endpoint
    assert secret_text(endpoint.password) == "part"


def test_values_that_a_program_writes_are_checked_as_well() -> None:
    for write in (
        lambda: RedisConfig(port=0),
        lambda: RedisConfig(hots="x"),  # type: ignore[call-arg]
        lambda: A2AConfig(agent_id="-"),
        lambda: A2AConfig(agent_id="a", token_secret="short"),
        lambda: AgentConfig(concurrency=0),
    ):
        with pytest.raises(ConfigError):
            write()


def test_mutual_tls_puts_the_certificate_on_the_connection_to_redis_and_needs_tls_there(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    mutual = A2AConfig(agent_id="a", use_mtls=True, cert_path=pem, key_path=pem)

    assert with_client_certificate(RedisConfig(use_tls=True), mutual).cert_path == pem
    assert with_client_certificate(RedisConfig(), A2AConfig(agent_id="a")) == RedisConfig()
    with pytest.raises(ConfigError, match="REDIS_USE_TLS=true"):
        with_client_certificate(RedisConfig(), mutual)


def test_the_data_directory_is_private_and_one_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_dir() == tmp_path / "agent-system"
    assert data_dir().stat().st_mode & 0o077 == 0
    monkeypatch.setenv("AGENT_DATA_DIR", str(tmp_path / "own"))
    assert data_dir() == tmp_path / "own"

    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.setenv("AGENT_DATA_DIR", str(tmp_path / "shared"))
    with pytest.raises(ConfigError, match="chmod 700"):
        data_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("AGENT_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="AGENT_DATA_DIR"):
        data_dir()


def test_a_relative_place_of_data_is_none_so_that_agents_in_two_folders_share_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENT_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert data_dir().is_relative_to(tmp_path)


def test_importing_the_settings_imports_neither_redis_nor_langgraph_nor_the_reader_of_sources() -> None:
    heavy = {"redis", "langgraph", "pydantic_settings", "asyncio"}
    program = f"import sys, core.config.settings; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
