"""The attempts of this worker: queued, begun, timed, ended."""
