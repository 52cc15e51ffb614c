"""Host processes, each of which runs many graphs on one event loop: the worker's side and the host's."""
