"""What a budget may be, what is left of several, and what models cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from core.budget import Budget, Ledger, left_of
from core.config.model_prices import Prices, load_prices
from core.errors import BadTask, ConfigError
from core.tasks import Task, check_new


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "budget: it limits nothing; name calls, tokens or cost_usd, or leave the budget out"),
        ({"call": 1}, "budget: 'call' is nothing that it can limit; did you mean 'calls'?"),
        ({"calls": -1}, "budget: 'calls' must be a whole number, 0 or more, of calls of models (got '-1')"),
        ({"calls": True}, "budget: 'calls' must be a whole number, 0 or more, of calls of models (got 'True')"),
        ({"tokens": 1.5}, "budget: 'tokens' must be a whole number, 0 or more, of tokens, in and out (got '1.5')"),
        ({"cost_usd": math.nan}, "budget: 'cost_usd' must be US dollars, from 0 to 1000000 (got 'nan')"),
        ({"cost_usd": math.inf}, "budget: 'cost_usd' must be US dollars, from 0 to 1000000 (got 'inf')"),
    ],
)
def test_a_budget_that_can_mean_nothing_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadTask) as refused:
        Budget(**fields)
    assert str(refused.value) == words
    with pytest.raises(BadTask) as refused:
        Task(task_type="t", budget=fields)
    assert str(refused.value) == words


def test_a_budget_travels_with_its_task_and_costs_nothing_where_there_is_none() -> None:
    task = Task(task_type="t", budget={"calls": 3, "cost_usd": 1})
    assert task.budget == Budget(calls=3, cost_usd=1.0)
    assert Task.from_json(task.to_json()) == task
    check_new(task)
    assert b"budget" not in Task(task_type="t").to_json()
    assert b"grants" not in Task(task_type="t").to_json()
    with pytest.raises(BadTask, match="'budget': expected Budget"):
        Task(task_type="t", budget=3)  # type: ignore[arg-type]
    with pytest.raises(BadTask, match="'grants': the system alone sets it"):
        check_new(Task(task_type="t").evolve(grants=(("t", Budget(calls=1)),)))


def test_what_is_left_is_the_least_of_each_kind() -> None:
    ledger = Ledger(spent={"root": [3, 90, 250_000_000], "child": [1, 70, 0]})
    grants = (("root", Budget(calls=9, tokens=100, cost_usd=0.5)), ("child", Budget(calls=2, tokens=60)))
    assert left_of(grants, ledger) == {"calls": 1, "tokens": 0, "cost_usd": 0.25}
    assert left_of(grants, Ledger(spent=5)) == {"calls": 2, "tokens": 60, "cost_usd": 0.5}


def test_prices_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"small": {"input": 0.15, "output": 0.6}, "*": {"input": 10, "output": 20}}')
    prices = load_prices(file)
    assert prices.cost("small", 1_000_000, 1) == 150_000_600
    assert prices.cost("small", 1, 0) == 150
    assert prices.cost("unheard-of", 1, 1) == 30_000
    assert Prices({}).cost("small", 1, 1) is None
    assert load_prices(None).cost("small", 1, 1) is None


@pytest.mark.parametrize("text", ["", "[]", '{"m": {"input": 1}}', '{"m": {"input": -1, "output": 1}}', None])
def test_a_file_without_prices_is_an_error_that_shows_what_it_needs(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "prices.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r'MODEL_PRICES: .*\{"gpt-5": \{"input": 1\.25, "output": 10\}\}'):
        load_prices(file)
