"""
Tool calls of your own: write them as a file of lines, look at what is trained, train, and attack.

    python examples/own_tool_calls.py

The file that is made here is in the form of OpenAI's fine-tuning files; docs/data.md lists the others. Replace it by
yours, and the model by one whose chat template renders tools.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from aajr_hf import AAJRConfig, AAJRTrainer, load_rows
from aajr_hf.cli.main import main as aajr

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_heating",
            "description": "Set the temperature of a room.",
            "parameters": {
                "type": "object",
                "properties": {"room": {"type": "string"}, "degrees": {"type": "integer"}},
                "required": ["room", "degrees"],
            },
        },
    }
]


def example(rng: random.Random) -> dict:
    """One conversation: what a user asks for, and the call that is right."""
    room, degrees = rng.choice(["kitchen", "office", "bedroom"]), rng.randint(16, 24)
    arguments = json.dumps({"room": room, "degrees": degrees})
    call = {"id": "c1", "type": "function", "function": {"name": "set_heating", "arguments": arguments}}
    asked = {"role": "user", "content": f"Please make it {degrees} degrees in the {room}."}
    return {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": TOOLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--output", type=Path, default=Path("outputs/own-tool-calls"), help="folder of all outputs")
    parser.add_argument("--model", help="a model whose chat template renders tools (default: a new, small one)")
    parser.add_argument("--start", type=int, default=2000, help="steps in which a new model learns the form of calls")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of the training")
    parser.add_argument("--examples", type=int, default=32, help="rows that are attacked")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    rng, files = random.Random(0), {}
    for split, number in (("train", 200), ("test", arguments.examples)):
        files[split] = arguments.output / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(example(rng)) + "\n" for _ in range(number)))

    # Reads and checks the rows as `aajr train` does: what cannot be trained on is named with its row.
    rows = load_rows(str(files["train"]))
    print(f"{len(rows)} rows with the columns {', '.join(sorted(rows.column_names))}")

    start = arguments.model or str(arguments.output / "start")
    if arguments.model is None:
        steps = ["--steps", str(arguments.start)]
        check(aajr(["init-agent", start, "--dataset_name", str(files["train"]), *steps]))

    config = AAJRConfig(
        str(arguments.output / "agent"),
        epsilon=0.25,
        ascent_steps=1,
        clean_loss_weight=1.0,
        lambda_mode="relative",
        regularizer_lambda=0.03,
        perturbed_tokens="observation",  # the adversary moves what users and tools say, not the markup
        assistant_only_loss=True,
        freeze_embeddings=True,
        max_steps=arguments.steps,
        learning_rate=1e-3,
        logging_steps=arguments.steps,
        save_strategy="no",
        bf16=False,
    )
    trainer = AAJRTrainer(start, config, train_dataset=rows)
    trainer.train()
    trainer.save_final()
    last = trainer.state.log_history[0]
    print(f"clean loss {last['aajr/clean_loss']:.3f}, under attack {last['aajr/adversarial_loss']:.3f}")

    report = arguments.output / "evaluation"
    attacked = ["--dataset_name", str(files["test"]), "--output", str(report), "--attacks", "warm_nll", "injection"]
    check(aajr(["evaluate", f"start={start}", f"aajr={arguments.output / 'agent'}", *attacked]))
    for name, run in json.loads((report / "results.json").read_text())["runs"].items():
        print(f"{name}: {run['nominal_exact']:.1f} % exact, {run['worst_case_exact']['1']:.1f} % under attack at 1x")


def check(status: int) -> None:
    """End the script if a command has failed."""
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
