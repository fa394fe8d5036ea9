"""The Python client: `httpx` and `schemas` only. Import `factory.Client` and `factory.job`; see docs/quickstart.md."""
