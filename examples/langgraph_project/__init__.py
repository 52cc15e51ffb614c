"""A LangGraph project as others have them: it knows nothing of where it runs."""
