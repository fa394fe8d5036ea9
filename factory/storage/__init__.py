"""SQLAlchemy tables and the stores that satisfy the ports."""
