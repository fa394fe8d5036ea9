"""The pure scheduler: snapshot -> plan, and explain."""
