"""The engine of several machines: Redis or Valkey."""
