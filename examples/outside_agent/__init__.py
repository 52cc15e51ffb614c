"""An agent outside the hierarchy, which takes its tasks from a gateway over HTTP: in Python and in JavaScript."""
