"""`agents`, or `python -m core.cli`"""

from __future__ import annotations

import sys

from core.cli.output import EXIT_UNWRITTEN, Outlet
from core.cli.probe import probe

EXIT_INTERRUPTED, EXIT_USAGE = 130, 2


def main() -> int:
    """Runs one command, and returns its exit code. An error is one message on stderr, with the remedy."""
    stdout, _ = Outlet.replacing("stdout", 1), Outlet.replacing("stderr", 2)
    code = _run()
    sys.stdout.flush()
    if stdout.lost:
        print(f"agents: done, but the output cannot be written: {stdout.lost}.", file=sys.stderr)
        return code or EXIT_UNWRITTEN
    return code


def _run() -> int:
    if sys.argv[1:2] == ["healthcheck"] and (exit_code := probe(sys.argv[2:])) is not None:
        return exit_code
    if any(map(is_no_text, sys.argv[1:])):
        print("agents: an argument is not UTF-8. Give it in the encoding of the terminal's locale.", file=sys.stderr)
        return EXIT_USAGE
    from core.cli.app import app  # importing it takes ten times as long as a probe
    from core.cli.render import note
    from core.errors import AgentSystemError
    from core.machine.process_secrets import guard

    guard()  # before anything reads the settings; forks stay guarded
    try:
        app(prog_name="agents")
    except AgentSystemError as error:
        note(f"agents: {error}")
        return error.exit_code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1 if leaving.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def is_no_text(argument: str) -> bool:
    """Whether an argument contains bytes that are not text. Nothing has such a name."""
    return any("\ud800" <= letter <= "\udfff" for letter in argument)


if __name__ == "__main__":
    sys.exit(main())
