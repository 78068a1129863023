"""
Check that the tests find faults. The script puts each of twenty-four faults into its own copy of the package, and runs
the tests that should find it.

    python scripts/faults.py            # all of them; several minutes
    python scripts/faults.py --fast     # with the tests of `scripts/test.sh --fast` alone
    python scripts/faults.py --only "an attack goes down"

A fault counts as found if a test fails. The script prints one line per fault. The exit status is 1 if no test finds a
fault, or if the text to replace no longer exists.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The selection of `scripts/test.sh --fast`.
FAST = "not slow and not distributed"


@dataclass(frozen=True)
class Fault:
    """
    Attributes:
        name: What the fault does.
        file: File to change, relative to `aajr_hf/`.
        right, wrong: Text that the file contains exactly once, and its replacement.
        tests: Tests that should find the fault, relative to `tests/`.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = [
    Fault(
        "a projection leaves the ball",
        "objective/_perturbation.py",
        "return torch.where(norm > epsilon, rescaled",
        "return torch.where(norm > 2 * epsilon, rescaled",
        "objective/test_perturbation.py",
    ),
    Fault(
        "directions are not normalised",
        "objective/_ascent.py",
        "directions.append(before.gradient / per_example(norm + EPS0, before.gradient))",
        "directions.append(before.gradient)",
        "objective/test_ascent.py",
    ),
    Fault(
        "the penalty is a sum over steps",
        "objective/_jacobian.py",
        "trajectory, estimator=estimator).mean(dim=0)",
        "trajectory, estimator=estimator).sum(dim=0)",
        "objective/test_jacobian.py",
    ),
    Fault(
        "finite differences are one-sided in width",
        "objective/_jacobian.py",
        "width = 2 * per_example(",
        "width = 1 * per_example(",
        "objective/test_jacobian.py",
    ),
    Fault(
        "the perturbation moves padding",
        "training/data/batch.py",
        "perturbable = perturbable_tokens(inputs, perturbed_tokens) & mask.bool()",
        "perturbable = perturbable_tokens(inputs, perturbed_tokens)",
        "training/data training/trainers/test_sft.py",
    ),
    Fault(
        "the adversarial loss is that of the clean prompt",
        "training/trainers/base.py",
        "logits, aux_loss = system.policy(model, seed)(ascent.delta), None",
        "logits, aux_loss = system.policy(model, seed)(), None",
        "training/trainers/test_sft.py",
    ),
    Fault(
        "lambda is not divided over accumulated micro-batches",
        "training/trainers/penalty.py",
        "weight = self._lambda / self._accumulation(num_items)",
        "weight = self._lambda",
        "training/trainers/test_sft.py",
    ),
    Fault(
        "a control variate is added and not taken away again",
        "training/trainers/penalty.py",
        "rest = rest - known[penalised.rows].mean()",
        "rest = rest - 0 * known[penalised.rows].mean()",
        "training/adversary/test_penalty_sampling.py",
    ),
    Fault(
        "always the first points are drawn",
        "training/adversary/penalty_sampling.py",
        "torch.randperm(examples, generator=generator)[:count]",
        "torch.arange(examples)[:count]",
        "training/adversary/test_penalty_sampling.py",
    ),
    Fault(
        "a budget is met from the wrong side",
        "training/adversary/budget.py",
        "math.exp(_RATE * passed * self._log_ratio())",
        "math.exp(-_RATE * passed * self._log_ratio())",
        "training/adversary/test_budget.py",
    ),
    Fault(
        "a curriculum goes on while the agent fails",
        "training/adversary/schedules.py",
        'known["grown"] += known["success"] >= self.config.curriculum_threshold',
        'known["grown"] += 1',
        "training/adversary/test_schedules.py",
    ),
    Fault(
        "a gradient that is not finite changes the weights",
        "training/runs/nonfinite.py",
        "                    parameter.grad = None",
        "                    pass",
        "training/runs/test_nonfinite.py",
    ),
    Fault(
        "half a checkpoint counts as whole",
        "training/runs/checkpoints.py",
        "if (checkpoint / INCOMPLETE).exists():",
        "if False:",
        "training/runs/test_checkpoints.py",
    ),
    Fault(
        "a cut observation mask keeps the wrong end",
        "training/data/collation.py",
        "mask[-kept:] if keep_end else mask[:kept]",
        "mask[:kept] if keep_end else mask[-kept:]",
        "training/data",
    ),
    Fault(
        "a token of the user reaches the recipe",
        "training/config/recipe.py",
        'or name.endswith("_token")',
        "or False",
        "training cli/commands/test_push.py",
    ),
    Fault(
        "an attack goes down",
        "evaluation/attacks/ascent.py",
        "climbers.delta + climbers.size[:, None, None] * direction",
        "climbers.delta - climbers.size[:, None, None] * direction",
        "evaluation/attacks/test_ascent.py",
    ),
    Fault(
        "the worst case is the last attack's",
        "evaluation/attacks/search.py",
        "self.broken[rows] |= found.broken",
        "self.broken[rows] = found.broken",
        "evaluation/attacks",
    ),
    Fault(
        "what was found on others is not tried",
        "evaluation/attacks/run.py",
        "if attack.from_others and model.search.handed:",
        "if False:",
        "evaluation/attacks",
    ),
    Fault(
        "intervals are too narrow",
        "evaluation/reporting/statistics.py",
        "stats.norm.ppf(0.975)",
        "stats.norm.ppf(0.95)",
        "evaluation/reporting/test_statistics.py",
    ),
    Fault(
        "a call with arguments too many is exact",
        "evaluation/tool_calls/judge.py",
        "    if not given.keys() <= accepted.keys():\n        return False\n",
        "",
        "evaluation/tool_calls/test_judge.py",
    ),
    Fault(
        "an unknown tool is valid",
        "evaluation/tool_calls/judge.py",
        'return "unknown_tool"',
        "return None",
        "evaluation/tool_calls/test_judge.py",
    ),
    Fault(
        "a mistake of the user's is exit status 1",
        "cli/main.py",
        "return 2 if isinstance(error, UserError) else 1",
        "return 1",
        "cli/test_main.py cli/commands/test_bad_input.py",
    ),
    Fault(
        "invalid rows are left out in silence",
        "training/data/sources.py",
        "if count.invalid and not self.skip_invalid_rows:",
        "if False:",
        "training/data/test_sources.py cli/commands/test_wrong_data.py",
    ),
    Fault(
        "a world's expert is always idle",
        "environments/congestion.py",
        "return Answer(min(self.need, self.free), self.route, self.peer)",
        "return Answer(0, self.route, self.peer)",
        "environments",
    ),
]


