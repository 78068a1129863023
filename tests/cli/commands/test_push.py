"""Pushing to a Hub that takes what it is sent, and to one that does not."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load

from aajr_hf.training.runs.checkpoints import newest_checkpoint
from tests.support import ROOT
from tests.support.commands import FAST
from tests.support.hub_server import TOKEN, Fault

RECIPE = str(ROOT / "recipes" / "congestion" / "aajr.yaml")


@pytest.fixture(autouse=True)
def fresh_hub(worker):
    worker.hub.repos.clear()
    worker.hub.blobs.clear()
    worker.hub.faults.clear()
    worker.hub.requests.clear()


def train(worker, agent, output, *more):
    secrets = ["--hub_token", TOKEN, "--model_init_kwargs", json.dumps({"token": TOKEN})]
    where = ["--model_name_or_path", agent, "--output_dir", output, *secrets]
    return worker.run(["train", "--config", RECIPE, *where, *FAST, *more])


@pytest.fixture(scope="module")
def adapter(worker, agent, tmp_path_factory):
    """The folder of a trained LoRA, with a checkpoint."""
    folder = tmp_path_factory.mktemp("trained") / "lora"
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "1"]
    done = train(worker, agent, folder, "--adapter", "lora", "--adapter_rank", "2", *saving)
    assert done.status == 0, done.err
    return folder


def logits(worker, name, adapter=True):
    library = "peft import AutoPeftModelForCausalLM" if adapter else "transformers import AutoModelForCausalLM"
    code = f"from {library} as Model\nimport torch\nids = torch.arange(3, 11)[None]\n"
    done = worker.run(code + f"result = Model.from_pretrained({str(name)!r}).eval()(ids).logits.flatten().tolist()")
    assert done.status == 0, done.err
    return done.result


@pytest.mark.slow
def test_an_adapter_is_pushed_while_it_trains_and_comes_back(worker, agent, tmp_path):
    run = tmp_path / "run"
    saving = [
        "--save_strategy",
        "steps",
        "--save_steps",
        "1",
        "--hub_strategy",
        "checkpoint",
        "--hub_private_repo",
        "true",
    ]
    hub = ["--push_to_hub", "true", "--hub_model_id", "tester/lora", "--hub_always_push", "true", *saving]
    done = train(worker, agent, run, "--adapter", "lora", "--adapter_rank", "2", "--learning_rate", "0.01", *hub)
    assert done.status == 0, done.err
    assert f"Model pushed: {worker.hub.url}/tester/lora/commit/" in done.out, done.err
    repo = worker.hub.repos["tester/lora"]
    assert repo.private and repo.commits[-1] == "End of training"
    assert any("step 1" in message for message in repo.commits)
    assert {"adapter_model.safetensors", "recipe.yaml", "README.md", "tokenizer.json"} <= set(repo.files)
    assert "last-checkpoint/optimizer.pt" in repo.files and "last-checkpoint/trainer_state.json" in repo.files
    assert not [path for path in repo.files if path.startswith(("checkpoint-", "_"))]
    assert logits(worker, "tester/lora") == logits(worker, run)
    for path, content in repo.files.items():
        assert TOKEN.encode() not in content, path
    for file in run.rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_the_end_alone_is_pushed_with_the_strategy_end(worker, agent, tmp_path):
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--hub_strategy", "end"]
    done = train(worker, agent, tmp_path / "run", "--push_to_hub", "true", "--hub_model_id", "tester/end", *saving)
    assert done.status == 0, done.err
    assert worker.hub.repos["tester/end"].commits == ["End of training"]
    assert logits(worker, "tester/end", adapter=False) == logits(worker, tmp_path / "run", adapter=False)


@pytest.mark.slow
def test_a_checkpoint_a_full_model_and_an_adapter_are_pushed_by_hand(worker, agent, adapter):
    checkpoint = newest_checkpoint(adapter)
    for folder, name in ((adapter, "one"), (checkpoint, "two")):
        done = worker.run(["push", folder, f"tester/{name}", "--private"])
        assert done.status == 0, done.err
        assert done.out.strip().endswith(f"Pushed {folder} to {worker.hub.url}/tester/{name}")
        assert logits(worker, f"tester/{name}") == logits(worker, folder)
        assert worker.hub.repos[f"tester/{name}"].private
    assert "optimizer.pt" in worker.hub.repos["tester/two"].files
    done = worker.run(["push", agent, "tester/base"])
    assert done.status == 0 and "without a new model card" in done.err
    assert logits(worker, "tester/base", adapter=False) == logits(worker, agent, adapter=False)
    assert not worker.hub.repos["tester/base"].private


@pytest.mark.slow
def test_the_card_holds_the_run_and_its_results(worker, agent, adapter, tmp_path):
    small = ["--examples", "8", "--attack_steps", "2", "--attacks", "nll", "--output", tmp_path / "report"]
    assert worker.run(["evaluate", f"mine={adapter}", f"base={agent}", *small]).status == 0
    done = worker.run(["push", adapter, "tester/card", "--evaluation", tmp_path / "report"])
    assert done.status == 0, done.err
    files = worker.hub.repos["tester/card"].files
    card = ModelCard(files["README.md"].decode())
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation") and "aajr" in data.tags
    numbers = json.loads((tmp_path / "report" / "results.json").read_text())["runs"]["mine"]
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["success (nominal) %"] == pytest.approx(numbers["nominal_success"], abs=0.01)
    for m, worst in numbers["worst_case_success"].items():
        assert values[f"success (worst case, {float(m):g}x training radius) %"] == pytest.approx(worst, abs=0.01)
    low, high = numbers["intervals"]["nominal_success"]
    assert f"| success, greedy | {numbers['nominal_success']:.1f} [{low:.0f}-{high:.0f}] |" in card.text
    assert "Threat model: l2 ball over the whole prompt" in card.text
    for plot in (tmp_path / "report").glob("*.png"):
        assert files[f"evaluation/{plot.name}"] == plot.read_bytes() and f"(evaluation/{plot.name})" in card.text
    assert "an adapter: `lora`, rank 2" in card.text and "2603.04378" in card.text and "transformers 5" in card.text
    recipe = yaml.safe_load(card.text.split("~~~~yaml\n")[1].split("~~~~")[0])
    assert recipe == yaml.safe_load(files["recipe.yaml"]) and recipe["adapter_rank"] == 2
    # The snippet works as it stands.
    done = worker.run(card.text.split("```python\n")[1].split("```")[0])
    assert done.status == 0, done.err
    # And the recipe trains again.
    again = tmp_path / "again.yaml"
    again.write_bytes(files["recipe.yaml"])
    done = worker.run(["train", "--config", again, "--output_dir", tmp_path / "again"])
    assert done.status == 0, done.err
    first, second = (load((f / "adapter_model.safetensors").read_bytes()) for f in (adapter, tmp_path / "again"))
    assert all((first[name] == value).all() for name, value in second.items())


@pytest.mark.slow
def test_a_merged_adapter_is_pushed_with_its_card(worker, adapter, tmp_path):
    assert worker.run(["merge", adapter, tmp_path / "merged"]).status == 0
    assert worker.run(["push", tmp_path / "merged", "tester/merged"]).status == 0
    card = ModelCard(worker.hub.repos["tester/merged"].files["README.md"].decode())
    assert "an adapter, merged: `lora`, rank 2" in card.text and card.data.library_name == "transformers"
    assert logits(worker, "tester/merged", adapter=False) == pytest.approx(logits(worker, adapter), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_a_card_without_an_evaluation_says_so(worker, adapter):
    assert worker.run(["push", newest_checkpoint(adapter), "tester/plain"]).status == 0
    card = ModelCard(worker.hub.repos["tester/plain"].files["README.md"].decode())
    assert "Not evaluated yet" in card.text and card.data.eval_results is None


REFUSALS = [
    Fault("POST", "/api/repos/create", 401),
    Fault("POST", "/preupload/", 429, times=6, headers={"Retry-After": "7"}),
    Fault("PUT", "/lfs/", None, times=6),
    Fault("POST", "/commit/", 409),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: f"{fault.path.strip('/')}-{fault.status}")
def test_training_goes_on_when_the_hub_refuses(worker, agent, tmp_path, fault):
    run = tmp_path / "run"
    worker.hub.faults.append(Fault(**vars(fault) | {"times": 10**6}))
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--adapter", "lora", "--adapter_rank", "1"]
    done = train(worker, agent, run, "--push_to_hub", "true", "--hub_model_id", "tester/refused", *saving)
    assert done.status == 0, done.err
    assert f"Model saved to {run}" in done.out and "Model pushed" not in done.out
    assert f"push it later with `aajr push {run} tester/refused`" in done.err and "Traceback" not in done.err
    assert newest_checkpoint(run).name == "checkpoint-2"
    worker.hub.faults.clear()
    done = worker.run(["push", run, "tester/refused"])
    assert done.status == 0 and "Pushed" in done.out
    assert logits(worker, "tester/refused") == logits(worker, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (Fault("POST", "/api/repos/create", 500, times=14), {1.0}),
        (Fault("POST", "/preupload/", 429, times=6, headers={"Retry-After": "7"}), {7.0}),
        (Fault("PUT", "/lfs/", None, times=40), {1.0}),
        (Fault("POST", "/commit/", 409, times=2), {1.0, 2.0}),
        (Fault("POST", "/commit/", 503, times=1), {1.0}),
    ],
    ids=lambda value: f"{value.path.strip('/')}-{value.status}" if isinstance(value, Fault) else "",
)
def test_push_repeats_until_it_is_done(worker, adapter, fault, waits):
    worker.hub.faults.append(Fault(**vars(fault)))
    done = worker.run(["push", adapter, "tester/late"])
    assert done.status == 0, done.err
    assert "The upload is not complete" in done.err and waits <= set(done.slept)
    assert done.out.strip().endswith(f"Pushed {adapter} to {worker.hub.url}/tester/late")
    assert logits(worker, "tester/late") == logits(worker, adapter)


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_push_ends_where_waiting_does_not_help(worker, adapter, status):
    worker.hub.faults.append(Fault("POST", "/commit/", status))
    done = worker.run(["push", adapter, "tester/never"])
    assert done.status == 2 and done.err.strip().splitlines()[-1].startswith("error: The Hub rejects the upload: ")
    assert str(status) in done.err and not [s for s in done.slept if s >= 1]


@pytest.mark.slow
def test_a_card_of_ones_own_and_numbers_of_others(worker, agent, adapter, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(adapter, mine)
    small = ["--examples", "4", "--attack_steps", "1", "--attack_restarts", "1", "--output", tmp_path / "report"]
    assert worker.run(["evaluate", agent, *small]).status == 0
    done = worker.run(["push", mine, "tester/mine", "--evaluation", tmp_path / "report"])
    assert done.status == 2 and "has no results of the agent in" in done.err
    (mine / "README.md").write_text("# Mine\n")
    done = worker.run(["push", mine, "tester/mine"])
    assert done.status == 0 and "uploaded unchanged" in done.err
    assert worker.hub.repos["tester/mine"].files["README.md"] == b"# Mine\n"
    (mine / "README.md").unlink()
    (mine / "recipe.yaml").write_text("[]")
    assert worker.run(["push", mine, "tester/mine"]).status == 2


@pytest.mark.slow
def test_what_is_no_agent_is_not_pushed(worker, adapter, tmp_path):
    for arguments, message in (
        ([tmp_path, "tester/x"], "no model in"),
        ([adapter, "a/b/c"], "`REPO`"),
        ([adapter, "tester/x", "--evaluation", tmp_path], "no results.json"),
    ):
        done = worker.run(["push", *arguments])
        assert done.status == 2 and message in done.err, done.err
    assert not worker.hub.repos
