"""scripts/study.py: files that are there, missing, or damaged."""

from __future__ import annotations

import json
import time

import pytest
import study
from study import Study, restore
from study_settings import METHODS, PRESETS, Run, base_agent, settings_of

from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.robustness.evaluate import nominal_success
from tests.support import SCRIPTS
from tests.support.short_amplification import short_amplification  # noqa: F401
from tests.support.short_trust import short_trust  # noqa: F401
from tests.support.studies import study_run


def test_runs_of_other_worlds_stay_as_they_are(tmp_path):
    preset, results, work = PRESETS["full"], tmp_path / "study.json", tmp_path / "work"
    work.mkdir()
    mine = study_run("aajr", 0, 90, 60, world="commons") | {"settings": settings_of("commons", "aajr", preset, work)}
    others = study_run("aajr", 0, 90, 60, world="congestion") | {"settings": "of another base agent"}
    results.write_text(json.dumps([mine, others]))
    assert restore(results, ["commons"], work, preset) == [others]
    assert [json.loads(file.read_text()) for file in work.glob("*.json")] == [mine]
    # Beside a run of another world, made on another machine, say.
    file = work / f"{Run('congestion', 'aajr', 2e-3, 1e-3, 3, 'result').label}.json"
    made = others | {"seed": 3, "settings": settings_of("congestion", "aajr", preset, work)}
    file.write_text(json.dumps(made))
    assert restore(results, ["commons"], work, preset) == [others]
    file.write_text(json.dumps(made | {"settings": "stale"}))
    with pytest.raises(ValueError, match="--work.*holds runs of other settings or another base agent"):
        restore(results, ["commons"], work, preset)
    file.unlink()
    with pytest.raises(ValueError, match="holds runs of other settings or another base agent"):
        restore(results, ["congestion"], work, preset)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for file in (tmp_path / "study.json", tmp_path / "run.json"):
        file.write_text("[{")
        with pytest.raises(ValueError, match=f"{file.name} cannot be read"):
            restore(tmp_path / "study.json", ["commons"], tmp_path, PRESETS["smoke"])
        file.unlink()


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["study.py", "--work", str(tmp_path / "file" / "sub")])
    with pytest.raises(SystemExit) as status:
        study.main()
    error = capsys.readouterr().err
    assert status.value.code == 2 and error.startswith("error: `--work`: ") and error.count("\n") == 1


def test_where_a_run_fails_the_others_are_not_begun(tmp_path):
    whole = Study("smoke", tmp_path, 1, "cpu", 3)
    begun = []

    def fail(run, file):
        begun.append(run.seed)
        time.sleep(0.2)  # or all have failed before the first failure is seen
        raise RuntimeError("failed")

    whole._measure = fail
    with pytest.raises(RuntimeError, match="failed"):
        whole.results([Run("commons", "aajr", 1e-3, 1e-6, seed, "result") for seed in range(9)])
    assert len(begun) < 9


@pytest.mark.parametrize("world", PRESETS["full"].worlds)
def test_every_world_has_a_base_agent_beside_the_results(world, tmp_path):
    agent = load_agent(str(base_agent(world, tmp_path)))
    assert nominal_success(*agent, held_out_rows(world, 100, seed=0)) >= 97


def test_every_method_is_a_recipe_that_is_there():
    for method in METHODS.values():
        assert (SCRIPTS.parent / "recipes" / "congestion" / f"{method.recipe}.yaml").is_file()
