"""What `aajr pipeline` writes for a cluster: a pipeline for Kubeflow Pipelines, and a training for Kubeflow Trainer."""

from __future__ import annotations

from pathlib import Path

from ..arguments.options import ArgumentParser


def add_compile(commands) -> ArgumentParser:
    parser = commands.add_parser("compile", help="write the YAML of the pipeline for Kubeflow Pipelines")
    parser.add_argument("settings", metavar="PIPELINE.yaml", help="the settings, as a path on the volume")
    parser.add_argument(
        "--image", required=True, help="image with this package, such as one built from the Dockerfile"
    )
    parser.add_argument(
        "--claim", required=True, help="name of the volume claim that holds the settings and all files that they name"
    )
    parser.add_argument(
        "--mount", default="/aajr", help="where the steps see the volume; they run there (default: %(default)s)"
    )
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each step that runs a model (default: 0)")
    parser.add_argument("--output", type=Path, help="file of the YAML (default: print it)")
    return parser


def write_compiled(arguments) -> None:
    """
    Print or write the YAML.

    Raises:
        UserError: without kfp, or if an option is wrong; nothing is written then.
    """
    from ...evaluation.files import replace_file
    from ..pipeline.kubeflow import compiled

    where = {name: getattr(arguments, name) for name in ("image", "claim", "mount", "gpus")}
    content = compiled(arguments.settings, arguments.kfp, **where)
    if arguments.output is None:
        print(content.decode(), end="")
    else:
        replace_file(arguments.output, content)
        print(f"Pipeline: {arguments.output}")


def add_trainjob(commands) -> None:
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
    from ...evaluation.files import replace_file
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
