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

It changes the key-value caches of {{ base }} before another agent reads them, so that they say less about the private words
{{ private }} of an agent in the world `{{ world }}`: a small network, which sees all keys and values of a token, adds a change and
noise to each (after [LCGuard](https://huggingface.co/papers/2605.22786)). It was trained with aajr-hf against a decoder of these words (beta {{ beta }}).

```bash
aajr simulate --model {{ model }} --share_cache --guard FOLDER
```

## Results

Right answers of held-out readers: {{ raw }} % with raw caches, {{ guarded }} % with guarded ones. How often a decoder, trained
anew on the frozen guard, names a private word of held-out senders, in percent:

{{ table }}

Chance is the best guess without a cache. The decoders are no bound: one that is larger or trained for longer may name more.

## Training

| | |
|---|---|
{% for name, value in settings.items() %}| {{ name }} | {{ value }} |
{% endfor %}"""
_SETTINGS = ("agents", "links", "bottleneck", "steps", "decoder_steps", "batch_size", "examples", "seed")
HEADERS = ("word", "links", "chance", "raw", "guarded", "guarded, larger decoder")


def leak_cells(leak: Leak) -> list[str]:
    """Return the cells of a row under [`HEADERS`]."""
    return [leak["word"], leak["links"], *(f"{leak[name]:.1f}" for name in ("chance", "raw", "fresh", "adaptive"))]


def save_guard(guard: CacheGuard, results: GuardResults, folder: Path) -> None:
    """Write the guard into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.cpu().contiguous() for name, weight in guard.state_dict().items()}, folder / WEIGHTS)
    (folder / RESULTS).write_text(json.dumps(results, indent=4, allow_nan=False) + "\n", encoding="utf-8")
    model = results["model"]
    on_hub = is_hub_name(model)
    lines = [HEADERS, ["---"] * 2 + ["---:"] * 4, *map(leak_cells, results["leakage"])]
    card = ModelCard.from_template(
        ModelCardData(
            base_model=model if on_hub else None, library_name="aajr-hf", tags=["aajr", "privacy", "kv-cache"]
        ),
        template_str=_TEMPLATE,
        base=f"`{model if on_hub else Path(model).name}`",
        model=model if on_hub else Path(model).name,
        private=", ".join(f"`{word}`" for word in results["private"]),
        world=results["world"],
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
