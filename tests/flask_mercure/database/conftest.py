from tests.flask_mercure.databases import database, postgresql, postgresql_server

__all__ = ["database", "postgresql", "postgresql_server"]
