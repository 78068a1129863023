"""`aajr pipeline`: from a log to a better agent in the old one's place."""

from __future__ import annotations

from pathlib import Path

from ..arguments.options import ArgumentParser
from ..common.errors import UserError

DESCRIPTION = """Test the logs of an agent in use for a change. After an alarm, train it against an adversary whose radius is a little
larger than the attack's, attack both agents in the same ways, and put the new one in the old one's place only if it is
better beyond chance.

    aajr pipeline run pipeline.yaml             # all steps; a run that was interrupted goes on where it stopped
    aajr pipeline run pipeline.yaml --dry_run   # say which steps are done, and which comes next
    aajr pipeline step decide pipeline.yaml     # one step, for an engine that runs the steps itself
    aajr pipeline trainjob recipes/congestion/aajr.yaml --nodes 2 --image registry/aajr-hf   # a job for Kubeflow Trainer

docs/pipeline.md lists the settings. Give each round of measuring and training a `work` folder of its own.
"""


def run(argv: list[str]) -> int:
    from ..pipeline.settings import read_settings
    from ..pipeline.steps import STEPS, Pipeline

    parser = ArgumentParser("pipeline", description=DESCRIPTION)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="{run,step,trainjob}",
        parser_class=lambda prog, **more: ArgumentParser(prog.removeprefix("aajr "), **more),
    )
    whole = commands.add_parser("run", help="run all steps")
    whole.add_argument("--dry_run", action="store_true", help="run nothing: say which steps are done")
    single = commands.add_parser("step", help="run one step")
    single.add_argument("step", choices=STEPS)
    for one in (whole, single):
        one.add_argument("settings", type=Path, metavar="PIPELINE.yaml")
    _add_trainjob(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "trainjob":
        write_job(arguments)
        return 0
    pipeline = Pipeline(read_settings(arguments.settings))
    if arguments.command == "step":
        run_step(pipeline, arguments.step)
    elif arguments.dry_run:
        describe(pipeline)
    else:
        run_all(pipeline)
    return 0


def _add_trainjob(commands) -> None:
    job = commands.add_parser("trainjob", help="write the manifest of a training on several nodes")
    job.add_argument("recipe", help="path of the recipe inside the image")
    job.add_argument("--nodes", type=int, required=True, help="number of nodes")
    job.add_argument("--processes", type=int, default=1, help="processes on each node, one a GPU (default: 1)")
    job.add_argument("--image", required=True, help="image with this package, such as one built from the Dockerfile")
    job.add_argument("--name", help="name of the job (default: from the recipe)")
    job.add_argument(
        "--accelerate_config",
        default="ddp",
        help="as in `aajr train`; ddp_cpu and fsdp2_cpu ask for no GPU (default: ddp)",
    )
    job.add_argument("--output", type=Path, help="file of the manifest (default: print it)")


def write_job(arguments) -> None:
    """
    Print or write the manifest.

    Raises:
        UserError: if an option is wrong; nothing is written then.
    """
    from ...evaluation.reporting.report import replace_file
    from ..launching.launch import config_file
    from ..pipeline.trainjob import job_name, manifest, train_job

    config = arguments.accelerate_config
    config_file(config)  # refuses unknown names
    job = train_job(
        arguments.recipe,
        nodes=arguments.nodes,
        processes=arguments.processes,
        image=arguments.image,
        name=arguments.name or job_name(arguments.recipe),
        accelerate_config=config,
        gpu=not config.endswith("_cpu"),
    )
    if arguments.output is None:
        print(manifest(job), end="")
    else:
        replace_file(arguments.output, manifest(job).encode())
        print(f"Manifest: {arguments.output}")


def run_all(pipeline) -> None:
    """
    Run the steps that are not done.

    Raises:
        RunError: if a command fails; a later run begins with its step.
    """
    from ..pipeline.page import PAGE, summary_of, write_page
    from ..pipeline.steps import next_step

    step, why = next_step(pipeline)
    while step is not None:
        _run(pipeline, step)
        step, why = next_step(pipeline)
    write_page(pipeline)
    print(summary_of(step, why, pipeline))
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
