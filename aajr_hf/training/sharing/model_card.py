"""
The model card of a run, made from the files in its folder: the recipe, the weights, and an evaluation if there is one.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..config.recipe import GRPO_TRAINER, recipe_in, with_radius
from ..config.sft import AAJRConfig
from .hub_names import is_hub_name, public_name
from .reading import no_results, read_results, version_problem
from .results import Results, Run
from .tool_call_card import TOOL_CALL_PLOT, tool_call_results, tool_call_section
from .world_card import world_results, world_section

# File beside the recipe with the number of invalid rows that were left out, if any were.
DATA = "data.json"
EVALUATION = "evaluation"
_PACKAGES = ("aajr-hf", "trl", "peft", "transformers", "accelerate", "datasets", "torch")
_SETTINGS = (
    *("epsilon", "epsilon_mode", "perturbation_norm", "perturbation_scope", "perturbed_tokens", "ascent_steps"),
    *("ascent_step_rule", "system_loss", "clean_loss_weight", "regularizer", "lambda_mode", "regularizer_lambda"),
    *(
        "adversarial_loss_weight",
        "amplification_budget",
        "penalty_output",
        "penalty_trajectory",
        "penalty_fraction",
        "penalty_interval",
    ),
    *("penalty_radius", "sensitivity_floor", "long_tail_alpha", "rollback_tolerance"),
)
_TOOLS = """tools = [  # those that the agent may call
    {"type": "function", "function": {"name": "your_tool", "parameters": {"type": "object", "properties": {}}}},
]"""
_METHODS = {"AAJRDPOTrainer": "dpo", GRPO_TRAINER: "grpo"}
CITATION = """@article{mumcu2026aajr,
    title  = {{Adversarially-Aligned Jacobian Regularization}},
    author = {Mumcu and Yilmaz},
    year   = 2026,
    eprint = {arXiv:2603.04378},
}"""
_MARK = "<!-- Made by aajr-hf from the files of this folder. Without this line it is left as it is. -->"
_TEMPLATE = """---
{{ card_data }}
---
{{ mark }}

# {{ name }}

