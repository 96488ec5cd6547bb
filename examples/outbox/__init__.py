"""A list of stock that is published from its database."""