def put(fault: Fault, package: Path) -> None:
    """Put a fault into a copy of the package."""
    file = package / fault.file
    text = file.read_text()
    if text.count(fault.right) != 1:
        sys.exit(
            f"error: {fault.name}: {fault.file} does not contain {fault.right!r} exactly once: update the list in "
            "this script."
        )
    file.write_text(text.replace(fault.right, fault.wrong))


def found_by(fault: Fault, folder: Path, marks: str | None) -> str | None:
    """Return the first test that fails in a copy with the fault, or None."""
    tests = [str(folder / "tests" / name) for name in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    command += ["-m", marks] if marks else []
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if done.returncode != 1 or not failed:
        sys.exit(f"error: {fault.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="with the tests of `scripts/test.sh --fast` alone")
    parser.add_argument("--only", action="append", metavar="NAME", help="this fault; may be given again")
    arguments = parser.parse_args()
    wanted = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    found = 0
    for fault in wanted:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            kept_out = shutil.ignore_patterns(".*", "outputs", "build", "*.egg-info", "__pycache__")
            shutil.copytree(ROOT, copy, ignore=kept_out)
            put(fault, copy / "aajr_hf")
            test = found_by(fault, copy, FAST if arguments.fast else None)
        found += test is not None
        print(f"{'found' if test else 'MISSED':<7}{fault.name}: {test or '-'}", flush=True)
    print(f"{found} of {len(wanted)} faults are found.")
    sys.exit(found < len(wanted) and not arguments.fast)


if __name__ == "__main__":
    main()
