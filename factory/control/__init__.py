"""The shell: leader lease, tick(now), guarded apply."""
