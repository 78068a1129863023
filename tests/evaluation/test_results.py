import copy
import math
import os

import pytest

from aajr_hf.evaluation import report


@pytest.mark.parametrize("write", [report.write_json, report.write_report])
class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "high"])
    @pytest.mark.parametrize("field", ["nominal_success", "spectral_norm", "worst_case_cost.2"])
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
