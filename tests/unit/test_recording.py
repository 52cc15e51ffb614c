"""Files of recorded lives: what is in them, how they are bounded, and what a replay says of them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.config.settings import AgentConfig
from core.errors import BadRecording, ConfigError
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.recording.comparison import compared, files_of
from core.recording.life import SHAPE, Beginning, Head, KeptRecord, Turn, head_text, moment_of
from core.recording.life_file import LifeFile, recording_folder
from core.recording.reader import RecordedLife
from core.recording.reads import contents, keep_reads
from core.recording.recorder import Recorded
from core.roles import Action, Address, Role
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.sealing import Sealed, Seals
from core.signing import KeyRing
from core.step import Batch, Step
from distributor.agent import DistributorBehaviour
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, a_batch, a_message
from tests.replay.story import FOLDER

LIFE = "distributor-d1.life-2.txt"
HEAD, BEGINNING = Head(SHAPE, "0.1.0"), Beginning(chain=[str(COORDINATOR)], config={})
TURN = Turn(moment_of(a_batch()), ["wake 5"])


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def life(tmp_path: Path) -> Path:
    """A recorded life, to be changed."""
    return Path(shutil.copy(FOLDER / LIFE, tmp_path / LIFE))


def changed(life: Path, change: Callable[[list[str]], Any]) -> None:
    lines = life.read_text().splitlines(keepends=True)
    change(lines)
    life.write_text("".join(lines))


def place_of_step(lines: list[str]) -> int:
    """Where the first line of a step is."""
    return next(place for place, line in enumerate(lines) if line.startswith("  write"))


def replayed(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["replay", str(folder), *options])


def test_a_replay_of_the_same_code_says_that_all_is_the_same(life: Path) -> None:
    ran = replayed(life.parent)

    batches = life.read_text().count("\nbatch ")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, f"{LIFE}: {batches} batches, all the same\n", "")


def test_another_decision_is_named_with_its_life_its_batch_and_its_line(life: Path) -> None:
    def decide_otherwise(lines: list[str]) -> None:
        place = next(n for n, line in enumerate(lines) if line.startswith("  write") and '"attempt":' in line)
        lines[place] = lines[place].replace('"attempt":', '"attempts":')

    changed(life, decide_otherwise)
    ran = replayed(life.parent)
    [found] = json.loads(replayed(life.parent, "--json").stdout)["lives"]

    assert ran.exit_code == 1
    difference = found["difference"]
    where = f"batch {difference['batch']}, line {difference['line']}"
    assert f"{LIFE}: DIFFERS in {where}, as version {found['version']} recorded it\n" in ran.stdout
    assert '"attempts":' in difference["was"]
    assert difference["is"] == difference["was"].replace('"attempts":', '"attempt":')
    assert (found["agent"], found["batches"]) == ("distributor:d1", difference["batch"])


def test_a_line_too_few_or_too_many_is_a_difference_as_well(life: Path) -> None:
    changed(life, lambda lines: lines.pop(place_of_step(lines)))
    missing = compared(life).difference
    shutil.copy(FOLDER / LIFE, life)
    changed(life, lambda lines: lines.insert(place_of_step(lines) + 1, "  write never happened\n"))
    surplus = compared(life).difference

    assert missing is not None
    assert missing.is_now.startswith("write ")
    assert surplus is not None
    assert surplus.was == "write never happened"


def test_a_torn_last_line_is_left_out_and_said(life: Path) -> None:
    text = life.read_text()
    life.write_text(text[: text.rindex("\n", 0, -1) + 5])

    ran = replayed(life.parent)

    assert (ran.exit_code, ran.stdout.endswith("all the same\n")) == (0, True)
    assert f"{LIFE}: its last line is not whole" in ran.stderr


def test_torn_is_only_the_end(life: Path) -> None:
    changed(life, lambda lines: lines.pop(place_of_step(lines)))
    life.write_text(life.read_text()[:-3])

    assert compared(life).difference is not None


@pytest.mark.parametrize(
    ("place", "line", "said"),
    [
        (0, 'recording {"shape":99,"version":"9.9"}\n', "was written by version 9.9 in another shape (99)"),
        (0, "some text\n", "line 1: a line that begins with 'recording' should be there"),
        (1, 'life {"chain":7}\n', "line 2: "),
        (1, 'life {"chain":["client:c~1"],"config":{}}\n', "what this agent was is not known here"),
        (1, 'life {"chain":["worker:w"],"config":{"no_setting":1}}\n', "what this agent was is not known here"),
        (1, 'life {"chain":["worker:w"],"config":{},"nodes":["route"]}\n', "nodes of its program (route)"),
        (
            1,
            'life {"chain":["coordinator:k"],"config":{},"indexes":{"{coordinator:k}:tasks":["t"]}}\n',
            "today's code fails to take up what this agent had read: StateConflict",
        ),
        (2, "nonsense\n", "line 3: a line that begins with 'batch' should be there"),
        (2, 'batch {"now":"2026-01-01T00:00:00Z","mono_ms":1,"events":[["Flood",{}]]}\n', "batch 1 has something"),
        (2, 'batch {"now":"2026-01-01T00:00:00Z","mono_ms":1,"beats":[{"sender":"x","body":{}}]}\n', "batch 1 has"),
    ],
)
def test_what_cannot_be_read_is_a_clear_error(life: Path, place: int, line: str, said: str) -> None:
    changed(life, lambda lines: lines.__setitem__(place, line))

    ran = replayed(life.parent)

    assert ran.exit_code == 65
    assert LIFE in ran.stderr
    assert said in ran.stderr


def test_a_step_that_failed_fails_again(life: Path) -> None:
    body = a_message(COORDINATOR, DISTRIBUTOR, Action.SUBMIT_TASK).encode().decode()
    letter = f'{{"sender":"coordinator:k","body":{body},"entry":"1-0"}}'
    batch = f'batch {{"now":"2026-01-01T00:00:00Z","mono_ms":1,"messages":[{letter}]}}\n'

    changed(life, lambda lines: lines.extend([batch, "  failed KeyError: 'submit_task'\n"]))
    assert compared(life).difference is None

    changed(life, lambda lines: lines.__setitem__(-1, "  wake 5\n"))
    difference = compared(life).difference
    assert difference is not None
    assert (difference.was, difference.is_now) == ("wake 5", "failed KeyError: 'submit_task'")


def test_the_step_that_failed_is_recorded_as_such(tmp_path: Path) -> None:
    class Failing(DistributorBehaviour):
        def decide(self, batch: Batch) -> Step:
            raise ZeroDivisionError("by\nzero")

    config = AgentConfig(record=tmp_path)
    chain = (COORDINATOR, DISTRIBUTOR)
    behaviour = Recorded(Failing(DISTRIBUTOR, COORDINATOR, config), config)

    async def fail() -> None:
        store = MemoryStore(ServerTime())
        keys = KeyRing.from_secret(SECRET, chain)
        loop = assembled(behaviour, AgentSetup(chain, keys, lambda: MemoryConnection(store), config))
        await loop.committer.leaseholder.acquire()
        await behaviour.load(loop)
        with pytest.raises(ZeroDivisionError):
            behaviour.decide(a_batch())

    run_virtual(fail(), seed=0)
    [turn] = RecordedLife.opened(files_of(tmp_path)[0]).turns()
    assert turn.lines == ["failed ZeroDivisionError: by\\nzero"]


def test_a_folder_without_recordings_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match=f"no recording in {tmp_path}: an agent writes one with `--record"):
        files_of(tmp_path)
    assert BadRecording.exit_code == 65


def test_a_file_is_for_its_owner_and_each_life_has_its_own(tmp_path: Path) -> None:
    folder = recording_folder(tmp_path / "new")
    for _ in range(2):
        LifeFile(folder, DISTRIBUTOR, HEAD, BEGINNING, 10_000).close()

    assert [path.name for path in files_of(folder)] == [f"distributor-distributor-1.life-{n}.txt" for n in (1, 2)]
    assert {path.stat().st_mode & 0o777 for path in files_of(folder)} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_looked_at_ends_the_recording_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "distributor-distributor-1.life-1.txt").symlink_to(tmp_path / "gone")

    life = LifeFile(tmp_path, DISTRIBUTOR, HEAD, BEGINNING, 10_000)
    life.write(TURN)
    life.close()

    assert "its file cannot be made" in caplog.text


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = LifeFile(tmp_path, COORDINATOR, HEAD, BEGINNING, 10_000)
    file.write(TURN)
    file.write(Turn(TURN.moment, []))
    file.close()

    life = RecordedLife.opened(files_of(tmp_path)[0])

    assert (life.head, life.beginning) == (HEAD, BEGINNING)
    assert [(turn.moment, turn.lines) for turn in life.turns()] == [(TURN.moment, ["wake 5"]), (TURN.moment, [])]
    assert (life.torn, life.end) == (False, "")


def test_the_lives_of_an_agent_are_bounded_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 3_000
    for _ in range(30):
        file = LifeFile(tmp_path, COORDINATOR, HEAD, BEGINNING, limit)
        for _ in range(3):
            file.write(TURN)
        file.close()
    files = files_of(tmp_path)

    assert limit - 500 < sum(path.stat().st_size for path in files) <= limit
    ended = [life for life in map(RecordedLife.opened, files) if list(life.turns()) and life.end]
    assert len(ended) <= 1
    assert "the recording of coordinator:coordinator-1 ends: " in caplog.text
    other = LifeFile(tmp_path, DISTRIBUTOR, HEAD, BEGINNING, limit)
    other.close()
    assert len(files_of(tmp_path)) == len(files) + 1


def test_the_end_of_a_recording_that_is_full_is_said(life: Path) -> None:
    changed(life, lambda lines: lines.append("end distributor:d1 has written enough\n"))

    ran = replayed(life.parent)

    assert ran.exit_code == 0
    assert f"{LIFE}: the recording ends before the life: distributor:d1 has written enough." in ran.stderr


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"AGENT_RECORD: .*file/below cannot be used"):
        recording_folder(tmp_path / "file" / "below")


def seals(key_id: str, key: bytes = b"k") -> Seals:
    return Seals({key_id: key})


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        (b'{"a":1}', ""),
        (seals("aaaaaaaa").seal(Sealed.TASK, "t", b'{"a":1}'), "task"),
        (seals("aaaaaaaa").seal(Sealed.CELL, "t", b'{"a":1}'), "cell"),
        (seals("aaaaaaaa").seal(Sealed.TASK, "another's", b'{"a":1}'), "forged"),
        (seals("bbbbbbbb").seal(Sealed.TASK, "t", b'{"a":1}'), "unknown"),
    ],
)
def test_no_seal_is_kept_but_what_became_of_it_is(stored: bytes, kept: str) -> None:
    """With the keys of the replay, a record is again what it was: good, without a seal, forged or foreign."""
    beginning, again = Beginning(chain=[], config={}), Beginning(chain=[], config={})
    keep_reads([(("HGET", "h", "t"), stored)], seals("aaaaaaaa"), beginning)
    new, other = seals("cccccccc", b"n"), seals("dddddddd", b"o")
    [(_, key, name, value)] = contents(beginning, new, other)
    assert isinstance(value, bytes)
    keep_reads([(("HGET", key, name), value)], new, again)

    assert beginning.hashes == {"h": {"t": KeptRecord('{"a":1}', kept)}}
    assert b"mac" not in head_text(HEAD, beginning).encode()
    assert again == beginning


def test_a_store_is_filled_with_all_that_was_read() -> None:
    beginning = Beginning(chain=[], config={})
    reads: list[Any] = [
        (("HSTRLEN", "s", b"5-0"), 3), (("HSTRLEN", "s", ""), 0), (("ZRANGE", "z", 0, -1), [b"b", b"a"]),
        (("HMGET", "h", b"x", b"y"), [b"1", None]), (("HGETALL", "all"), [b"f", b"2"]), (("HGET", "h", "x"), b"later"),
        (("HLEN", "h"), 9),
    ]  # fmt: skip
    keep_reads(reads, seals("aaaaaaaa"), beginning)
    store = MemoryStore(lambda: 0.0)
    session = store.open_session()
    for name, *parts in contents(beginning, seals("aaaaaaaa"), seals("bbbbbbbb")):
        store.execute(session, str(name), [part if isinstance(part, bytes) else part.encode() for part in parts])

    def said(name: str, *parts: bytes) -> Any:
        return store.execute(session, name, parts)

    assert (said("HSTRLEN", b"s", b"5-0"), said("ZRANGE", b"z", b"0", b"-1")) == (3, [b"b", b"a"])
    assert (said("HGETALL", b"h"), said("HGETALL", b"all")) == ([b"x", b"1"], [b"f", b"2"])


def test_clients_have_no_part_in_what_is_kept_of_each_batch() -> None:
    batch = a_batch(sent={COORDINATOR: 4, Address(Role.CLIENT, "*"): 9})

    assert moment_of(batch).sent == {str(COORDINATOR): 4}
