"""The link to an SQLite database, which the processes of one machine share."""
