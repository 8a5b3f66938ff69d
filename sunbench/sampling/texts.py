"""Prompt embeddings: encoded once per text encoder and prompt, kept on disk with checksums."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from sunbench.errors import MissingFile
from sunbench.models.clip_tokenizer import tokenizer_hash
from sunbench.models.protocols import Pipeline
from sunbench.store import key, make_folder, write_atomic
from sunbench.store.files import read_file

log = logging.getLogger(__name__)

#: Prompts encoded at once; a block of texts is always cut in the same places.
ENCODED_AT_ONCE = 64
#: A file is the sha256 of a safetensors payload, then the payload.
SUFFIX, DIGEST_BYTES = ".embeddings", 32
#: Blocks held in memory: prompts and negative prompts of two shards.
BLOCKS_IN_MEMORY = 4


def _tensor_hash(tensor: Tensor) -> str:
    """sha256 over dtype, shape and bytes of a tensor."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(data.data)
    return digest.hexdigest()


def encoder_key(pipeline: Pipeline) -> str:
    """Content key of what turns a prompt into an embedding, as it is in memory.

    Weights after merged LoRAs, their dtype, the architecture and the tokenizer all count, so two
    pipelines share embeddings only where these are equal.
    """
    encoder = pipeline.text_encoder
    weights = {name: _tensor_hash(x) for name, x in encoder.state_dict().items()}
    return key([type(encoder).__name__, weights, tokenizer_hash(pipeline.tokenizer)])


def embedding_bytes(pipeline: Pipeline) -> int:
    """Bytes of one prompt's embedding."""
    encoder = pipeline.text_encoder
    tokens = int(pipeline.tokenizer.model_max_length)
    return tokens * int(encoder.config.hidden_size) * int(encoder.dtype.itemsize)


@torch.no_grad()
def encode_prompts(pipeline: Pipeline, texts: Sequence[str]) -> Tensor:
    """Embeddings (n, tokens, width) of prompts on the CPU, by the pipeline's own encoder."""
    device = pipeline.text_encoder.device
    parts = [
        pipeline.encode_prompt(
            list(texts[i : i + ENCODED_AT_ONCE]),
            device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0].cpu()
        for i in range(0, len(texts), ENCODED_AT_ONCE)
    ]
    return torch.cat(parts)


class TextCache:
    """Embeddings of prompts in a folder, per text encoder; memory stays flat.

    A file that does not match its checksum is encoded again. ``clear`` removes what it wrote.
    """

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.root = pipeline, folder
        self.folder, self.seconds = folder / encoder_key(pipeline), 0.0
        self._recent: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def block(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings (tokens, width) by text; texts that are asked for together stay together."""
        distinct = sorted(set(texts))
        name = key(distinct)
        if name not in self._recent:
            self._recent[name] = dict(zip(distinct, self._table(name, distinct), strict=True))
            while len(self._recent) > BLOCKS_IN_MEMORY:
                self._recent.popitem(last=False)
        self._recent.move_to_end(name)
        return self._recent[name]

    def _table(self, name: str, texts: list[str]) -> Tensor:
        file = self.folder / f"{name}{SUFFIX}"
        held = _read(file)
        if held is not None:
            return held
        began = time.perf_counter()
        table = encode_prompts(self.pipeline, texts).contiguous()
        self.seconds += time.perf_counter() - began
        make_folder(self.folder)
        payload = save({"embeddings": table})
        write_atomic(file, hashlib.sha256(payload).digest() + payload)
        return table

    def clear(self) -> None:
        """Remove the files of all caches in the folder, and folders that are empty then."""
        clear_texts(self.root)


def clear_texts(root: Path) -> None:
    """Remove the embeddings under a folder, and folders that are empty then."""
    for file in root.glob(f"*/*{SUFFIX}"):
        file.unlink(missing_ok=True)
    for folder in (*root.glob("*/"), root):
        with suppress(OSError):  # something else is in it, or it is gone
            folder.rmdir()


def _read(file: Path) -> Tensor | None:
    """The embeddings in a file, or None where there are none whose checksum is right."""
    try:
        data = read_file(file)
    except MissingFile:
        return None
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() == data[:DIGEST_BYTES]:
        return load(data[DIGEST_BYTES:])["embeddings"]
    log.warning("%s does not match its checksum; its prompts are encoded again", file)
    return None
