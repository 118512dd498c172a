"""What does a quantisation cost? Perplexity of held-out chats, against fp32.

    python bench/perplexity.py --base DIR --text rows.jsonl --rows 100

The rows are `{"messages": [{"role": ..., "content": ...}]}`, as training data is. Only the
words of the assistant's replies count. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Score every quantisation on the same replies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", required=True, help="model folder")
    parser.add_argument("--adapter", type=Path, help="PEFT adapter folder")
    parser.add_argument("--text", type=Path, required=True, help="JSON Lines of chats")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    lines = arguments.text.read_text(encoding="utf-8").splitlines()[: arguments.rows]
    chats = [json.loads(line)["messages"] for line in lines]
    kinds = {
        "fp32": ("none", False),
        "fp32 C": ("none", True),
        "int8": ("int8", True),
    }
    report = {name: perplexity(arguments, chats, *kind) for name, kind in kinds.items()}
    exact = report["fp32"]
    print(json.dumps({"perplexity": report, "ratio": {k: v / exact for k, v in report.items()}}))


def perplexity(
    arguments: argparse.Namespace, chats: list[Any], quantization: Any, compiled: bool
) -> float:
    """exp of the mean negative log-likelihood per token of the replies."""
    import torch

    from engine.config import EngineConfig
    from engine.engine import build_engine
    from engine.model import Step
    from engine.requests import Message, Segment
    from engine.slots import Run

    config = EngineConfig(
        base=arguments.base,
        quantization=quantization,
        compiled=compiled,
        threads=arguments.threads,
        max_rows=1,
    )
    engine = build_engine(config)
    slot = 0
    if arguments.adapter:
        engine.install_adapter("a", engine.read_adapter(str(arguments.adapter)), True)
        slot = 1  # the first slot, as nothing else is loaded
    loss, count = 0.0, 0
    for chat in chats:
        messages = [
            Message(role=m["role"], segments=(Segment(kind=m["role"], text=m["content"]),))
            for m in chat
        ]
        ids, spans = engine.template.encode(messages, add_generation_prompt=False)
        ids = ids[: engine.base.cache.length]
        length = len(ids)
        step = Step.of([Run(0, slot, 0, 0, length)], ids, range(length), torch.device("cpu"))
        logprobs = torch.log_softmax(engine.base.decoder.forward(step), dim=-1)
        spoken = [i for s in spans if s.kind == "assistant" for i in range(s.start, s.end)]
        for index in (i for i in spoken if 0 < i < length):
            loss -= logprobs[index - 1, ids[index]].item()
            count += 1
    return math.exp(loss / count)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
