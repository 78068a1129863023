"""A command that shows nothing for a while says that it goes on."""

from __future__ import annotations

import sys
import time

import pytest

from aajr_hf.cli.common import progress
from aajr_hf.cli.common.heartbeat import Heartbeat, clock
from aajr_hf.cli.main import main


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")])
def test_clock(seconds, expected):
    assert clock(seconds) == expected


def wait_for(capsys, text: str) -> str:
    """What is on standard error once the text is."""
    said, deadline = "", time.monotonic() + 60
    while text not in said and time.monotonic() < deadline:
        time.sleep(0.05)
        said += capsys.readouterr().err
    assert text in said
    return said


@pytest.mark.slow
def test_it_says_what_is_done_now(capsys):
    beat = Heartbeat(every=0.1)
    with beat.running("aajr merge"):
        assert wait_for(capsys, "aajr merge | ").startswith("aajr merge | 0:00 passed\n")
        with beat.during(lambda: "step 1/2"):
            wait_for(capsys, "step 1/2 | ")
        wait_for(capsys, "aajr merge | ")
    capsys.readouterr()
    time.sleep(0.5)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_its_clock_is_that_of_what_is_done(capsys):
    """As in the lines of training's log, whose clock starts with the training."""
    beat = Heartbeat(every=0.1)
    with beat.running("aajr train"):
        time.sleep(1.2)
        with beat.during(lambda: "step 1/2 is running"):
            assert "step 1/2 is running | 0:00 passed\n" in wait_for(capsys, "step 1/2 is running | ")
        assert "aajr train | 0:00 passed" not in wait_for(capsys, "aajr train | ")


@pytest.mark.slow
def test_it_is_silent_where_something_else_is_shown(capsys):
    beat = Heartbeat(every=0.5)
    with beat.running("aajr merge"):
        with beat.during(None):
            time.sleep(1.5)
        for _ in range(30):
            beat.shown()
            time.sleep(0.01)
    assert capsys.readouterr().err == ""


def test_where_there_is_no_terminal_its_lines_stand_for_the_bars(capsys, monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", beat := Heartbeat(every=0.1))
    with beat.running("aajr evaluate"), progress.bars() as bars:
        first, second = (bars.add_task(f"Attacking {name}", total=3) for name in "ab")
        wait_for(capsys, "Attacking a 0/3, Attacking b 0/3 | ")
        bars.advance(first, 3)
        bars.advance(second)
        wait_for(capsys, "\nAttacking b 1/3 | ")
    assert capsys.readouterr().out == ""


def test_every_command_has_one(capsys, monkeypatch):
    monkeypatch.setattr("aajr_hf.cli.common.heartbeat.HEARTBEAT", Heartbeat(every=0.1))
    monkeypatch.setitem(sys.modules, "aajr_hf.cli.commands.env", SlowCommand(lambda: wait_for(capsys, "aajr env | ")))
    assert main(["env"]) == 0
    # Of several processes, the first one speaks for all.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setitem(sys.modules, "aajr_hf.cli.commands.env", SlowCommand(lambda: time.sleep(0.5)))
    capsys.readouterr()
    assert main(["env"]) == 0 and capsys.readouterr().err == ""


class SlowCommand:
    def __init__(self, work):
        self.work = work

    def run(self, argv):
        self.work()


def test_names_in_bars_are_no_markup(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    with progress.bars() as bars:
        bars.add_task("Attacking [/red]", total=1)
    assert "Attacking [/red]" in capsys.readouterr().err
