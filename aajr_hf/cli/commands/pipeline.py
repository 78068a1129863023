"""`aajr pipeline`: from a log to a better agent in the old one's place."""

from __future__ import annotations

from pathlib import Path

from ..arguments.options import ArgumentParser
from ..common.errors import UserError
from .pipeline_manifests import add_compile, add_trainjob, write_compiled, write_job

DESCRIPTION = """Test the logs of an agent in use for a change. After an alarm, train it against an adversary whose radius is a little
larger than the attack's, attack both agents in the same ways, and put the new one in the old one's place only if it is
better beyond chance.

    aajr pipeline run pipeline.yaml             # all steps; a run that was interrupted goes on where it stopped
    aajr pipeline run pipeline.yaml --dry_run   # say which steps are done, and which comes next
    aajr pipeline run pipeline.yaml --engine kfp   # the same steps, run by Kubeflow Pipelines on this machine
    aajr pipeline compile pipeline.yaml --image registry/aajr-hf --claim files   # YAML for a cluster with Kubeflow Pipelines
    aajr pipeline step decide pipeline.yaml     # one step, for an engine that runs the steps itself
    aajr pipeline trainjob recipes/congestion/aajr.yaml --nodes 2 --image registry/aajr-hf   # a job for Kubeflow Trainer

docs/pipeline.md lists the settings. Give each round of measuring and training a `work` folder of its own.
"""


def run(argv: list[str]) -> int:
    from ...evaluation.files import replace_file
    from ..pipeline.kubeflow import PYTHON, run_with_kubeflow
    from ..pipeline.settings import read_settings
    from ..pipeline.steps import STEPS, Pipeline, goes_on

    parser = ArgumentParser("pipeline", description=DESCRIPTION)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="{run,step,compile,trainjob}",
        parser_class=lambda prog, **more: ArgumentParser(prog.removeprefix("aajr "), **more),
    )
    whole = commands.add_parser("run", help="run all steps")
    whole.add_argument("--dry_run", action="store_true", help="run nothing: say which steps are done")
    whole.add_argument(
        "--engine",
        choices=("local", "kfp"),
        default="local",
        help="what runs the steps: this command, or Kubeflow Pipelines on this machine (default: local)",
    )
    single = commands.add_parser("step", help="run one step")
    single.add_argument("step", choices=STEPS)
    single.add_argument(
        "--goes_on",
        type=Path,
        metavar="FILE",
        help="write true or false into this file: whether the pipeline goes on after this step",
    )
    for one in (whole, single):
        one.add_argument("settings", type=Path, metavar="PIPELINE.yaml")
    for one in (whole, add_compile(commands)):
        one.add_argument(
            "--kfp",
            type=Path,
            default=PYTHON,
            metavar="PYTHON",
            help="Python with Kubeflow Pipelines; scripts/kfp.sh makes it (default: %(default)s)",
        )
    add_trainjob(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "compile":
        write_compiled(arguments)
        return 0
    if arguments.command == "trainjob":
        write_job(arguments)
        return 0
    pipeline = Pipeline(read_settings(arguments.settings))
    if arguments.command == "step":
        run_step(pipeline, arguments.step)
        if arguments.goes_on is not None:
            replace_file(arguments.goes_on, str(goes_on(pipeline, arguments.step)).lower().encode())
    elif arguments.dry_run:
        describe(pipeline)
    elif arguments.engine == "kfp":
        run_with_kubeflow(arguments.settings, arguments.kfp)
        say_the_end(pipeline)
    else:
        run_all(pipeline)
    return 0


def run_all(pipeline) -> None:
    """
    Run the steps that are not done.

    Raises:
        RunError: if a command fails; a later run begins with its step.
    """
    from ..pipeline.steps import next_step

    while (step := next_step(pipeline)[0]) is not None:
        _run(pipeline, step)
    say_the_end(pipeline)


def say_the_end(pipeline) -> None:
    """Write the page, and say what became of the agent."""
    from ..pipeline.page import PAGE, summary_of, write_page
    from ..pipeline.steps import next_step

    write_page(pipeline)
    print(summary_of(*next_step(pipeline), pipeline))
    print(f"Report: {pipeline.work / PAGE}")


def run_step(pipeline, step: str) -> None:
    """
    Run one step, unless it is done.

    Raises:
        UserError: if another step must come first.
    """
    from ..pipeline.page import write_page
    from ..pipeline.steps import STEPS, next_step

    if (pipeline.work / STEPS[step]).is_file():
        print(f"{step}: done before, in {pipeline.work / STEPS[step]}")
        return
    due, why = next_step(pipeline)
    if due != step:
        raise UserError(f"`{step}` is not the next step: {why if due is None else f'run `{due}` first'}.")
    _run(pipeline, step)
    write_page(pipeline)


def describe(pipeline) -> None:
    """Say what is done, and what comes next."""
    from ..pipeline.page import said_of, summary_of
    from ..pipeline.steps import STEPS, next_step

    for name, file in STEPS.items():
        done = (pipeline.work / file).is_file()
        print(f"{name}: {said_of(name, pipeline.read(file) if done else None)}")
    print(summary_of(*next_step(pipeline), pipeline))


def _run(pipeline, step: str) -> None:
    from ..pipeline.page import said_of
    from ..pipeline.steps import STEPS

    print(f"\n== {step}", flush=True)
    getattr(pipeline, step)()
    print(f"{step}: {said_of(step, pipeline.read(STEPS[step]))}", flush=True)
