"""scripts/benchmark.py: what it counts, what it measures, and the file it writes, on a model of a few thousand weights."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import benchmark
import pytest
import torch
from benchmark_cases import Case, Model, Variant, cases, theoretical_flops, variants
from benchmark_report import RATIOS, ratios, table

from tests.support.forked import Forked, context

TINY = Case("tiny", "cpu", Model(2, 64, 128, 2), vocabulary=500, length=32, batch=2, action_tokens=8)
VARIANTS = {variant.name: variant for variant in variants("full")}
PROMISED = {
    "plain_vs_sft",
    "adversarial_vs_sft",
    "exact_vs_adversarial",
    "exact_memory_vs_adversarial",
    "amortised_vs_adversarial",
    "amortised_memory_vs_adversarial",
}


@pytest.fixture(scope="module", autouse=True)
def _server():
    """The workers are forked from the server that has imported everything for other tests, too."""
    context()


def test_a_forward_counted_by_hand():
    # Two layers: four matrices 64 x 64 and three 64 x 128 for each of 64 tokens; 32 x 32 scores twice; 16 x 64 x 500.
    linear = 2 * 2 * (4 * 64 * 64 + 3 * 64 * 128) * 64
    attention = 2 * 2 * (2 * 2 * 32 * 32 * 64)
    head = 2 * 16 * 64 * 500
    assert TINY.forward_flops() == linear + attention + head
    assert TINY.sft_forward_flops() == linear + attention + 2 * (2 * 31) * 64 * 500


def test_steps_in_units_of_a_forward():
    forward, layers = TINY.forward_flops(), TINY.layer_flops()

    def units(name):
        return theoretical_flops(TINY, VARIANTS[name]) / forward

    assert units("adversarial") == 9
    assert units("finite_difference") == 27
    assert units("exact") == 24
    # Each of four passes runs its layers again; each of three jvp its layers and their tangents.
    assert units("adversarial_checkpointed") == pytest.approx(9 + 4 * layers / forward)
    assert units("exact_checkpointed") == pytest.approx(27 + 10 * layers / forward)
    assert theoretical_flops(TINY, VARIANTS["plain"]) == 3 * TINY.sft_forward_flops()
    sampled = {"penalty_trajectory": "sample", "penalty_fraction": 0.5, "penalty_interval": 4}
    amortised = Variant("amortised", VARIANTS["exact"].fields | sampled)
    assert theoretical_flops(TINY, amortised) / forward == 9 + 6 / 8
    assert units("adversarial_and_clean") == 12


@pytest.mark.slow
def test_peak_memory_sees_what_is_allocated_and_freed(tmp_path):
    """In a process of its own, as in use: another's memory may be free to be taken without a trace."""
    (tmp_path / "peak.py").write_text(
        """
import contextlib
import json
import torch
from benchmark_worker import PeakMemory
from tests.scripts.test_benchmark import TINY
memory = PeakMemory(TINY)
if memory.start is not None:
    block = torch.ones(2**24)  # 64 MiB
    del block
memory.stop()
print(json.dumps([memory.report(0, 0), memory.report(2**24, 2**23)]))
"""
    )
    process = Forked(tmp_path, "peak", PYTHONPATH=str(tmp_path))
    assert process.wait() == 0, process.err.read_text()
    alone, with_state = json.loads(process.out.read_text().splitlines()[-1])
    if alone is None:
        pytest.skip("the resident set's high-water mark is read from /proc")
    assert alone["above_model_mib"] == pytest.approx(64, abs=8)
    assert with_state["above_model_mib"] - with_state["activations_mib"] == pytest.approx(16 + 8, abs=0.2)


def test_ratios_are_paired_within_rounds():
    # The machine becomes slower by half from round to round: the medians' ratio would be 3 of another round's.
    base = {"step_seconds": {"rounds": [1.0, 2.0, 4.0]}, "memory": {"above_model_mib": 100.0}}
    twice = {"step_seconds": {"rounds": [2.0, 4.0, 9.0]}, "memory": {"above_model_mib": 150.0}}
    values = ratios({"adversarial_and_clean": base, "amortised": twice})
    assert values == {"amortised_vs_adversarial": 2.0, "amortised_memory_vs_adversarial": 1.5}
    without = ratios({"adversarial_and_clean": base | {"memory": None}, "amortised": twice})
    assert without["amortised_memory_vs_adversarial"] is None


