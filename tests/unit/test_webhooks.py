"""Whom a gateway may call, how it signs that, and when it tries again."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest

from core.errors import BadWebhook
from core.webhooks import MAX_TRIES, WebhookRules, allowed_hosts, retry_delay_s, signature

HOSTS = allowed_hosts("hooks.example.com, *.Example.org ,10.1.0.0/16,127.0.0.1,fd00::/8")


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example.com/x?y=1", "http://a.example.org:8080", "http://10.1.2.3/", "http://[fd00::1]:80/x"],
)
def test_a_host_that_is_allowed_may_be_called(url: str) -> None:
    HOSTS.check(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/", "host 'example.com' is not allowed"),
        ("https://hooks.example.com.evil.net/", "is not allowed"),
        ("https://example.org/", "is not allowed"),
        ("http://10.2.0.1/", "address 10.2.0.1 is not allowed"),
        ("http://8.8.8.8/", "address 8.8.8.8 is not allowed"),
        ("http://[::1]/", "address ::1 is not allowed"),
        ("http://[::ffff:127.0.0.1]/", "is not allowed"),
        ("http://[::127.0.0.1]/", "is not allowed"),
        ("http://2130706433/", "is not allowed"),
        ("http://127.1/", "is not allowed"),
        ("http://localhost/", "is not allowed"),
        ("https://hooks.example.com@evil.net/", "leave the user"),
        ("https://@hooks.example.com/", "leave the user"),
        ("https://evil.net\\\\@hooks.example.com/", "leave the user"),
        ("https://hooks.example.com:-1/", "this is no URL"),
        ("http://0x7f.1/", "is not allowed"),
        ("http://169.254.169.254/latest", "is not allowed"),
        ("ftp://hooks.example.com/", "give a URL as https"),
        ("hooks.example.com", "give a URL as https"),
        ("https://", "give a URL as https"),
        ("https://[x/", "this is no URL"),
        ("https://hooks.example.com:99999/", "this is no URL"),
        ("https://me:secret@hooks.example.com/", "leave the user"),
        ("https://hooks.example.com/" + "x" * 2000, "at most 2000 characters"),
    ],
)
def test_any_other_is_refused_with_the_cure(url: str, said: str) -> None:
    with pytest.raises(BadWebhook, match=said.replace("'", ".")):
        HOSTS.check(url)


def test_without_a_secret_nobody_is_called() -> None:
    with pytest.raises(BadWebhook, match="set its WEBHOOK_SECRET"):
        WebhookRules(HOSTS).check("https://hooks.example.com/")
    WebhookRules(HOSTS, "secret").check("https://hooks.example.com/")
    assert "secret'" not in repr(WebhookRules(HOSTS, "secret"))


@pytest.mark.parametrize(
    ("addresses", "reached"),
    [
        (["93.184.216.34"], "93.184.216.34"),
        (["192.168.0.1", "93.184.216.34"], "93.184.216.34"),
        (["10.1.9.9"], "10.1.9.9"),
        (["127.0.0.1"], "127.0.0.1"),
        (["127.0.0.2"], None),
        (["169.254.169.254"], None),
        (["0.0.0.0"], None),
        (["224.0.0.1"], None),
        (["::ffff:192.168.0.1"], None),
        (["2002:c0a8:0001::1"], None),
        (["64:ff9b::c0a8:1"], None),
        (["64:ff9b:1::c0a8:1"], None),
        (["::192.168.0.1"], None),
        (["::ffff:0:192.168.0.1"], None),
        (["::1"], None),
        (["::"], None),
        (["fe80::1%eth0"], None),
        ([], None),
    ],
)
def test_a_name_leads_to_public_addresses_and_allowed_networks_only(addresses: list[str], reached: str | None) -> None:
    assert HOSTS.reachable(addresses) == reached


@pytest.mark.parametrize("text", ["*", "*.", "http://x", "a b", "10.0.0.0/99", "10.1.2.3/8"])
def test_what_is_neither_a_host_nor_a_network_is_no_setting(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a host nor a network"):
        allowed_hosts(text)


def test_a_receiver_can_check_who_has_sent_a_body_and_when() -> None:
    mac = hmac.new(b"secret", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert signature("secret", 1_700_000_000, b'{"a":1}') == f"t=1700000000,v1={mac}"


def test_pauses_double_and_differ_by_id() -> None:
    pauses = [retry_delay_s("run", tries) for tries in range(1, MAX_TRIES)]
    assert all(2 ** (tries - 1) / 2 <= pause <= 2 ** (tries - 1) for tries, pause in enumerate(pauses, 1))
    assert 1000 < sum(pauses) < 3600
    assert all(before < after * 1.5 for before, after in itertools.pairwise(pauses))
    assert retry_delay_s("other", 5) != retry_delay_s("run", 5)
