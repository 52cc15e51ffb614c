"""Who is let into a gateway, and what each role may do there."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from fastapi import FastAPI
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from starlette.testclient import TestClient

from core.config.settings import GatewayConfig
from core.errors import ConfigError
from core.gateway.access import Caller, CallerRole, keys_in, whose
from core.gateway.app import gateway_app
from core.gateway.gate import Door
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.rbac import ROLES_OF, ROUTES, Action, action_of, check_may
from core.gateway.tokens import Tokens

SECRET = "0123456789abcdef0123456789abcdef"


def routes_of(app: FastAPI) -> set[str]:
    """Each route of the app, as the table names it."""
    return {f"{method} {path}" for path, methods in _paths(app.routes) for method in methods if method != "HEAD"}


def _paths(routes: Any) -> Any:
    for route in routes:
        if hasattr(route, "routes"):
            yield from _paths(route.routes)
        elif hasattr(route, "original_router"):
            yield from _paths(route.original_router.routes)
        else:
            yield route.path, getattr(route, "methods", None) or ("GET",)


def test_every_route_is_in_the_table_of_actions_and_every_entry_is_a_route() -> None:
    routes = routes_of(gateway_app(Hierarchy(None, None, "coordinator-1", "gateway")))
    listed = [route for routes in ROUTES.values() for route in routes]
    assert routes - {*listed} == set()
    assert {*listed} - routes == set()
    assert len(listed) == len({*listed})
    assert {*ROLES_OF} == {*Action}


def test_the_table_finds_each_route_by_a_request_of_it() -> None:
    for action, routes in ROUTES.items():
        for route in routes:
            method, path = route.replace("{task_id:path}", "root/1").split(" ")
            assert action_of(method, path.replace("{", "").replace("}", "")) is action, route
    assert action_of("GET", "/nowhere") is Action.CHANGE_FLEET


@pytest.mark.parametrize(
    ("role", "action", "may"),
    [
        (CallerRole.VIEWER, Action.SEE_TASKS, True),
        (CallerRole.VIEWER, Action.CHANGE_TASKS, False),
        (CallerRole.OPERATOR, Action.CHANGE_TASKS, True),
        (CallerRole.OPERATOR, Action.CHANGE_FLEET, False),
        (CallerRole.ADMIN, Action.CHANGE_FLEET, True),
        (CallerRole.AGENT, Action.BE_AGENT, True),
        (CallerRole.AGENT, Action.SEE_TASKS, False),
        (CallerRole.VIEWER, Action.BE_AGENT, False),
    ],
)
def test_a_role_may_what_the_table_says(role: CallerRole, action: Action, may: bool) -> None:
    if may:
        check_may(Caller("ada", role), action)
    else:
        with pytest.raises(Problem, match="may not"):
            check_may(Caller("ada", role), action)


def test_who_sees_one_tenant_may_nothing_that_tells_of_others() -> None:
    of_tenant = Caller("ada", CallerRole.ADMIN, "acme")
    for action in Action.SEE_TASKS, Action.SEE_EVENTS, Action.SEE_MESSAGES, Action.SEE_THREADS, Action.CHANGE_CRONS:
        check_may(of_tenant, action)
    for action in Action.SEE_TOTALS, Action.BE_AGENT, Action.CHANGE_FLEET:
        with pytest.raises(Problem, match="tenant 'acme' alone"):
            check_may(of_tenant, action)


def test_what_is_no_path_of_a_route_is_for_admins() -> None:
    for request in "GET /metrics\n", "GET /tasks/status\n", "GET //metrics", "GET /metrics/", "PUT /tasks/a\n":
        assert action_of(*request.split(" ", 1)) is Action.CHANGE_FLEET, request


def asked(**headers: str) -> Any:
    door = Door(keys=keys_in(f"ada:admin:{hashlib.sha256(b'key').hexdigest()}"))
    client = TestClient(gateway_app(Hierarchy(None, None, "coordinator-1", "gateway"), door))
    return client.post("/tasks/submit", content=b"[" * 100_000, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Authorization": "bearer key"}, 400, "nested less deeply"),
        ({"X-Api-Key": "key", "Content-Encoding": "gzip"}, 415, "send it as it is"),
        ({"Authorization": "Basic key"}, 401, "give an API key"),
        ({"X-Api-Key": "x" * 60_000}, 401, "not known here"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_cure(headers: dict[str, str], status: int, said: str) -> None:
    refused = asked(**headers)
    assert (refused.status_code, said in refused.json()["detail"]) == (status, True), refused.text


def test_two_of_one_name_in_two_tenants_are_not_one() -> None:
    callers = [Caller("ci", CallerRole.OPERATOR, tenant) for tenant in (None, "acme", "globex")]
    assert len({caller.full_name for caller in callers}) == 3


def test_a_key_is_known_by_its_hash_and_may_have_a_tenant() -> None:
    digest = hashlib.sha256(b"a key").hexdigest()
    known = keys_in(f"ada:operator:{digest},\neve:viewer:{'0' * 64}:acme")
    assert whose("a key", known) == Caller("ada", CallerRole.OPERATOR)
    assert whose("another", known) is None
    assert known[1].caller == Caller("eve", CallerRole.VIEWER, "acme")


@pytest.mark.parametrize("entry", ["ada", "ada:boss:{0}", "ada:viewer:xyz", "a b:viewer:{0}", "ada:viewer:{0}:t:u"])
def test_an_entry_that_is_no_key_is_refused_with_the_form(entry: str) -> None:
    with pytest.raises(ConfigError, match="name:role:hash"):
        keys_in(entry.format("0" * 64))


def claims(**more: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "sub": "ada", "role": "operator", "aud": "agent-system", "iss": "https://login.example",
        "exp": now + timedelta(minutes=5), **more,
    }  # fmt: skip


def hs256(*keys: tuple[str, str], **more: Any) -> Tokens:
    entries = [
        {"kty": "oct", "kid": kid, "k": jwt.utils.base64url_encode(secret.encode()).decode()} for kid, secret in keys
    ]
    fields = {"jwt_keys": json.dumps({"keys": entries}), "jwt_algorithm": "HS256", **more}
    return Tokens(GatewayConfig(**{"jwt_issuer": "https://login.example", **fields}))


def signed(said: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", kid: str = "1") -> str:
    return jwt.encode(said, key, algorithm, headers={"kid": kid})


def test_a_token_says_who_asks_and_of_which_tenant() -> None:
    tokens = hs256(("1", SECRET))
    assert tokens.whose(signed(claims())) == Caller("ada", CallerRole.OPERATOR)
    assert tokens.whose(signed(claims(tenant="acme", role="viewer"))) == Caller("ada", CallerRole.VIEWER, "acme")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": datetime.now(UTC) - timedelta(seconds=60)}, "expired"),
        ({"exp": None}, "`exp`"),
        ({"sub": None}, "`sub`"),
        ({"aud": "others"}, "`aud` or `iss`"),
        ({"iss": "https://elsewhere.example"}, "`aud` or `iss`"),
        ({"role": "root"}, "`role`"),
        ({"role": ["admin"]}, "`role`"),
        ({"sub": "a b"}, "`sub`"),
        ({"tenant": 7}, "`tenant`"),
        ({"nbf": datetime.now(UTC) + timedelta(hours=1)}, "not valid yet"),
    ],
)
def test_a_token_that_is_not_right_is_refused_with_the_reason(changed: dict[str, Any], why: str) -> None:
    said = {name: value for name, value in claims(**changed).items() if value is not None}
    with pytest.raises(Problem, match=why) as refused:
        hs256(("1", SECRET)).whose(signed(said))
    assert refused.value.status == 401


def test_a_token_within_the_leeway_is_taken() -> None:
    late = claims(exp=datetime.now(UTC) - timedelta(seconds=60))
    assert hs256(("1", SECRET), jwt_leeway_s=300).whose(signed(late)).name == "ada"


def test_a_token_of_another_key_or_algorithm_is_refused() -> None:
    tokens = hs256(("1", SECRET))
    for token in (
        signed(claims(), "another secret, which is as long as it has to be"),
        signed(claims(), kid="2"),
        signed(claims(), SECRET * 2, algorithm="HS512"),
        jwt.encode(claims(), "", algorithm="none", headers={"kid": "1"}),
        "a.b.c",
        "",
    ):
        with pytest.raises(Problem, match="token"):
            tokens.whose(token)


def test_while_keys_are_changed_both_are_known() -> None:
    tokens = hs256(("old", SECRET), ("new", SECRET[::-1]))
    assert tokens.whose(signed(claims(), kid="old")).name == "ada"
    assert tokens.whose(signed(claims(), SECRET[::-1], kid="new")).name == "ada"
    with pytest.raises(Problem):
        tokens.whose(signed(claims(), SECRET[::-1], kid="old"))


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_with_public_keys_the_gateway_can_check_and_not_sign(algorithm: Any) -> None:
    private: Any
    if algorithm == "RS256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        entry = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        private = ed25519.Ed25519PrivateKey.generate()
        entry = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    keys = json.dumps({"keys": [{**entry, "kid": "1"}]})
    tokens = Tokens(GatewayConfig(jwt_keys=keys, jwt_algorithm=algorithm, jwt_issuer="https://login.example"))
    assert tokens.whose(signed(claims(), private, algorithm)).name == "ada"
    with pytest.raises(Problem):  # the public key, taken for a secret
        tokens.whose(signed(claims(), json.dumps(entry) * 2, "HS256"))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("{}", "no JSON Web Key Set"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "no JSON Web Key Set"),
        ('{"keys": []}', '"kty": "oct"'),
        ('{"keys": [{"kty": "oct", "kid": "1", "k": "c2VjcmV0"}]}', "fewer than 32 bytes"),
    ],
)
def test_keys_that_cannot_check_tokens_are_refused_without_showing_them(keys: str, problem: str) -> None:
    config = GatewayConfig(jwt_keys=keys, jwt_algorithm="HS256", jwt_issuer="i")
    with pytest.raises(ConfigError, match=problem) as refused:
        Tokens(config)
    assert "c2VjcmV0" not in str(refused.value)
    assert "c2VjcmV0" not in repr(config)


def test_tokens_need_an_issuer() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_JWT_ISSUER"):
        Tokens(GatewayConfig(jwt_keys='{"keys": []}'))
