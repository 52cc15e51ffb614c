"""A second count that shares nothing with the census: a plain loop, run as a script by an interpreter of its own.

Reads paths from standard input, each ended by a NUL; prints one JSON object: functions, classes, and the positions of
the paths whose bytes do not parse.
"""

import ast
import json
import sys
import warnings


def main() -> None:
    warnings.simplefilter("ignore")
    functions = classes = 0
    unparsable = []
    for position, path in enumerate(sys.stdin.buffer.read().split(b"\0")[:-1]):
        with open(path, "rb") as file:
            source = file.read()
        try:
            waiting = [ast.parse(source)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            unparsable.append(position)
            continue
        while waiting:
            node = waiting.pop()
            functions += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            classes += isinstance(node, ast.ClassDef)
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                inside = getattr(node, part, ())
                if isinstance(inside, list):  # a lambda's body, say, is an expression
                    waiting.extend(inside)
    json.dump({"functions": functions, "classes": classes, "unparsable": unparsable}, sys.stdout)


if __name__ == "__main__":
    main()
