"""The ports of `core.ports` over plain Redis or Valkey."""
