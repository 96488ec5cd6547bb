"""Answers of a language model, shown as they are made."""
