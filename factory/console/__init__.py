"""The web console (comes with a later issue; empty for now)."""
