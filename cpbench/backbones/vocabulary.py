"""The text encoders of a pipeline (CLIP, T5 or a language model) and the words that methods add to them.

A word's embedding is one vector for all encoders together, (d,) with d = d_1 or d_1 + d_2. Methods learn and store the
whole vector, and each encoder uses its part. A part is a row as the encoder's table stores it: some tables multiply what
is looked up (Gemma), and an added row goes through the same.

A tokenizer and its embedding table may differ in length: tables are padded to a multiple of 64, and some words are only
in the tokenizer. Therefore an added word's embedding is looked up by the tokenizer's id, wherever the table ends.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from cpbench.errors import UserError, quoted
from cpbench.moved import old_names
from cpbench.output import say

WordEncoders = Literal["all", "clip", "t5"]


@dataclass(eq=False)
class Encoder:
    """One text encoder, its tokenizer as it was loaded, and its part of a word's embedding."""

    tokenizer_name: str  # in the pipeline: tokenizer or tokenizer_2
    model: nn.Module
    tokenizer: Any
    table: nn.Module
    part: slice
    max_length: int  # tokens of a prompt, with begin and end
    places: list[tuple[nn.Module, str, nn.Module]]  # (module, name in it, table): T5 has its table in two
    ids: dict[str, int] = field(default_factory=dict)  # of the added words, by the names of their embeddings
    untrained: set[str] = field(
        default_factory=set
    )  # added words whose part here gets no gradient, see `Vocabulary.add`

    @property
    def kind(self) -> str:
        """What `word_encoders` calls it: "clip", "t5" or "other"."""
        model_type = str(getattr(self.model.config, "model_type", ""))
        return next((kind for kind in ("clip", "t5") if model_type.startswith(kind)), "other")

    @property
    def entries(self) -> torch.Tensor:
        """The rows (n, d) of the table that the tokenizer has a word for, float32: without the padding of the table."""
        table = self.table.weight.detach().float()
        words = sorted(i for i in set(self.tokenizer.get_vocab().values()) if i < len(table))
        return table if len(words) == len(table) else table[words]

    @functools.cached_property
    def is_spaced(self) -> bool:
        """Whether the space before a word belongs to its token (Gemma): an added word takes it in, else it would be a token."""
        bare, spaced = (self.tokenizer(text, add_special_tokens=False).input_ids for text in ("a", " a"))
        return bare != spaced

    @property
    def text_model(self) -> nn.Module:
        """The transformer of the encoder, without a projection."""
        return getattr(self.model, "text_model", self.model)


