"""The llama.cpp paths of bench/tavern.py, through its C interface; needs no torch.

    python -m pip install llama-cpp-python gguf safetensors

Requests with distinct LoRAs never share a decode there, so each line has decodes of its own. The
adapters' cost is not counted: the base alone decodes, which flatters it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

from bench.tavern import Clock, Plan, new_clock

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


BATCH = 2048  # most tokens of one decode

Item = tuple[int, int, int, bool]
"""A token to decode: its line, its position, its id, and whether its logits are wanted."""


def run_llama(plan: Plan, path: str) -> Clock:
    """The first turn of every line: one decode per line and step, or one for all of them."""
    llama = _Llama(plan, "q8_0" if "q8_0" in path else "f32")
    groups = [list(range(plan.npcs))] if "one batch" in path else [[n] for n in range(plan.npcs)]
    llama.decode([(0, n, 5, n == 7) for n in range(8)])  # warm up
    llama.forget()
    clock, said = new_clock(), dict[int, list[int]]()
    clock.asked = {f"{npc}/0": clock.began for npc in range(plan.npcs)}
    for step in range(plan.new_tokens):
        for group in groups:
            if step:
                at = plan.persona_tokens + step - 1
                items = [(npc, at, said[npc][-1], True) for npc in group]
            else:
                last = plan.persona_tokens - 1
                items = [(n, at, t, at == last) for n in group for at, t in _enumerate(plan, n)]
            for npc, token in llama.decode(items).items():
                said.setdefault(npc, []).append(token)
                clock.tokens.setdefault(f"{npc}/0", []).append(time.perf_counter())
    return clock


def _enumerate(plan: Plan, npc: int) -> Sequence[tuple[int, int]]:
    return list(enumerate(plan.prompt(npc)))


class _Llama:
    """A model, a context with a sequence per line, and one batch that is filled again and again."""

    def __init__(self, plan: Plan, kind: str) -> None:
        file = Path(plan.base) / f"{kind}.gguf"
        if not file.is_file():
            write_gguf(Path(plan.base), file, kind)
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self._model: Any = llama_cpp.llama_model_load_from_file(str(file).encode(), settings)
        room = llama_cpp.llama_context_default_params()
        room.n_ctx = plan.npcs * 64 * -(-(plan.persona_tokens + plan.new_tokens) // 64)
        room.n_batch, room.n_seq_max = BATCH, plan.npcs
        room.n_threads = room.n_threads_batch = plan.threads
        self._context: Any = llama_cpp.llama_init_from_model(self._model, room)
        self._batch: Any = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._vocabulary = plan.vocabulary

    def decode(self, items: Sequence[Item]) -> dict[int, int]:
        """The likeliest next token of each line whose logits are wanted."""
        found: dict[int, int] = {}
        for first in range(0, len(items), BATCH):
            part = items[first : first + BATCH]
            batch = self._batch
            batch.n_tokens = len(part)
            for i, (line, position, token, wanted) in enumerate(part):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, line
            if code := llama_cpp.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode returned {code}")
            for i, (line, _, _, wanted) in enumerate(part):
                if wanted:
                    pointer = llama_cpp.llama_get_logits_ith(self._context, i)
                    found[line] = int(np.ctypeslib.as_array(pointer, (self._vocabulary,)).argmax())
        return found

    def forget(self) -> None:
        """Empty every sequence."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)


def write_gguf(folder: Path, file: Path, kind: str) -> None:
    """Write model.safetensors of a folder as GGUF without a vocabulary: benches feed ids.

    Args:
        kind: of the matrices, "q8_0" or "f32"; vectors are in fp32.
    """
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else gguf.LlamaFileType.ALL_F32
    )
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in load_file(folder / "model.safetensors").items():
        found = tensor.astype(np.float32)
        if ".q_proj" in name or ".k_proj" in name:
            found = _interleave(found, heads if ".q_proj" in name else kv_heads)
        _add(writer, _rename(name), found, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rename(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name in ("model.norm.weight", "lm_head.weight"):
        return "output_norm.weight" if "norm" in name else "output.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def _interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs, transformers halves: reorder each head's rows."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _add(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, kind: str) -> None:
    if tensor.ndim == 1 or kind == "f32":
        writer.add_tensor(name, tensor)
        return
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(tensor, q8_0), raw_dtype=q8_0)
