"""`python -m factory.simulation --seeds 300 --events 300`: run seeds, print what happened, exit 1 if a rule broke."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from factory.simulation.campaign import SQLITE_EVERY, run_campaign


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m factory.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed; a failing seed repeats its history")
    parser.add_argument("--events", type=int, default=300, help="happenings per seed")
    parser.add_argument("--sqlite-every", type=int, default=SQLITE_EVERY, help="one seed in so many on SQLite; 0: none")
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that breaks a rule")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        campaign = run_campaign(
            range(given.first, given.first + given.seeds),
            given.events,
            Path(folder),
            stop_at_first=given.stop,
            sqlite_every=given.sqlite_every,
        )
    sys.stdout.write(campaign.summary() + "\n")
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
