"""The parts of the embedded server; `core.embedded_server.embedded` is the way in.

What the supervisor imports is kept small, since that process stays: no client library, no pydantic.
"""
