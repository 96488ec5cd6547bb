"""Metrics of the hub: what is counted, where all workers keep it, and how it is shown to Prometheus."""
