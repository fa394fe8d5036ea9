"""Many seeds: run them, count what happened, and say which ones broke a rule."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from factory.simulation.chance import VirtualClock
from factory.simulation.stores import RealStore
from factory.simulation.world import World
from factory.storage import migrate
from factory.storage.store import SqlStore

__all__ = ["Campaign", "Failure", "run_campaign"]

SQLITE_EVERY = 50  # one seed in so many lives on SQLite instead of in memory


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose history broke a rule, or an assumption of the code."""

    seed: int
    error: Exception

    def __str__(self) -> str:
        return f"seed {self.seed}: {type(self.error).__name__}: {self.error}"


@dataclass(slots=True)
class Campaign:
    """What came of it."""

    seeds: int = 0
    sqlite_seeds: int = 0
    commits: int = 0
    jobs: int = 0
    events: Counter[str] = field(default_factory=Counter[str])  # of jobs, by type
    happenings: Counter[str] = field(default_factory=Counter[str])  # faults and calls, by name
    failures: list[Failure] = field(default_factory=list[Failure])

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [
            f"{self.seeds} seeds ({self.sqlite_seeds} on SQLite), {self.jobs} jobs, {self.commits} commits checked, "
            f"{sum(self.events.values())} job events",
            "job events: " + ", ".join(f"{name} {n}" for name, n in self.events.most_common()),
            "happenings: " + ", ".join(f"{name} {n}" for name, n in self.happenings.most_common()),
        ]
        lines.extend(str(failure) for failure in self.failures)
        lines.append(f"{len(self.failures)} seeds broke a rule" if self.failures else "every rule held in every seed")
        return "\n".join(lines)


def run_campaign(
    seeds: Iterable[int], events: int, folder: Path, *, stop_at_first: bool = False, sqlite_every: int = SQLITE_EVERY
) -> Campaign:
    """Run every seed.

    Args:
        events: happenings per seed.
        folder: an existing, empty one, for the SQLite files; what is made there is removed again.
        stop_at_first: return at the first failure.
        sqlite_every: 0 = never.
    """
    campaign = Campaign()
    for seed in seeds:
        on_sqlite = sqlite_every > 0 and seed % sqlite_every == sqlite_every - 1
        world = World(seed, _sqlite(folder, seed) if on_sqlite else None)
        try:
            world.run(events)
        except Exception as exc:  # a seed that fails must not hide the others
            campaign.failures.append(Failure(seed, exc))
        finally:
            world.real.close()
            if on_sqlite:
                shutil.rmtree(folder / f"seed-{seed}", ignore_errors=True)
        campaign.seeds += 1
        campaign.sqlite_seeds += on_sqlite
        campaign.commits += world.checker.commits
        campaign.jobs += len(world.checker.jobs)
        campaign.events += world.checker.kinds
        campaign.happenings += world.counts
        if campaign.failures and stop_at_first:
            break
    return campaign


def _sqlite(folder: Path, seed: int) -> Callable[[VirtualClock], RealStore]:
    """Open a fresh database, copied from one that was migrated once."""
    template = folder / "template" / "factory.db"
    if not template.exists():
        template.parent.mkdir(parents=True)
        migrate.upgrade(f"sqlite:///{template}")
    path = folder / f"seed-{seed}" / "factory.db"
    path.parent.mkdir()
    shutil.copy(template, path)

    def open_real(clock: VirtualClock) -> RealStore:
        return SqlStore(f"sqlite:///{path}", clock=clock, writer_thread=False, connections=2)

    return open_real
