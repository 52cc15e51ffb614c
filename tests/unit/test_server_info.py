"""What a server says about itself, and what its refusals mean."""

from __future__ import annotations

import pytest

from core.server_info import (
    Memory,
    explained,
    fields_of,
    is_elsewhere,
    is_other_type,
    memory_of,
    of_another_type,
    passes_soon,
    why_refused,
)

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def test_the_fields_of_info_are_told_from_headings_and_may_have_colons_in_them() -> None:
    info = b"# Memory\r\nused_memory:100\r\n\r\nmaxmemory:0\r\nexecutable:/opt/a:b/\xff\r\n"
    assert fields_of(info) == {"used_memory": "100", "maxmemory": "0", "executable": "/opt/a:b/\ufffd"}


@pytest.mark.parametrize(
    ("info", "memory", "share"),
    [
        ({"used_memory": "300", "mem_not_counted_for_evict": "100", "maxmemory": "400"}, Memory(200, 400), 0.5),
        ({"used_memory": "300", "maxmemory": "400"}, Memory(300, 400), 0.75),
        ({"used_memory": "300", "mem_not_counted_for_evict": "100"}, Memory(200, 0), 0.0),
        ({"mem_not_counted_for_evict": "100", "maxmemory": "400"}, Memory(0, 400), 0.0),
        ({}, Memory(0, 0), 0.0),
    ],
)
def test_memory_is_counted_as_the_server_does_when_it_decides_whether_to_refuse(
    info: dict[str, str], memory: Memory, share: float
) -> None:
    assert memory_of(info) == memory
    assert memory.share == share


@pytest.mark.parametrize(
    ("reply", "passes", "elsewhere", "other_type"),
    [
        ("LOADING Redis is loading the dataset in memory", True, False, False),
        ("BUSY Redis is busy running a script", True, False, False),
        ("TRYAGAIN", True, False, False),
        ("READONLY You can't write against a read only replica.", False, True, False),
        (WRONG_TYPE, False, False, True),
        ("ERR it is LOADING", False, False, False),
        ("ERR READONLY WRONGTYPE", False, False, False),
    ],
)
def test_the_code_of_a_refusal_says_of_which_kind_it_is(
    reply: str, passes: bool, elsewhere: bool, other_type: bool
) -> None:
    assert (passes_soon(reply), is_elsewhere(reply), is_other_type(reply)) == (passes, elsewhere, other_type)


def test_a_refused_command_is_named_with_its_key() -> None:
    assert explained((b"HSET", b"a:\xff", b"v"), "NOPERM no") == "HSET of 'a:\ufffd': NOPERM no"
    assert explained(("HSET", "a:b", "f", 1), "NOPERM no") == "HSET of 'a:b': NOPERM no"
    assert explained((b"EXPIRE", 7), "ERR no") == "EXPIRE of '7': ERR no"


def test_a_key_that_somebody_else_uses_is_named_with_the_cure() -> None:
    told = explained((b"HSET", b"a:b", b"v"), WRONG_TYPE)
    assert told == of_another_type("a:b")
    assert told == (
        "'a:b' is of a type that none of our agents gives it: another application uses that name, or somebody has"
        " written there. RENAME or DEL it, or set REDIS_DB to a database that nobody else uses"
    )


def test_a_server_that_refuses_every_write_is_explained_with_the_cure_and_other_refusals_are_quoted() -> None:
    assert why_refused("OOM command not allowed").endswith("Raise its maxmemory, or wait until there is room again")
    assert why_refused("ERR unknown command OOM") == "ERR unknown command OOM"
