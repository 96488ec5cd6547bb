"""Browsers, as the tests of the examples have them."""

from tests.examples.conftest import chromium

__all__ = ["chromium"]
