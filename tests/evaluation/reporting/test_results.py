import copy
import math
import os

import pytest

from aajr_hf.evaluation.reporting import report
from aajr_hf.evaluation.reporting.results import headline


@pytest.mark.parametrize("write", [report.write_json, report.write_report])
class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "high"])
    @pytest.mark.parametrize("field", ["nominal_success", "spectral_norm", "worst_case_cost.1"])
    def test_names_run_and_field_and_writes_nothing(self, results, tmp_path, write, field, bad):
        name, _, multiple = field.partition(".")
        run = results["runs"]["aajr"]
        if multiple:
            run[name][multiple] = bad
        else:
            run[name] = bad
        with pytest.raises(ValueError, match=f"'aajr', field '{field}'"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_radius_that_one_run_lacks(self, results, tmp_path, write):
        del results["runs"]["sft"]["sampled_worst_case_success"]["1"]
        with pytest.raises(ValueError, match="'sft', field 'sampled_worst_case_success.1'"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_seconds_and_settings(self, results, tmp_path, write):
        broken = copy.deepcopy(results)
        broken["runs"]["sft"]["train_seconds"] = math.nan
        with pytest.raises(ValueError, match="'sft', field 'train_seconds'"):
            write(broken, tmp_path / "out")
        results["settings"]["learning_rate"] = math.inf
        with pytest.raises(ValueError, match="learning_rate"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_no_runs(self, results, tmp_path, write):
        with pytest.raises(ValueError, match="no runs"):
            write(results | {"runs": {}}, tmp_path / "out")

    def test_results_of_another_version(self, results, tmp_path, write):
        for version, words in (
            (None, "old attack, which used only the expected cost"),
            (3, "version 3, but .* reads version 2"),
        ):
            with pytest.raises(ValueError, match=f"{words}.*: evaluate the agents again with `aajr evaluate`"):
                write(results | {"version": version}, tmp_path / "out")
        del results["version"]
        with pytest.raises(ValueError, match="old attack"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("kind", [None, "tool_calls", "comparison"])
    def test_results_of_another_kind(self, results, tmp_path, write, kind):
        with pytest.raises(ValueError, match=f"of kind {kind!r}, but 'robustness' is needed.*`read_results`"):
            write(results | {"kind": kind}, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("field", ["epsilon", "epsilon_mode", "perturbation_norm", "perturbed_tokens"])
    def test_threat_model(self, results, tmp_path, write, field):
        threat_model = {name: value for name, value in results["threat_model"].items() if name != field}
        with pytest.raises(ValueError, match=f"threat_model, field '{field}'"):
            write(results | {"threat_model": threat_model}, tmp_path / "out")
        del results["threat_model"]
        with pytest.raises(ValueError, match="threat_model"):
            write(results, tmp_path / "out")

    @pytest.mark.parametrize(
        ("kind", "field", "multiple", "bad", "length"),
        [
            ("intervals", "nominal_success", None, [1.0], 2),
            ("intervals", "sampled_worst_case_success", "1", None, 2),
            ("outcomes", "sampled_success", None, [0.5] * 999, 1000),
            ("outcomes", "worst_case_success", "1", None, 1000),
        ],
    )
    def test_shares_without_interval_or_outcomes(self, results, tmp_path, write, kind, field, multiple, bad, length):
        run = results["runs"]["sft"]
        if multiple:
            run[kind][field][multiple] = bad
        else:
            run[kind][field] = bad
        path = ".".join(filter(None, (kind, field, multiple)))
        with pytest.raises(ValueError, match=f"'sft', field '{path}': expected {length} numbers"):
            write(results, tmp_path / "out")
        del run[kind]
        with pytest.raises(ValueError, match=f"'sft', field '{kind}.nominal_success'"):
            write(results, tmp_path / "out")

    def test_trust_and_examples(self, results, tmp_path, write):
        broken = copy.deepcopy(results)
        broken["runs"]["sft"]["examples"] = 999
        with pytest.raises(ValueError, match="'sft', field 'examples': 999, but 1000 in the first run"):
            write(broken, tmp_path / "out")
        del results["runs"]["aajr"]["trust"]
        with pytest.raises(ValueError, match="'aajr', field 'trust'"):
            write(results, tmp_path / "out")


def test_sentences_speak_of_the_radius_nearest_to_training(results):
    assert headline(results) == "1"
    for run in results["runs"].values():
        run["worst_case_success"] = {"0.5": 3.0, "1.25": 2.0, "4": 1.0}
    assert headline(results) == "1.25"
