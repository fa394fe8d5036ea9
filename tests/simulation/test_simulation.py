"""DESIGN §4, rules 2 to 8, over whole histories of the real control plane, runner decision and store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from factory.simulation.__main__ import main
from factory.simulation.campaign import Campaign, run_campaign
from factory.simulation.checking import InvariantViolation
from factory.simulation.world import World
from tests.simulation.bugs import BUGS

EVENTS = 300


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return run_campaign(range(300), EVENTS, tmp_path_factory.mktemp("seeds"))


def test_every_rule_holds_in_300_seeds_of_300_events(campaign: Campaign) -> None:
    assert campaign.failures == [], campaign.summary()
    assert (campaign.seeds, campaign.sqlite_seeds) == (300, 6)


def test_the_seeds_reach_every_fault_and_every_event(campaign: Campaign) -> None:
    rare = {
        "PreemptRequested", "Held", "Queued", "StopRequested", "AttemptUnknown", "AttemptFound", "SuspendRequested",
    }  # fmt: skip
    assert all(campaign.events[name] >= 10 for name in rare), campaign.summary()
    faults = {
        "crashes", "fenced", "refused", "reports lost", "reports doubled", "reports ignored", "effects refused",
        "reports of an older process", "preempted", "lose_machine", "kill_process", "kill_plane",
        "restart_runner", "pause", "jump",
    }  # fmt: skip
    assert all(campaign.happenings[name] >= 10 for name in faults), campaign.summary()


def test_a_seed_is_a_whole_history() -> None:
    twins = [World(7), World(7)]
    for twin in twins:
        twin.run(EVENTS)
    assert twins[0].checker.jobs == twins[1].checker.jobs
    assert twins[0].counts == twins[1].counts


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found_within_300_seeds(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bug(monkeypatch)
    found = run_campaign(range(300), EVENTS, tmp_path, stop_at_first=True, sqlite_every=0)
    assert len(found.failures) == 1, f"{bug.__name__} was not found in {found.seeds} seeds"
    assert isinstance(found.failures[0].error, InvariantViolation), found.failures[0]


def test_the_command_says_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--events", "50", "--sqlite-every", "0"]) == 0
    assert "every rule held in every seed" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_every_rule_holds_in_10000_seeds(tmp_path: Path) -> None:
    campaign = run_campaign(range(10_000), EVENTS, tmp_path)
    assert campaign.failures == [], campaign.summary()
