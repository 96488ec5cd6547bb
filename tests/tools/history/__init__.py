"""Tests of the commands on the stored updates."""
