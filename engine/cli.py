"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command()(complete)
    app.command()(doctor)


def complete(
    base: Annotated[str, typer.Option(help="Model folder, or a hub id.")],
    prompt: Annotated[str, typer.Option(help="Raw text to continue; no chat template.")],
    adapter: Annotated[Path | None, typer.Option(help="PEFT adapter folder.")] = None,
    quantization: Annotated[
        str, typer.Option(help="none (fp32), bf16, int8, nf4, or auto.")
    ] = "none",
    max_tokens: Annotated[int, typer.Option(help="Most new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same words.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Continue a text with one model: prints the prompt and its continuation."""
    from engine.completion import complete_text

    def show(text: str) -> None:
        if not as_json:
            print(text, end="", flush=True)

    outcome = complete_text(
        base=base,
        prompt=prompt,
        adapter=adapter,
        quantization=quantization,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        show=show,
    )
    print(json.dumps(outcome, ensure_ascii=False) if as_json else "")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what this machine can do, and what it can't."""
    from engine.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, ensure_ascii=False))
        return
    for finding in findings["findings"]:
        print(f"{finding['what'] + ':':<18}{finding['found']}\n{'':<18}{finding['allows']}")
