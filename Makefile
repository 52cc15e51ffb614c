# Every target does its own set-up: a virtual environment in .venv with the pinned packages. The first time takes
# under a minute, later ones nothing. PYTHON=... chooses the interpreter it is made from.

.DEFAULT_GOAL := help
.PHONY: help demo agents chaos test faults coverage mutants soak lint format types bench clean
.DELETE_ON_ERROR:

BIN := .venv/bin
RUNTIME := .venv/runtime-is-ready
DEMO := .venv/demo-is-ready
DEV := .venv/dev-is-ready
BENCH := .venv/bench-is-ready
MUTANTS := .venv/mutants-is-ready
export PYTHON
unexport PYTHONDONTWRITEBYTECODE  # otherwise each of the many processes compiles all that it imports of ours
MINUTES ?= 30
# The tests that begin and end within this process, or nearly so.
QUICK := tests/test_core.py $(addprefix tests/,unit replay architecture property contract)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO)  ## the whole hierarchy on a real job, result verified; ARGS="--kill worker" passes on
	@$(BIN)/python example_e2e.py $(ARGS)

agents: $(DEMO)  ## a team of agents, one of whose workers is killed, and a question to you; ARGS="--yes" passes on
	@$(BIN)/python -m examples.research_team $(ARGS)

chaos: $(RUNTIME)  ## kills, cuts and restarts at random for a minute, and a verdict; ARGS="--minutes 10 --seed 7"
	@$(BIN)/agents chaos $(ARGS)

# Three at a time on two cores, here and below: tests wait half of their time. docs/testing-the-tests.md has the figures.
test: $(DEV)  ## all tests but those of `faults`; PYTEST_ARGS="-k lease -n 0" passes on
	@$(BIN)/python -m pytest --ignore tests/faults -n 3 $(PYTEST_ARGS)

faults: $(DEV)  ## the fault matrix: every tier, the server and the network fail at every step
	@$(BIN)/python -m pytest tests/faults -n 3 $(PYTEST_ARGS)

coverage: $(DEV)  ## how much of the code the tests without a hierarchy reach, not below a floor
	@$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(QUICK) $(PYTEST_ARGS)

mutants: $(MUTANTS)  ## do the unit tests notice what is changed in the rules? MODULES="core.agents", else all: two hours
	@nice $(BIN)/mutmut run --max-children 1 $(patsubst %,'%.*',$(MODULES))
	@$(BIN)/python -m tests.mutants

soak: $(DEV)  ## constant load, and nothing may grow; MINUTES=30
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

lint: $(DEV)  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(DEV)  ## ruff: mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(DEV)  ## mypy, strict, code and tests
	@$(BIN)/mypy

bench: $(BENCH)  ## speed and memory beside dramatiq; ARGS="--only latency --json bench.json" passes on
	@$(BIN)/python -m tests.bench $(ARGS)

clean:  ## removes .venv and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.txt .ci/setup
	@.ci/setup requirements.txt
	@touch $@

$(DEMO): requirements-demo.txt $(RUNTIME)
	@.ci/setup requirements-demo.txt
	@touch $@

$(DEV): requirements-dev.txt requirements-gateway.txt $(DEMO)
	@.ci/setup requirements-dev.txt
	@touch $@

$(BENCH): requirements-bench.txt requirements-gateway.txt $(RUNTIME)
	@.ci/setup requirements-bench.txt
	@touch $@

$(MUTANTS): requirements-mutants.txt $(DEV)
	@.ci/setup requirements-mutants.txt
	@touch $@
