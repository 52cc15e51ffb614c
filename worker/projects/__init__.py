"""LangGraph projects: what a `langgraph.json` says, and the graphs that it names."""
