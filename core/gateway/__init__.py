"""The door for everybody else: the hierarchy over HTTP, as clients of LangGraph's own server know it."""