class Vocabulary:
    """The pipeline's text encoders, and the embeddings of the added words, by word."""

    def __init__(
        self,
        pipe: Any,
        tokenizers: Iterable[str],
        max_lengths: Mapping[str, int] | None = None,
        prepared: Callable[[str], str] = str,
    ):
        """tokenizers: their names in the pipeline, in the order of the parts of a word's embedding.

        max_lengths: of prompts in tokens, by tokenizer; the default is the tokenizer's own. prepared: what is done to
        each prompt first.
        """
        self.pipe, self.prepared = pipe, prepared
        self.token_embeddings: dict[str, nn.Parameter] = {}
        self.encoders: list[Encoder] = []
        start = 0
        for name in tokenizers:
            model, tokenizer = getattr(pipe, encoder_name(name)), getattr(pipe, name)
            if is_clip(model):
                text_model = getattr(model, "text_model", model)
                # with another eos_token_id than the tokenizer's, the text model pools at the wrong token (METHODS.md 0.7)
                model.config.eos_token_id = text_model.eos_token_id = tokenizer.eos_token_id
            table = model.get_input_embeddings()
            part = slice(start, start + table.embedding_dim)
            max_length = (max_lengths or {}).get(name, tokenizer.model_max_length)
            self.encoders.append(Encoder(name, model, tokenizer, table, part, max_length, places_of(model, table)))
            start = part.stop

    def add(self, token: str, value: torch.Tensor, word_encoders: WordEncoders = "all") -> nn.Parameter:
        """Add a word with the embedding `value` (d,). Returns the embedding as a new float32 parameter.

        word_encoders: the text encoders in whose parts it gets gradients; the other parts stay as they are. UserError if
        the pipeline has no such encoder.

        It hides a word of the same name that the pipeline's author added, until `restore`. ValueError for a word of the
        vocabulary, and for one that has been added before.
        """
        trained = [encoder for encoder in self.encoders if word_encoders in ("all", encoder.kind)]
        if not trained:
            raise UserError(
                f"word_encoders={word_encoders}: the backbone's text encoders are {', '.join(e.kind for e in self.encoders)}; use all"
            )
        if not self.token_embeddings:
            for encoder in self.encoders:
                for module, attribute, table in encoder.places:
                    setattr(
                        module,
                        attribute,
                        TokenEmbeddings(table, self.token_embeddings, encoder.part, encoder.ids, encoder.untrained),
                    )
                setattr(self.pipe, encoder.tokenizer_name, copy.deepcopy(encoder.tokenizer))
        name = token.strip("<>")
        ids = {encoder.tokenizer_name: self._id_of(encoder, token) for encoder in self.encoders}
        for encoder in self.encoders:
            encoder.ids[name] = ids[encoder.tokenizer_name]
            if encoder not in trained:
                encoder.untrained.add(name)
        device = self.encoders[0].table.weight.device
        embedding = nn.Parameter(value.detach().to(device, torch.float32, copy=True))
        self.token_embeddings[name] = embedding
        return embedding

    def _id_of(self, encoder: Encoder, token: str) -> int:
        """The id of a word that is not in the vocabulary; the copy of the tokenizer gets the word if needed."""
        from transformers import AddedToken

        tokenizer = getattr(self.pipe, encoder.tokenizer_name)
        makers = encoder.tokenizer.added_tokens_encoder
        if f"{token}_1" in makers:  # diffusers would insert all of the author's vectors for the first
            raise UserError(
                f"the word {quoted(token)}: the backbone's tokenizer has a word of this name with several vectors "
                f"({quoted(token + '_1')}); take it out of the pipeline, or use the pipeline it was added to"
            )
        ids = tokenizer(token, add_special_tokens=False).input_ids
        hidden = token in makers and token not in encoder.tokenizer.all_special_tokens
        if (
            ids and ids[0] in encoder.ids.values() or len(ids) == 1 and not hidden
        ):  # "dog" is "dog</w>" in the vocabulary
            raise ValueError(f"the word {token!r} is in the vocabulary already")
        if not hidden:
            tokenizer.add_tokens(AddedToken(token, lstrip=True, normalized=False) if encoder.is_spaced else token)
            ids = tokenizer(token, add_special_tokens=False).input_ids
        taken_ids = set(encoder.tokenizer.get_vocab().values()) - ({makers[token]} if hidden else set())
        if len(ids) != 1 or ids[0] in taken_ids:
            raise RuntimeError(f"the word {token!r} became tokens {ids}, not one that is new")
        return ids[0]

    def restore(self) -> None:
        """The tables and tokenizers as they were loaded."""
        for encoder in self.encoders:
            for module, attribute, table in encoder.places:
                setattr(module, attribute, table)
            setattr(self.pipe, encoder.tokenizer_name, encoder.tokenizer)
            encoder.ids, encoder.untrained = {}, set()
        self.token_embeddings = {}

    def embedding(self, word: str) -> torch.Tensor:
        """Mean embedding (d,) of a word's tokens in the original tables."""
        parts = []
        for encoder in self.encoders:
            ids = encoder.tokenizer(f" {word}" if encoder.is_spaced else word, add_special_tokens=False).input_ids
            self._refuse_without_embedding(encoder, torch.tensor(ids), word)
            parts.append(encoder.table.weight[ids].detach().float().mean(0))
        return torch.cat(parts)

    def piece_embedding(self, piece: str) -> torch.Tensor:
        """Embedding (d,) of a piece of the vocabulary, such as CLIP's "ktn" inside of a word.

        A piece that stands only in words of the table's own (CLIP's "ktn" is 42170, and the word "ktn" is two others).
        Where a table has no such piece, it is the mean of the word's tokens; a line says so if these are several.
        """
        parts = []
        for encoder in self.encoders:
            tokenizer = encoder.tokenizer
            place = tokenizer.get_vocab().get(piece)
            ids = None if place is None else [place]
            if ids is None:
                ids = tokenizer(f" {piece}" if encoder.is_spaced else piece, add_special_tokens=False).input_ids
                if len(ids) > 1:
                    say(
                        f"{piece!r} is no piece of {encoder.tokenizer_name}: the mean of its {len(ids)} tokens is taken"
                    )
            self._refuse_without_embedding(encoder, torch.tensor(ids), piece)
            parts.append(encoder.table.weight[ids].detach().float().mean(0))
        return torch.cat(parts)

    def random_embedding(self, generator: torch.Generator) -> torch.Tensor:
        """A random embedding (d,): normal, with the mean and standard deviation of the vocabulary's embeddings."""
        parts = []
        for encoder in self.encoders:
            entries = encoder.entries
            noise = torch.randn(entries.shape[1], generator=generator).to(entries)
            parts.append(entries.mean(0) + entries.std(0) * noise)
        return torch.cat(parts)

    def added(self, encoder: Encoder, ids: torch.Tensor) -> torch.Tensor:
        """Whether each token id is of an added word: bool, in the shape of `ids`."""
        return torch.isin(ids, torch.tensor(list(encoder.ids.values()), dtype=ids.dtype, device=ids.device))

    def ids(self, encoder: Encoder, prompts: list[str]) -> torch.Tensor:
        """Token ids (n, tokens) of the prompts. UserError for a word without an embedding."""
        return self._tokens(encoder, prompts).input_ids.to(encoder.table.weight.device)

    def _tokens(self, encoder: Encoder, prompts: list[str]) -> Any:
        tokens = getattr(self.pipe, encoder.tokenizer_name)(
            [self.prepared(prompt) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=encoder.max_length,
            return_tensors="pt",
        )
        for ids, prompt in zip(tokens.input_ids, prompts, strict=True):
            self._refuse_without_embedding(encoder, ids, prompt)
        return tokens

    def _refuse_without_embedding(self, encoder: Encoder, ids: torch.Tensor, text: str) -> None:
        without_embedding = ids[(ids >= encoder.table.num_embeddings) & ~self.added(encoder, ids)]
        if len(without_embedding):
            word = encoder.tokenizer.convert_ids_to_tokens(int(without_embedding[0]))
            raise UserError(
                f"{quoted(text)}: the backbone's {encoder.tokenizer_name} has the word {quoted(word)}, for which its text "
                f"encoder has no embedding ({encoder.table.num_embeddings} rows); add one, or remove the word"
            )

    def mask(self, encoder: Encoder, prompts: list[str]) -> torch.Tensor:
        """1 for the tokens (n, tokens) of the prompts, 0 for the padding; int64."""
        return self._tokens(encoder, prompts).attention_mask.to(encoder.table.weight.device)

    def outputs(self, encoder: Encoder, prompts: list[str], masked: bool = False, all_layers: bool = False) -> Any:
        """A text encoder's outputs for the prompts, with gradients to the trained token embeddings.

        masked: the padding is masked. all_layers: include the hidden states of each layer.
        """
        tokens, device, more = self._tokens(encoder, prompts), encoder.table.weight.device, {}
        if masked:
            more["attention_mask"] = tokens.attention_mask.to(device)
        return encoder.model(tokens.input_ids.to(device), output_hidden_states=all_layers, **more)

    def named_encoders(self) -> Iterator[tuple[str, nn.Module]]:
        """The text encoders by their names in the pipeline: ("text_encoder", ...)."""
        for encoder in self.encoders:
            yield encoder_name(encoder.tokenizer_name), encoder.model


def encoder_name(tokenizer_name: str) -> str:
    """The text encoder's name in a pipeline: text_encoder_2 is the one of tokenizer_2."""
    return tokenizer_name.replace("tokenizer", "text_encoder")


def is_clip(model: nn.Module) -> bool:
    """Whether a text encoder is CLIP's, which pools at the end of text and has position embeddings."""
    return str(getattr(model.config, "model_type", "")).startswith("clip")


def places_of(model: nn.Module, table: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(module, name, table) of all embedding tables in a text encoder that have this table's weight.

    T5's `get_input_embeddings` is not the table that its encoder calls, though both have one weight.
    """
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if child is table or (isinstance(child, nn.Embedding) and child.weight is table.weight)
    ]


def refuse_unmerged(tokenizer: Any, label: str) -> None:
    """UserError for a tokenizer whose merges cannot produce some words of its vocabulary. label: how the message begins.

    With an empty or truncated merges.txt each word is split into letters, without any error.
    """
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return
    model = json.loads(backend.to_str())["model"]
    if model["type"] != "BPE":
        return
    merged = {"".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]}
    end = model.get("end_of_word_suffix") or ""
    words = {token for token in model["vocab"] if not (token.startswith("<") and token.endswith(">"))}
    unreachable = (
        {token for token in words if len(token.removesuffix(end)) > 1} - merged - set(tokenizer.added_tokens_encoder)
    )
    if unreachable:
        raise UserError(
            f"{label}: its tokenizer has {len(merged)} merges, by which {len(unreachable)} words of its vocabulary, such as "
            f"{quoted(min(unreachable))}, can never be read; merges.txt or tokenizer.json is cut short, fetch it again"
        )


class TokenEmbeddings(nn.Module):
    """An embedding table plus added embeddings as separate parameters, so that the table itself cannot change.

    token_embeddings: by word, of which `part` belongs to this table. ids: each word's token id; by default the ids that
    follow the table. All other ids are looked up in the table. untrained: words that get no gradient from here.
    """

    def __init__(
        self,
        table: nn.Embedding,
        token_embeddings: Mapping[str, nn.Parameter],
        part: slice = slice(None),
        ids: Mapping[str, int] | None = None,
        untrained: Container[str] = (),
    ):
        super().__init__()
        self.table, self.token_embeddings, self.ids, self.part = table, token_embeddings, ids, part
        self.untrained = untrained

    @property
    def weight(self) -> torch.Tensor:
        """The table's weight: transformers reads its dtype and device."""
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.token_embeddings:
            return self.table(ids)
        length = self.table.num_embeddings
        answers = [length + i if self.ids is None else self.ids[word] for i, word in enumerate(self.token_embeddings)]
        matches = ids.unsqueeze(-1) == torch.tensor(answers, device=ids.device)
        added = matches.any(-1)
        out = self.table(ids.masked_fill(added, 0))  # added ids may be beyond the table
        rows = {word: embedding[self.part] for word, embedding in self.token_embeddings.items()}
        rows = {word: row.detach() if word in self.untrained else row for word, row in rows.items()}
        extra = torch.stack(list(rows.values())).to(out.dtype)
        if (scale := getattr(self.table, "embed_scale", None)) is not None:  # as Gemma's table does in its forward
            extra = extra * torch.as_tensor(scale).to(out)
        return torch.where(added.unsqueeze(-1), extra[matches.int().argmax(-1)], out)


__getattr__ = old_names(__name__)
