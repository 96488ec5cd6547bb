"""Settings: one table, and what reads them."""
