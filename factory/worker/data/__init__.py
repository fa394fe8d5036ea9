"""Tables in a job: read uploads, write and measure versions; the one importer of duckdb, deltalake and pyarrow."""
