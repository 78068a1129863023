"""
The pipeline in the language of Kubeflow Pipelines. kfp needs other versions of libraries than this package, so this file
runs as a program in an environment that has kfp and not this package, and it imports kfp inside its functions.

    python kubeflow_program.py run TASK.json
    python kubeflow_program.py compile TASK.json FILE
"""

import contextlib
import json
import sys
import tempfile

GOES_ON = "true"


def pipeline_of(task, new_step):
    """
    Return the pipeline: the steps one after the other, each in the branch of the last step that may end the pipeline.

    Args:
        task: `steps`, `gates` (the steps that may end the pipeline) and `settings` (the default of the pipeline's
            parameter).
        new_step: Makes the task of a step, from its name and the file of the settings. Its only output says `true` if
            the pipeline goes on.
    """
    from kfp import dsl

    @dsl.pipeline(name="aajr", description="From an alarm to a better agent, in the place of the old one.")
    def pipeline(settings: str = task["settings"]):
        with contextlib.ExitStack() as branches:
            before = None
            for name in task["steps"]:
                step = new_step(name, settings)
                # The results are files in `work`, which a cache does not know.
                step.set_caching_options(False)
                if before is not None:
                    step.after(before)
                before = step
                if name in task["gates"]:
                    (output,) = step.outputs.values()
                    branches.enter_context(dsl.If(output == GOES_ON, name=f"after-{name}"))
                    before = None

    return pipeline


def in_containers(task):
    """Return `new_step` for a cluster: `aajr pipeline step` in a container that mounts the volume of all files."""
    from kfp import dsl, kubernetes

    command = 'cd "$0" && exec aajr pipeline step "$1" "$2" --goes_on "$3"'

    def new_step(name, settings):
        def container(settings: str, goes_on: dsl.OutputPath(str)):
            words = ["sh", "-c", command, task["mount"], name, settings, goes_on]
            return dsl.ContainerSpec(image=task["image"], command=words)

        container.__name__ = name
        step = dsl.container_component(container)(settings=settings)
        kubernetes.mount_pvc(step, pvc_name=task["claim"], mount_path=task["mount"])
        if task["gpus"] and name in task["on_gpu"]:
            step.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(task["gpus"])
        return step

    return new_step


def in_processes(task):
    """
    Return `new_step` for this machine. kfp runs containers through Docker only, so here a step is a component of Python
    that starts the same command.
    """
    from kfp import dsl

    @dsl.component(install_kfp_package=False, base_image="python")
    def step(python: str, name: str, settings: str) -> str:
        import pathlib
        import subprocess
        import sys
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "goes_on")
            command = [python, "-m", "aajr_hf", "pipeline", "step", name, settings, "--goes_on", str(file)]
            if status := subprocess.run(command).returncode:
                sys.exit(status)
            return file.read_text()

    return lambda name, settings: step(python=task["python"], name=name, settings=settings)


def compile_pipeline(task, file):
    """Write the YAML that a cluster runs."""
    from kfp import compiler

    compiler.Compiler().compile(pipeline_of(task, in_containers(task)), file)


def run_pipeline(task):
    """Run all steps on this machine; return the exit status."""
    from kfp import local

    with tempfile.TemporaryDirectory() as folder:
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder)
        try:
            pipeline_of(task, in_processes(task))()
        except RuntimeError as error:  # a step failed, and has said why
            print(error, file=sys.stderr)
            return 1
    return 0


def main(action, file, *more):
    with open(file, encoding="utf-8") as content:
        task = json.load(content)
    return {"run": run_pipeline, "compile": compile_pipeline}[action](task, *more)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
