"""The code census and hot-spot review: the job that `example_e2e.py` runs through the hierarchy.

    census.plan ──▶ census.review, once per chunk ──▶ census.reduce

`plan` walks the tree and cuts the list of files into chunks of equal weight. `review` is a LangGraph agent that
measures one chunk and examines its too complex functions. `reduce` adds up and ranks the results. All three are defined
in `example_e2e.py`. Their work is done here, together with what makes a demo of them: the options, the hierarchy that
is started and watched, the report and the verification.

It counts all regular files `*.py` below a directory, except those below a `site-packages` or `__pycache__`. Symbolic
links are neither counted nor followed.

    files          such files
    lines          newline bytes, as `wc -l`
    bytes          as `wc -c`
    functions      FunctionDef and AsyncFunctionDef nodes, of the files that parse
    classes        ClassDef nodes, of the files that parse
    unparsable     files whose bytes `ast.parse` does not accept
    complex        functions with a McCabe complexity above 10 as ruff's rule C901 counts it. Like ruff, it reads
                   UTF-8 only: a file in another encoding has functions and classes, and no complex ones.
    inputs_sha256  sha256 of what `sha256sum` prints for the relative paths in the order of their bytes
"""