@pytest.mark.slow
def test_the_command_measures_and_writes_what_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "cases", lambda preset, device: [TINY])
    files = tmp_path / "benchmark.json", tmp_path / "benchmark.md"
    assert benchmark.main(["--repeats", "2", "--output", str(files[0]), "--markdown", str(files[1])]) == 0

    result = json.loads(files[0].read_text())
    assert result["ratios"].keys() >= PROMISED
    assert all(value is None or value > 0 for value in result["ratios"].values())
    assert result["machine"].keys() >= {"cpu", "cores", "threads", "ram_gib", "device", "os", "python", "torch", "trl"}
    entries = result["cases"]["tiny"]["variants"]
    assert entries.keys() == {variant.name for variant in variants("quick")} == result["flops"].keys()
    timed = {name for name, entry in entries.items() if entry["step_seconds"] is not None}
    assert timed == {name for name in entries if not name.endswith("_checkpointed")}
    assert all(len(entries[name]["step_seconds"]["rounds"]) == 2 for name in timed)
    counts = {name: entry["measured"] / entry["theoretical"] for name, entry in result["flops"].items()}
    # TRL's head forms its logits a second time in the backward, which 3F leaves out.
    assert (
        counts["sft"] == counts["plain"] == pytest.approx(1 + 2 * 62 * 64 * 500 / (3 * TINY.sft_forward_flops()), 0.02)
    )
    for name in counts.keys() - {"sft", "plain"}:
        # Attention inside a jvp is not shared, and its math kernel multiplies masked scores, too.
        assert 0.9 < counts[name] < 1.25, name

    shares = {name: entry["monitoring_share"] for name, entry in entries.items()}
    assert shares["sft"] is None and shares["plain"] is None
    assert 0 < shares["exact"] < 0.2 and 0 < shares["adversarial"] < 0.3

    output = capsys.readouterr().out
    assert files[1].read_text() in output
    tables = [line for line in files[1].read_text().splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= 100
    assert all(f"| {name} " in output for name in PROMISED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "missing/folder/file.json"], "the folder of missing/folder/file.json does not exist"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--only", "nothing"], "--only: no nothing; --preset quick has base"),
        (["--variants", "exact", "nothing"], "--variants: no nothing; --preset quick has sft, plain"),
        (["--preset", "slow"], "--preset: invalid choice"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: PyTorch finds no such device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as status:
        benchmark.main(arguments)
    error = capsys.readouterr().err
    assert status.value.code == 2
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("together", "started"), [(True, [3]), (False, [1] * 6)])
def test_ways_of_training_that_do_not_fit_into_memory_together_run_one_by_one(monkeypatch, together, started):
    asked = []

    @contextlib.contextmanager
    def workers(case, chosen):
        asked.append(len(chosen))
        yield {variant.name: SimpleNamespace(ask=lambda block: 1.5) for variant in chosen}

    monkeypatch.setattr(benchmark, "workers", workers)
    case = replace(cases("smollm2", "cpu")[0], together=together)
    chosen = [variant for variant in variants("smollm2") if variant.name in ("sft", "adversarial", "exact")]
    assert benchmark.measure_time(case, chosen, 2, 1) == {variant.name: [1.5, 1.5] for variant in chosen}
    assert asked == started


def test_a_failing_worker_names_its_case(monkeypatch):
    wrong = Variant("wrong", VARIANTS["exact"].fields | {"penalty_output": "nothing"})
    with pytest.raises(RuntimeError, match="(?s)tiny, wrong:.*`penalty_output` must be one of"):
        benchmark.measure_memory(TINY, wrong)


def test_targets_name_measured_variants():
    known = VARIANTS.keys() | {variant.name for variant in variants("smollm2")}
    assert {ratio.name for ratio in RATIOS} >= PROMISED
    assert {name for ratio in RATIOS for name in (ratio.numerator, ratio.denominator)} <= known
    assert table([["a", "b"], ["one", "2"]]).splitlines() == ["| a   |   b |", "| --- | --: |", "| one |   2 |"]


@pytest.mark.slow
def test_ways_of_training_a_real_model_take_the_operations_of_the_formula(tmp_path, monkeypatch):
    """With a prefix that is computed once, and beside ten sign steps of whole passes."""
    monkeypatch.setattr(benchmark, "cases", lambda preset, device: [replace(TINY, prefix=12)])
    file, names = tmp_path / "benchmark.json", ["sign_loop", "adversarial", "exact"]
    assert benchmark.main(["--preset", "smollm2", "--repeats", "1", "--variants", *names, "--output", str(file)]) == 0
    counts = {
        name: entry["measured"] / entry["theoretical"] for name, entry in json.loads(file.read_text())["flops"].items()
    }
    assert counts.keys() == set(names)
    assert all(0.85 < count < 1.25 for count in counts.values()), counts
    without = theoretical_flops(TINY, VARIANTS["adversarial"])
    assert theoretical_flops(replace(TINY, prefix=12), VARIANTS["adversarial"]) < 0.85 * without
