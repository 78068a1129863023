"""Results alone on standard output, and no bars and no warnings of other libraries where there is no terminal."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest
from peft import LoraConfig, get_peft_model

from aajr_hf.cli.common.quiet import be_quiet
from tests.support import ROOT
from tests.support.gguf_files import write_gguf
from tests.support.tiny import tiny_model

# In this order and in one process, because imports take longer than all the rest; without `--use_cpu`, which silences one warning.
_COMMANDS = """
import sys
from aajr_hf.cli.main import main
where, run, file = sys.argv[1:]
model = ["--config", "recipes/congestion/aajr.yaml", "--model_name_or_path", where, "--environment_examples", "16"]
assert main(["fetch", "--gguf", file, run + "-fetched"]) == 0
from aajr_hf.evaluation.robustness import trust  # after a command, which silences what an import would make loud
trust.STEPS, trust._UNBOUNDED_STEPS = (1, 2, 4), 4
print("---", flush=True)
assert main(["inspect", *model]) == 0
print("---", flush=True)
assert main(["train", *model, "--max_steps", "1", "--logging_steps", "1", "--output_dir", run]) == 0
print("---", flush=True)
assert main(["evaluate", run, "--examples", "4", "--attack_steps", "1", "--output", run]) == 0
"""
# FutureWarnings of Transformers are about the fields of other versions.
_KNOWN = ("The Jacobian products are exact", "aajr ", "step ", "Attacking ", "  warnings.warn(")


@pytest.mark.slow
def test_commands_print_results_and_no_bars(agent, tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, "-c", _COMMANDS, str(agent), str(tmp_path / "run"), str(tmp_path / "tiny.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    fetched, inspected, trained, evaluated = done.stdout.split("---\n")
    assert [line.split()[0] for line in inspected.splitlines()] == ["Example", "perturbed", "action"]
    assert trained.startswith("Trained: all parameters") and "step 1/1 | " in trained
    assert evaluated.splitlines()[-1].startswith("Report: ")
    assert fetched.startswith("Model saved to ") and fetched.count("\n") == 1
    assert "\r" not in done.stdout and "WARNING" not in done.stdout and "━━ " not in evaluated
    unknown = [
        line for line in done.stderr.splitlines() if not line.startswith(_KNOWN) and "FutureWarning" not in line
    ]
    assert unknown == []


def test_what_deepspeed_logs_is_no_result(capsys, monkeypatch):
    be_quiet()
    be_quiet()
    logger = logging.getLogger("DeepSpeed")
    # As DeepSpeed does when it is imported, after the command has begun; another test may have imported it.
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stdout)])
    monkeypatch.setattr(logger, "propagate", False)
    logger.warning("Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.")
    logger.warning("The optimizer has no kernel.")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "The optimizer has no kernel.\n")


def test_a_name_that_peft_reads_is_no_warning_for_the_user():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        be_quiet()
        get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
        warnings.warn("another old name is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught if warning.category is FutureWarning] == [
        "another old name is deprecated"
    ]
