"""The ``MERCURE_`` keys of ``app.config``: the table, its readers, and the configuration of each hub."""
