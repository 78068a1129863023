"""Fixtures of the tests of commands: a process whose Hub is a small server on this machine, and what makes evaluations short."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from aajr_hf.evaluation.attacks import surrogate
from tests.support import ROOT
from tests.support.hub_server import TOKEN, HubServer
from tests.support.no_drawing import no_drawing  # noqa: F401
from tests.support.short_amplification import short_amplification  # noqa: F401
from tests.support.short_triggers import short_triggers  # noqa: F401
from tests.support.short_trust import short_trust  # noqa: F401


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """`worker.run(command)`, in a process that talks to `worker.hub`."""
    with HubServer() as hub:
        home = tmp_path_factory.mktemp("home")
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")} | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",  # the server has the older protocol alone
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hub_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

        def run(command):
            process.stdin.write(json.dumps([str(c) for c in command] if isinstance(command, list) else command) + "\n")
            process.stdin.flush()
            done = SimpleNamespace(**json.loads(process.stdout.readline()))
            assert TOKEN not in done.out + done.err
            return done

        yield SimpleNamespace(run=run, hub=hub, home=home)
        process.stdin.close()
        process.wait(60)


@pytest.fixture
def copied(agent, tmp_path):
    """An agent whose folder can be damaged."""
    return shutil.copytree(agent, tmp_path / "copied")


@pytest.fixture
def unmeasured(monkeypatch):
    """Nothing is measured: a mistake is found before."""
    monkeypatch.setattr(
        "aajr_hf.evaluation.robustness.evaluate.evaluate_agents", lambda *_, **__: pytest.fail("measured")
    )


@pytest.fixture
def brief(monkeypatch):
    """Surrogates of two steps."""
    monkeypatch.setattr(surrogate, "STEPS", 2)
    monkeypatch.setattr("aajr_hf.cli.commands.evaluate.EXAMPLES", 64)
