"""Every field of a request body that means something here: one table, by which bodies are read and described.

``schema()`` is the field in JSON Schema's terms; null counts as absent everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libra.server.fields import Fields

MAX_PROMPTS = 256
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
TOKEN_LIMIT = 1 << 31
_SEED_LIMIT = 1 << 63


@dataclass(frozen=True)
class Field(ABC):
    """``read`` raises ApiError for a value that is none."""

    name: str
    about: str

    def schema(self) -> dict[str, Any]:
        return {"description": self.about, **self.form()}

    @abstractmethod
    def form(self) -> dict[str, Any]:
        """What values may be."""


@dataclass(frozen=True)
class Flag(Field):
    """``default`` None: it depends, and whoever reads it says."""

    default: bool | None = False

    def read(self, fields: Fields, default: bool = False) -> bool:
        return fields.flag(self.name, default if self.default is None else self.default)

    def form(self) -> dict[str, Any]:
        known = {} if self.default is None else {"default": self.default}
        return {"type": ["boolean", "null"], **known}


@dataclass(frozen=True)
class Whole(Field):
    low: int
    high: int

    def read(self, fields: Fields) -> int | None:
        return fields.whole(self.name, self.low, self.high)

    def form(self) -> dict[str, Any]:
        return {"type": ["integer", "null"], "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Number(Field):
    """``above``: ``low`` itself is not allowed."""

    default: float
    low: float
    high: float
    above: bool = False

    def read(self, fields: Fields) -> float:
        return fields.number(self.name, self.default, self.low, self.high, self.above)

    def form(self) -> dict[str, Any]:
        least = "exclusiveMinimum" if self.above else "minimum"
        return {"type": ["number", "null"], least: self.low, "maximum": self.high, "default": self.default}


@dataclass(frozen=True)
class Text(Field):
    """A text of ``shortest`` to ``longest`` characters."""

    shortest: int = 0
    longest: int | None = None
    required: bool = False

    def read(self, fields: Fields) -> str | None:
        return fields.text(self.name, self.shortest, self.longest)

    def need(self, fields: Fields) -> str:
        return fields.needed_text(self.name, self.longest)

    def form(self) -> dict[str, Any]:
        limits: dict[str, Any] = {"minLength": self.shortest} if self.shortest else {}
        if self.longest is not None:
            limits["maxLength"] = self.longest
        return {"type": "string" if self.required else ["string", "null"], **limits}


@dataclass(frozen=True)
class Form(Field):
    """What has several types, or parts; whoever needs it takes it apart."""

    shape: Mapping[str, Any]
    required: bool = False

    def read(self, fields: Fields) -> Any:
        return fields.raw(self.name)

    def form(self) -> dict[str, Any]:
        return dict(self.shape)


_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": TOKEN_LIMIT}}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "input_text"]}, "text": {"type": ["string", "null"]}},
    "required": ["type"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "minLength": 1},
        "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _PART}]},
    },
    "required": ["role"],
}

MODEL = Text("model", "The base model or an adapter, as /v1/models lists them.", shortest=1, required=True)
PROMPT = Form(
    "prompt",
    "A text, token ids, or a list of either.",
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_PROMPTS},
            {**_TOKENS, "minItems": 1},
            {"type": "array", "items": {**_TOKENS, "minItems": 1}, "minItems": 1, "maxItems": MAX_PROMPTS},
        ]
    },
    required=True,
)
MESSAGES = Form("messages", "The conversation.", {"type": "array", "items": _MESSAGE, "minItems": 1}, required=True)
MAX_TOKENS = Whole("max_tokens", "Most tokens of an answer: 16, or in a chat what fits.", 1, TOKEN_LIMIT)
MAX_COMPLETION_TOKENS = Whole("max_completion_tokens", "The newer name of max_tokens.", 1, TOKEN_LIMIT)
N = Whole("n", "Answers to each prompt; 1 unless given.", 1, 128)
TEMPERATURE = Number("temperature", "0 is greedy.", 1.0, 0.0, 100.0)
TOP_P = Number("top_p", "Draw from the most likely tokens that add up to this.", 1.0, 0.0, 1.0, above=True)
TOP_K = Whole("top_k", "Draw from so many most likely tokens; -1 and 0 are no limit.", -1, TOKEN_LIMIT)
SEED = Whole("seed", "Makes draws repeat; answer i of n draws from seed + i.", -_SEED_LIMIT, _SEED_LIMIT - 1)
STOP = Form(
    "stop",
    "Texts that end an answer and are no part of it.",
    {"anyOf": [{"type": "null"}, _STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]},
)
STOP_TOKEN_IDS = Form(
    "stop_token_ids", "Tokens that end an answer.", {**_TOKENS, "type": ["array", "null"], "maxItems": MAX_STOPS}
)
INCLUDE_STOP = Flag("include_stop_str_in_output", "The stop string that was met is part of the answer.")
MIN_TOKENS = Whole("min_tokens", "Nothing but a fault ends the answer before it has so many tokens.", 0, TOKEN_LIMIT)
IGNORE_EOS = Flag("ignore_eos", "The model's end of text does not end the answer: its length is max_tokens.")
LOGPROBS = Whole("logprobs", "Log probabilities of the tokens drawn, and of so many likely ones.", 0, 20)
CHAT_LOGPROBS = Flag("logprobs", "Log probabilities of the tokens drawn.")
TOP_LOGPROBS = Whole("top_logprobs", "With logprobs: of how many likely tokens.", 0, 20)
ECHO = Flag("echo", "The prompt comes before the answer.")
STREAM = Flag("stream", "Server-sent events, one per token.")
INCLUDE_USAGE = Flag("include_usage", "A last event with the usage and no choices.")
CONTINUOUS_USAGE = Flag("continuous_usage_stats", "Token counts so far in every event.")
STREAM_OPTION_FIELDS = (INCLUDE_USAGE, CONTINUOUS_USAGE)
STREAM_OPTIONS = Form(
    "stream_options",
    "How to stream.",
    {"type": ["object", "null"], "properties": {field.name: field.schema() for field in STREAM_OPTION_FIELDS}},
)
RETURN_TOKEN_IDS = Flag("return_token_ids", "Token ids in every choice.")
SKIP_SPECIAL_TOKENS = Flag("skip_special_tokens", "Special tokens have no text.", True)
ADD_SPECIAL_TOKENS = Flag("add_special_tokens", "Put what prompts begin with before the prompt.", None)
ADD_GENERATION_PROMPT = Flag("add_generation_prompt", "End the prompt where the assistant begins to speak.", True)
USER = Text("user", "Who asks: a session in the request log, a salt with --cache-salt user.")
CACHE_SALT = Text("cache_salt", "KV is shared only among requests with the same salt.", 1, 256)
LORA_NAME = Text("lora_name", "What the adapter is called in model.", shortest=1, required=True)
LORA_PATH = Text("lora_path", "A PEFT directory below a --lora-dir of the server.", shortest=1, required=True)
LOAD_INPLACE = Flag("load_inplace", "Replace the adapter of this name; its open requests end with the old weights.")
TOKENS = Form("tokens", "Token ids.", _TOKENS, required=True)
TOKENIZED_MODEL = Text("model", "Any of the models; they share one tokenizer.")
TOKENIZED_PROMPT = Text("prompt", "The text; or give messages.")
TOKENIZED_MESSAGES = Form("messages", "A conversation, through the chat template.", {**MESSAGES.shape})

_SHARED = (
    MODEL, MAX_TOKENS, MAX_COMPLETION_TOKENS, N, TEMPERATURE, TOP_P, TOP_K, SEED, STOP, STOP_TOKEN_IDS, INCLUDE_STOP,
    MIN_TOKENS, IGNORE_EOS, STREAM, STREAM_OPTIONS, RETURN_TOKEN_IDS, SKIP_SPECIAL_TOKENS, ADD_SPECIAL_TOKENS, USER,
    CACHE_SALT,
)  # fmt: skip
COMPLETION_FIELDS: tuple[Field, ...] = (PROMPT, *_SHARED, LOGPROBS, ECHO)
CHAT_FIELDS: tuple[Field, ...] = (MESSAGES, *_SHARED, CHAT_LOGPROBS, TOP_LOGPROBS, ADD_GENERATION_PROMPT)
LOAD_FIELDS: tuple[Field, ...] = (LORA_NAME, LORA_PATH, LOAD_INPLACE)
UNLOAD_FIELDS: tuple[Field, ...] = (LORA_NAME,)
TOKENIZE_FIELDS: tuple[Field, ...] = (
    TOKENIZED_MODEL, TOKENIZED_PROMPT, TOKENIZED_MESSAGES, ADD_SPECIAL_TOKENS, ADD_GENERATION_PROMPT,
)  # fmt: skip
DETOKENIZE_FIELDS: tuple[Field, ...] = (TOKENS, TOKENIZED_MODEL)


def body_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    """The body that ``fields`` make."""
    required = [field.name for field in fields if isinstance(field, Form | Text) and field.required]
    properties = {field.name: field.schema() for field in fields}
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}
