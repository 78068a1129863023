"""A guard in a folder: its weights, its settings and numbers, and a card."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..training.sharing.hub_names import is_hub_name
from ..training.sharing.results import GuardResults, Leak
from .guard import CacheGuard

WEIGHTS, RESULTS, CARD = "model.safetensors", "guard.json", "README.md"
_TEMPLATE = """---
{{ card_data }}
---

# A guard of shared caches

It makes the key-value caches of {{ base }} anew before another agent reads them, so that they say little about the private
words {{ private }} of an agent in the world `{{ world }}`: each token's keys and values come from a short code with noise (the
task is that of [LCGuard](https://huggingface.co/papers/2605.22786)). It was trained with aajr-hf, so that the codes of messages that differ in these
words alone can hardly be told apart (beta {{ beta }}).

```bash
aajr simulate --model {{ model }} --share_cache --guard FOLDER
```

## Results

Right answers of held-out readers: {{ raw }} % with raw caches, {{ guarded }} % with guarded ones. How often decoders name a
private word of a held-out sender, in percent:

{{ table }}

Chance is the best guess without a cache. No decoder exceeds the bound, of whatever size and training (95 % interval over {{ examples }}
held-out senders), if the rest of the message does not say the word; it holds for one message on each link. *Raw* and *guarded* were measured
with decoders that were trained anew, without the guard and with it.

## Training

| | |
|---|---|
{% for name, value in settings.items() %}| {{ name }} | {{ value }} |
{% endfor %}"""
_SETTINGS = ("agents", "bottleneck", "steps", "decoder_steps", "batch_size", "examples", "seed")
HEADERS = ("word", "links", "chance", "bound", "raw", "guarded", "guarded, larger decoder")


def leak_cells(leak: Leak) -> list[str]:
    """Return the cells of a row under [`HEADERS`]."""
    return [
        leak["word"],
        leak["links"],
        *(f"{leak[name]:.1f}" for name in ("chance", "bound", "raw", "fresh", "larger")),
    ]


def save_guard(guard: CacheGuard, results: GuardResults, folder: Path) -> None:
    """Write the guard into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.cpu().contiguous() for name, weight in guard.state_dict().items()}, folder / WEIGHTS)
    (folder / RESULTS).write_text(json.dumps(results, indent=4, allow_nan=False) + "\n", encoding="utf-8")
    model = results["model"]
    on_hub = is_hub_name(model)
    lines = [HEADERS, ["---"] * 2 + ["---:"] * 5, *map(leak_cells, results["leakage"])]
    card = ModelCard.from_template(
        ModelCardData(
            base_model=model if on_hub else None, library_name="aajr-hf", tags=["aajr", "privacy", "kv-cache"]
        ),
        template_str=_TEMPLATE,
        base=f"`{model if on_hub else Path(model).name}`",
        model=model if on_hub else Path(model).name,
        private=", ".join(f"`{word}`" for word in results["private"]),
        world=results["world"],
        examples=results["examples"],
        beta=f"{results['beta']:g}",
        raw=f"{results['raw_success']:.1f}",
        guarded=f"{results['guarded_success']:.1f}",
        table="\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        settings={name: results[name] for name in _SETTINGS},
    )
    card.save(folder / CARD)


def load_guard(folder: Path) -> CacheGuard:
    """
    Load a guard that [`save_guard`] wrote.

    Raises:
        ValueError: if the folder holds no guard, or a damaged one.
    """
    try:
        settings = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        guard = CacheGuard([tuple(pair) for pair in settings["widths"]], settings["bottleneck"])
        guard.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise ValueError(f"there is no guard in {folder}: make one with `aajr guard`.") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the guard in {folder} is damaged: make it again with `aajr guard`.") from error
    return guard.eval()
