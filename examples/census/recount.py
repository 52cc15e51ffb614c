"""A second count that shares no code with the census: a plain loop, which runs as a script in a separate interpreter.

It reads NUL-terminated paths from standard input, and prints one JSON object: the numbers of functions and classes, and
the positions of the paths whose bytes do not parse.
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
                if isinstance(inside, list):  # the body of a lambda, for instance, is an expression
                    waiting.extend(inside)
    json.dump({"functions": functions, "classes": classes, "unparsable": unparsable}, sys.stdout)


if __name__ == "__main__":
    main()
