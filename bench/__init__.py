"""Measures the hub beside a floor and beside other hubs; see docs/performance.md."""
