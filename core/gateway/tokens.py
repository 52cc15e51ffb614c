"""Who asks, by a JSON Web Token: the algorithm is fixed, and audience, issuer and expiry have to be right.

A token says in `sub` who it is, in `role` which role that is (see CallerRole), and in `tenant` whose tasks are meant,
if not all. Its header names in `kid` the key that checks it. While keys are changed both are in the set.
"""

from __future__ import annotations

import jwt
import orjson

from core.config.settings import GatewayConfig
from core.config.variables import BadSetting, secret_text
from core.errors import ConfigError
from core.gateway.access import NAME, Caller, CallerRole
from core.gateway.problems import Problem

__all__ = ["Tokens"]

#: A shorter secret can be found by trying.
MIN_SECRET_BYTES = 32
#: No token expires later, s since 1970: an integer of JSON may have any length.
FOR_EVER_S = 2**40
#: The type of key that each algorithm is used with, as a set names it. So a public key cannot be taken for a secret.
KEY_TYPES = {"HS256": "oct", "RS256": "RSA", "EdDSA": "OKP"}


class Tokens:
    """Checks tokens."""

    def __init__(self, config: GatewayConfig) -> None:
        """Raises ConfigError for a set of keys that cannot check tokens of the configured algorithm."""
        self._algorithm = config.jwt_algorithm
        self._audience, self._issuer, self._leeway_s = config.jwt_audience, config.jwt_issuer, config.jwt_leeway_s
        text = secret_text(config.jwt_keys)
        if text and not self._issuer:
            raise BadSetting(
                "GATEWAY_JWT_ISSUER", "GATEWAY_JWT_KEYS needs it. Set it to what `iss` of the tokens says."
            )
        self._keys = _keys_in(text, config.jwt_algorithm) if text else {}

    def __bool__(self) -> bool:
        """Whether any token can be right."""
        return bool(self._keys)

    def whose(self, token: str) -> Caller:
        """Who has this token. Raises Problem, with what is wrong with it."""
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise Problem(401, "the token is of no key that is known here; its header names the key in `kid`")
            claims = jwt.decode(
                token, key, algorithms=[self._algorithm], audience=self._audience, issuer=self._issuer,
                leeway=self._leeway_s, options={"require": ["exp", "aud", "iss", "sub"]},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise Problem(401, f"the token is not accepted: {_why(error)}") from None
        role, tenant, name = claims.get("role"), claims.get("tenant"), claims["sub"]
        if role not in tuple(CallerRole):
            raise Problem(401, f"the token is not accepted: its `role` is none of {', '.join(CallerRole)}")
        if not NAME.fullmatch(name) or not (tenant is None or (isinstance(tenant, str) and NAME.fullmatch(tenant))):
            raise Problem(401, f"the token is not accepted: `sub` or `tenant` does not match {NAME.pattern}")
        return Caller(name, CallerRole(role), tenant, until_s=min(int(claims["exp"]), FOR_EVER_S) + self._leeway_s)


def _why(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired; get a new one"
        case jwt.InvalidAudienceError() | jwt.InvalidIssuerError():
            return "its `aud` or `iss` is not what this gateway asks for"
        case jwt.MissingRequiredClaimError():
            return f"it has no `{error.claim}`"
        case jwt.InvalidAlgorithmError():
            return "it is signed by another algorithm than this gateway asks for"
        case jwt.ImmatureSignatureError():
            return "it is not valid yet"
    return "its signature is wrong, or it is no token"


def _keys_in(text: str, algorithm: str) -> dict[str, jwt.PyJWK]:
    """The keys of a set by their ids. Raises ConfigError."""
    try:
        entries = orjson.loads(text)["keys"]
        keys = {entry["kid"]: jwt.PyJWK(entry, algorithm) for entry in entries if isinstance(entry["kid"], str)}
        fitting = all(entry["kty"] == KEY_TYPES[algorithm] for entry in entries)
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):  # what is wrong is not told: it may quote a secret
        raise _bad_keys("it is no JSON Web Key Set in which each key has a `kid`") from None
    if not keys or not fitting:
        raise _bad_keys(f'GATEWAY_JWT_ALGORITHM={algorithm} needs keys with "kty": "{KEY_TYPES[algorithm]}"')
    for kid, key in keys.items():
        if algorithm == "HS256" and len(key.key) < MIN_SECRET_BYTES:
            raise _bad_keys(f"the key {kid[:40]!r} has fewer than {MIN_SECRET_BYTES} bytes")
    return keys


def _bad_keys(problem: str) -> ConfigError:
    return BadSetting("GATEWAY_JWT_KEYS", f'{problem}. It looks like {{"keys": [{{"kty": ..., "kid": ..., ...}}]}}.')
