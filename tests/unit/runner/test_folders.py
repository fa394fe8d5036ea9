"""Files that join replicas and attempts."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from factory.domain.jobs import EndReason
from factory.worker.folders import NodeFolder, read_json, start_ticks, write_durably, write_once, write_to_fifo
from factory.worker.stopping import StopSignal


def test_a_rank_is_claimed_by_the_first_and_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    won = [write_once(path, {"replica": name}) for name in ("r1", "r2")]

    assert won == [True, False]
    assert read_json(path) == {"replica": "r1"}
    assert os.listdir(tmp_path) == ["claim.json"]


def test_of_many_claims_at_once_exactly_one_wins(tmp_path: Path) -> None:
    path, won = tmp_path / "claim.json", []
    gate = threading.Barrier(8)

    def claim(name: str) -> None:
        gate.wait()
        if write_once(path, {"replica": name}):
            won.append(name)

    threads = [threading.Thread(target=claim, args=(f"r{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert read_json(path) == {"replica": won[0]}


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    write_durably(tmp_path / "a" / "outcome.json", {"n": 1})
    write_durably(tmp_path / "a" / "outcome.json", {"n": 2})

    assert read_json(tmp_path / "a" / "outcome.json") == {"n": 2}
    assert (tmp_path / "a" / "outcome.json").stat().st_mode & 0o077 == 0
    (tmp_path / "broken").write_text("{")
    assert read_json(tmp_path / "broken") is None


def test_a_nudge_without_an_agent_is_no_error(tmp_path: Path) -> None:
    node = NodeFolder(tmp_path / "n1")
    node.nudge()
    node.create()
    node.nudge()

    assert not write_to_fifo(node.fifo, b"!\n")


def test_ranks_are_listed_with_attempt_and_number(tmp_path: Path) -> None:
    node = NodeFolder(tmp_path)
    node.create()
    for rank in (0, 1):
        write_once(node.rank("job-a.1", rank).claim, {"replica": f"r{rank}"})

    assert [(attempt, rank) for attempt, rank, _ in node.ranks()] == [("job-a.1", 0), ("job-a.1", 1)]


def test_our_own_start_time_is_known_and_a_missing_process_has_none() -> None:
    assert start_ticks(os.getpid())
    assert start_ticks(2**22 + 1) is None


def test_the_notice_to_stop_is_heard_through_the_pipe_with_its_reason(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path).rank("job-a.1", 0)
    folder.path.mkdir(parents=True)
    stop = StopSignal(folder)
    heard = threading.Event()
    stop.listen()
    stop.on_stop(heard.set)

    write_once(folder.stop, {"reason": "Preempted", "at": 5})
    assert write_to_fifo(folder.control, b"stop\n")

    assert heard.wait(10)
    assert stop.is_set
    assert stop.reason is EndReason.PREEMPTED


def test_a_notice_that_came_first_is_heard_at_once(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path).rank("job-a.1", 0)
    write_once(folder.stop, {"reason": "Cancelled", "at": 5})
    stop = StopSignal(folder)
    stop.listen()

    assert stop.wait(10)