{{ base }}, fine-tuned with [Adversarially-Aligned Jacobian Regularization (AAJR)](https://huggingface.co/papers/2603.04378): an
adversary raises the agent's loss by projected gradient ascent on the embeddings of its prompt, and the Jacobian of the logits is
penalised along exactly those directions.

## Use

```python
{{ snippet }}
```
{% if local_base %}
The adapter's base model is a local folder of the training machine. To share an agent that loads anywhere, push the
output of `aajr merge`.
{% endif %}
## Results
{% if results %}
{{ results }}
{% else %}
Not evaluated yet: run `aajr evaluate`, and add the numbers here with `aajr push --evaluation`.
{% endif %}{% for plot in plots %}
![{{ plot.stem }}]({{ plot.path }})
{% endfor %}
## Training

| | |
|---|---|
| base model | {{ base }} |
| trained | {{ trained }} |
| data | {{ data }} |{% for name, value in settings.items() %}
| `{{ name }}` | {{ value }} |{% endfor %}

{% if trainer %}The settings as run, for `{{ trainer }}`{% else %}The recipe as run, for `aajr train --config`{% endif %}:

~~~~yaml
{{ recipe }}
~~~~

Versions: {{ versions }}.

## Citation

```bibtex
{{ citation }}
```
"""


def write_model_card(folder: Path, repo_id: str) -> None:
    """
    Write `README.md` for the agent in a folder with a recipe, with the results in `evaluation/results.json` if any.

    Raises:
        OSError, ValueError: if the recipe or the results cannot be read.
    """
    recipe = recipe_in(folder)
    base = str(recipe.get("model_name_or_path") or "")
    dataset = str(recipe.get("dataset_name") or "")
    is_adapter = (folder / "adapter_config.json").is_file()
    results = _results_of(folder)
    measured = results is not None and not version_problem(results)
    on_tools = measured and results["kind"] == "tool_calls"
    trainer = recipe.get("trainer")
    data = ModelCardData(
        model_name=repo_id.split("/")[-1],
        base_model=base if is_hub_name(base) else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["trl", _METHODS.get(trainer, "sft"), "aajr", "robustness"],
        datasets=[dataset] if is_hub_name(dataset) else None,
        eval_results=(tool_call_results if on_tools else world_results)(results) if measured else None,
    )
    defaults = AAJRConfig.__dataclass_fields__
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        mark=_MARK,
        name=repo_id.split("/")[-1],
        base=public_name(base) or "A model without a name",
        local_base=is_adapter and base != "" and not is_hub_name(base),
        snippet=_snippet(repo_id, is_adapter, on_tools),
        results=_section(results),
        plots=[
            {"stem": file.stem.replace("_", " "), "path": f"{EVALUATION}/{file.name}"}
            for file in sorted((folder / EVALUATION).glob("*.png"))
            # A plot of the other kind of evaluation may be left in the same folder.
            if measured and (file.name == TOOL_CALL_PLOT) == on_tools
        ],
        trained=_trained(folder, recipe),
        data=_data(folder, recipe),
        trainer=trainer,
        settings={
            name: with_radius(recipe).get(name, defaults[name].default)
            for name in _SETTINGS
            if not (trainer and name == "system_loss")  # the trainer has its own loss
        },
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).strip(),
        versions=", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        citation=CITATION,
    )
    card.save(folder / "README.md")


def is_own_card(folder: Path) -> bool:
    """Whether `README.md` was made here, is PEFT's empty template, or does not exist."""
    file = folder / "README.md"
    return not file.is_file() or any(line in file.read_text() for line in (_MARK, "# Model Card for Model ID"))


def weights_digest(folder: Path) -> str | None:
    """The SHA-256 of the weights in a folder; None if there are no weights."""
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest() if files else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _snippet(repo_id: str, is_adapter: bool, on_tools: bool) -> str:
    library, name = ("peft", "AutoPeftModelForCausalLM") if is_adapter else ("transformers", "AutoModelForCausalLM")
    imports = ["from transformers import AutoTokenizer", f"from {library} import {name}"]
    if not is_adapter:
        imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    # An agent that calls tools has to be offered some.
    offer = "tools=tools, " if on_tools else ""
    return "\n".join(
        [
            *imports,
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")',
            f'model = {name}.from_pretrained("{repo_id}")',
            'observation = [{"role": "user", "content": "What you observe ..."}]',
            *([_TOOLS] if on_tools else []),
            f"inputs = tokenizer.apply_chat_template(observation, {offer}add_generation_prompt=True, "
            'return_tensors="pt", return_dict=True)',
            f"answer = model.generate(**inputs, max_new_tokens={256 if on_tools else 32})",
            'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )


def _trained(folder: Path, recipe: dict[str, Any]) -> str:
    file = folder / "adapter_config.json"
    kind = json.loads(file.read_text()) if file.is_file() else {}
    name = recipe.get("adapter") or ("lora" if recipe.get("use_peft") else str(kind.get("peft_type", "full")).lower())
    if name == "full":
        return "all parameters"
    rank = recipe.get("adapter_rank", kind.get("r", recipe.get("lora_r")))
    return f"an adapter{'' if kind else ', merged'}: `{name}`" + ("" if rank is None else f", rank {rank}")


def _data(folder: Path, recipe: dict[str, Any]) -> str:
    if recipe.get("environment"):
        return f"examples of the world {recipe['environment']}"
    file = folder / DATA
    skipped = json.loads(file.read_text())["skipped_rows"] if file.is_file() else 0
    rows = f", without {skipped} invalid row{'s' if skipped > 1 else ''}" if skipped else ""
    return f"{public_name(str(recipe.get('dataset_name') or '')) or 'as given'}{rows}"


def _results_of(folder: Path) -> Results | None:
    """The results of this agent only, from `evaluation/results.json`; None if it has only results of other agents."""
    file = folder / EVALUATION / "results.json"
    if not file.is_file():
        return None
    results = read_results(file)
    run = run_of(results, folder)
    return results | {"runs": {"this agent": run}} if run else None


def run_of(results: Results, folder: Path) -> Run | None:
    """
    The results of one agent in an evaluation, found by its weights; None if the agent is not in the evaluation.

    Raises:
        ValueError: if `results` are not results of `aajr evaluate`.
    """
    try:
        runs, digests = results["runs"], results["settings"]["weights"]
        return next((runs[name] for name, digest in digests.items() if digest == weights_digest(folder)), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise no_results(error) from error


def _section(results: Results | None) -> str | None:
    """The section of the card on an evaluation, in Markdown; None without an evaluation."""
    if results is None:
        return None
    if problem := version_problem(results):
        return f"The evaluation beside this card is {problem}: its numbers are left out; run `aajr evaluate` again."
    return (tool_call_section if results["kind"] == "tool_calls" else world_section)(results)
