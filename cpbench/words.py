"""The text side of a pipeline: one text encoder or, as in SDXL, two, and words of one's own in their tables.

A word's embedding is one vector for all encoders together, (d,) with d = d_1 or d_1 + d_2: methods learn and keep it whole,
and each encoder's table looks up its own part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cpbench.adapters import TokenRows


@dataclass
class Encoder:
    """One text encoder, its tokenizer as it was loaded, and its part of a word's embedding."""

    tokenizer_name: str  # in the pipeline: tokenizer or tokenizer_2
    model: nn.Module
    tokenizer: Any
    table: nn.Module
    part: slice

    @property
    def text_model(self) -> nn.Module:
        return getattr(self.model, "text_model", self.model)


class Vocabulary:
    """The pipeline's encoders, and the rows that were added to their tables, by word."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.rows: dict[str, nn.Parameter] = {}
        self.encoders: list[Encoder] = []
        start = 0
        for suffix in ("", "_2"):
            model = getattr(pipe, f"text_encoder{suffix}", None)
            if model is None:
                continue
            tokenizer = getattr(pipe, f"tokenizer{suffix}")
            text_model = getattr(model, "text_model", model)
            # a text config whose eos_token_id is not the tokenizer's pools at the wrong place (METHODS.md 0.7)
            model.config.eos_token_id = text_model.eos_token_id = tokenizer.eos_token_id
            table = text_model.embeddings.token_embedding
            part = slice(start, start + table.embedding_dim)
            self.encoders.append(Encoder(f"tokenizer{suffix}", model, tokenizer, table, part))
            start = part.stop

    @property
    def pooled(self) -> bool:
        """Whether the UNet also wants the last encoder's pooled embedding, as SDXL's does."""
        return self.pipe.unet.config.addition_embed_type == "text_time"

    def add(self, token: str, value: torch.Tensor) -> nn.Parameter:
        """A new word with the embedding `value` (d,). Returns its row, a float32 parameter of its own."""
        if not self.rows:
            for encoder in self.encoders:
                rows = TokenRows(encoder.table, self.rows, encoder.part)
                encoder.text_model.embeddings.token_embedding = rows
                setattr(self.pipe, encoder.tokenizer_name, copy.deepcopy(encoder.tokenizer))
        for encoder in self.encoders:
            tokenizer = getattr(self.pipe, encoder.tokenizer_name)
            known = len(tokenizer(token, add_special_tokens=False).input_ids) == 1  # "dog" is "dog</w>" in there
            if known or tokenizer.add_tokens(token) != 1:
                raise ValueError(f"the word {token!r} is in the vocabulary already")
            ids = tokenizer(token, add_special_tokens=False).input_ids
            expected = encoder.table.num_embeddings + len(self.rows)
            if ids != [expected]:
                raise RuntimeError(f"the word {token!r} became tokens {ids}, not the one new token {expected}")
        device = self.encoders[0].table.weight.device
        row = nn.Parameter(value.detach().to(device, torch.float32, copy=True))
        self.rows[token.strip("<>")] = row
        return row

    def restore(self) -> None:
        """The tables and tokenizers as they were loaded."""
        for encoder in self.encoders:
            encoder.text_model.embeddings.token_embedding = encoder.table
            setattr(self.pipe, encoder.tokenizer_name, encoder.tokenizer)
        self.rows = {}

    def embedding(self, word: str) -> torch.Tensor:
        """Mean embedding (d,) of a word's tokens in the tables as they were loaded."""
        parts = []
        for encoder in self.encoders:
            ids = encoder.tokenizer(word, add_special_tokens=False).input_ids
            parts.append(encoder.table.weight[ids].detach().float().mean(0))
        return torch.cat(parts)

    def random_embedding(self, generator: torch.Generator) -> torch.Tensor:
        """An embedding (d,) that means nothing: normal, with the mean and spread of the vocabulary's entries."""
        parts = []
        for encoder in self.encoders:
            table = encoder.table.weight.detach().float()
            drawn = torch.randn(table.shape[1], generator=generator).to(table)
            parts.append(table.mean(0) + table.std(0) * drawn)
        return torch.cat(parts)

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Hidden states (n, tokens, d) of the prompts, with gradients to rows that ask for them.

        With two encoders, those of the layers before the last, side by side; where the UNet wants a pooled embedding, it is
        one more token at the end, filled up with zeros, so that words stay one tensor that can be repeated and expanded.
        """
        outputs = [self._run(encoder, prompts) for encoder in self.encoders]
        if not self.pooled:
            return outputs[0][0]
        hidden = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
        pooled = outputs[-1][0]
        last = nn.functional.pad(pooled, (0, hidden.shape[-1] - pooled.shape[-1])).unsqueeze(1)
        return torch.cat([hidden, last], dim=1)

    def ids(self, encoder: Encoder, prompts: list[str]) -> torch.Tensor:
        """Token ids (n, tokens) of the prompts; those of words that were added are not below the table's length."""
        found = getattr(self.pipe, encoder.tokenizer_name)(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=encoder.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return found.to(encoder.table.weight.device)

    def _run(self, encoder: Encoder, prompts: list[str]) -> Any:
        return encoder.model(self.ids(encoder, prompts), output_hidden_states=self.pooled)

    def split(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `encode` returned, as (hidden states, pooled embeddings or None)."""
        if not self.pooled:
            return words, None
        return words[:, :-1], words[:, -1, : self.encoders[-1].model.config.projection_dim]

    def named_encoders(self) -> Iterator[tuple[str, nn.Module]]:
        for encoder in self.encoders:
            yield encoder.tokenizer_name.replace("tokenizer", "text_encoder"), encoder.model
