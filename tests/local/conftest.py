"""The fixtures of users' own tests, as their pytest finds them by the entry point of the package."""

from __future__ import annotations

from core.local.pytest_plugin import events, hierarchy, kill, pytest_pyfunc_call, questions, submit_and_wait

__all__ = ["events", "hierarchy", "kill", "pytest_pyfunc_call", "questions", "submit_and_wait"]
