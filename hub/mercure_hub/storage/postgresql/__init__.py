"""The link to a PostgreSQL database, which several machines share."""
