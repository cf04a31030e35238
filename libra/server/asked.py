"""What a completion request asks for, read from its body."""

from dataclasses import dataclass, field
from typing import Any, Literal

from libra.engine.sequence import SamplingParams
from libra.server.chat_template import ChatTemplate
from libra.server.errors import ApiError, bad_field
from libra.server.fields import Fields
from libra.server.text import StopStrings

MAX_CHOICES = 128
MAX_PROMPTS = 256
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
MAX_LOGPROBS = 20
MAX_TEXT = 256
# Below this a temperature is greedy: the quotient would leave float32.
_LEAST_TEMPERATURE = 1e-5
_SEED_LIMIT = 1 << 63
_TOKEN_LIMIT = 1 << 31

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to send the answer: ``usage`` in a last event of its own, or also, ``continuous_usage``, in every one."""

    stream: bool = False
    usage: bool = False
    continuous_usage: bool = False
    token_ids: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``max_tokens`` None: as many as fit. ``sampling`` has no end-of-text tokens yet; they are added
    unless ``ignore_eos``. ``n`` answers to each of ``prompts``."""

    kind: Literal["completion", "chat"]
    model: str
    prompts: tuple[Prompt, ...]
    add_special_tokens: bool
    max_tokens: int | None
    n: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stops: StopStrings = field(default_factory=StopStrings)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    echo: bool = False
    options: StreamOptions = field(default_factory=StreamOptions)
    user: str | None = None
    cache_salt: str | None = None


def read_completion(fields: Fields) -> Asked:
    """The body of /v1/completions. Raises ApiError."""
    count = fields.whole("logprobs", 0, MAX_LOGPROBS)
    echo = fields.flag("echo")
    if echo and count is not None:
        raise bad_field("logprobs", "there are none for the prompt; leave out echo or logprobs")
    max_tokens = fields.whole("max_tokens", 1, _TOKEN_LIMIT)
    longer = fields.whole("max_completion_tokens", 1, _TOKEN_LIMIT)
    max_tokens = longer if max_tokens is None else max_tokens
    return _asked(
        fields,
        kind="completion",
        prompts=_prompts(fields),
        add_special_tokens=fields.flag("add_special_tokens", True),
        max_tokens=16 if max_tokens is None else max_tokens,
        num_logprobs=count,
        echo=echo,
    )


def read_chat(fields: Fields, template: ChatTemplate) -> Asked:
    """The body of /v1/chat/completions. Raises ApiError."""
    count = fields.whole("top_logprobs", 0, MAX_LOGPROBS)
    wants_logprobs = fields.flag("logprobs")
    max_tokens = fields.whole("max_completion_tokens", 1, _TOKEN_LIMIT)
    older = fields.whole("max_tokens", 1, _TOKEN_LIMIT)
    prompt = template.render(read_messages(fields), fields.flag("add_generation_prompt", True))
    return _asked(
        fields,
        kind="chat",
        prompts=(prompt,),
        # A template writes what a prompt begins with itself.
        add_special_tokens=fields.flag("add_special_tokens", template.is_default),
        max_tokens=older if max_tokens is None else max_tokens,
        num_logprobs=(count or 0) if wants_logprobs else None,
        echo=False,
    )


def _asked(
    fields: Fields,
    kind: Literal["completion", "chat"],
    prompts: tuple[Prompt, ...],
    add_special_tokens: bool,
    max_tokens: int | None,
    num_logprobs: int | None,
    echo: bool,
) -> Asked:
    model = fields.text("model")
    if not model:
        raise bad_field("model", "name a model; /v1/models lists them")
    min_tokens = fields.whole("min_tokens", 0, _TOKEN_LIMIT) or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad_field("min_tokens", f"is {min_tokens}, above max_tokens {max_tokens}")
    return Asked(
        kind=kind,
        model=model,
        prompts=prompts,
        add_special_tokens=add_special_tokens,
        max_tokens=max_tokens,
        n=fields.whole("n", 1, MAX_CHOICES) or 1,
        sampling=_sampling(fields, min_tokens, num_logprobs),
        stops=_stops(fields, min_tokens),
        ignore_eos=fields.flag("ignore_eos"),
        skip_special_tokens=fields.flag("skip_special_tokens", True),
        echo=echo,
        options=_stream_options(fields),
        user=_short_text(fields, "user"),
        cache_salt=_short_text(fields, "cache_salt"),
    )


def _sampling(fields: Fields, min_tokens: int, num_logprobs: int | None) -> SamplingParams:
    temperature = fields.number("temperature", 1.0, 0.0, 100.0)
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    if top_p == 0.0:
        raise bad_field("top_p", "must be above 0")
    return SamplingParams(
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_p=top_p,
        top_k=max(fields.whole("top_k", -1, _TOKEN_LIMIT) or 0, 0),
        seed=fields.whole("seed", -_SEED_LIMIT, _SEED_LIMIT - 1),
        stop_token_ids=frozenset(_token_list(fields, "stop_token_ids", fields.raw("stop_token_ids") or [], MAX_STOPS)),
        min_tokens=min_tokens,
        logprobs=num_logprobs,
    )


def _stops(fields: Fields, min_tokens: int) -> StopStrings:
    value = fields.raw("stop")
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > MAX_STOPS:
        raise bad_field("stop", f"must be a string or a list of at most {MAX_STOPS}")
    for text in texts:
        if not 1 <= len(fields.as_text("stop", text)) <= MAX_STOP_CHARACTERS:
            raise bad_field("stop", f"each must have 1 to {MAX_STOP_CHARACTERS} characters")
    return StopStrings(tuple(texts), fields.flag("include_stop_str_in_output"), min_tokens)


def _stream_options(fields: Fields) -> StreamOptions:
    options = fields.child("stream_options")
    stream = fields.flag("stream")
    asked = StreamOptions(
        stream=stream,
        usage=options.flag("include_usage"),
        continuous_usage=options.flag("continuous_usage_stats"),
        token_ids=fields.flag("return_token_ids"),
    )
    fields.ignore(*options.unread())
    return asked


def _short_text(fields: Fields, name: str) -> str | None:
    text = fields.text(name)
    if text is not None and not 1 <= len(text) <= MAX_TEXT:
        raise bad_field(name, f"must have 1 to {MAX_TEXT} characters")
    return text


def _prompts(fields: Fields) -> tuple[Prompt, ...]:
    """A text, a list of texts, token ids, or a list of lists of token ids."""
    value = fields.raw("prompt")
    if isinstance(value, str):
        return (fields.as_text("prompt", value),)
    if not isinstance(value, list) or not value:
        raise bad_field("prompt", "must be a string, a list of strings, token ids, or a list of lists of token ids")
    if isinstance(value[0], int):
        return (_token_list(fields, "prompt", value, _TOKEN_LIMIT),)
    if len(value) > MAX_PROMPTS:
        raise bad_field("prompt", f"holds {len(value)} prompts; send at most {MAX_PROMPTS} at a time")
    if isinstance(value[0], str):
        return tuple(fields.as_text("prompt", text) for text in value)
    return tuple(_token_list(fields, "prompt", tokens, _TOKEN_LIMIT) for tokens in value)


def _token_list(fields: Fields, name: str, value: Any, longest: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > longest:
        raise bad_field(name, "must be a list of token ids")
    # One look at the types, not a call per token: prompts are long.
    if not all(type(token) is int for token in value):
        raise bad_field(name, "must hold token ids alone")
    if value and not 0 <= min(value) <= max(value) < _TOKEN_LIMIT:
        raise bad_field(name, "holds a number that is no token id")
    return tuple(value)


def read_messages(fields: Fields) -> list[dict[str, Any]]:
    """Chat messages with their contents as text. Raises ApiError."""
    value = fields.raw("messages")
    if not isinstance(value, list) or not value:
        raise bad_field("messages", "must be a list of at least one message")
    return [_message(message, f"messages[{number}].") for number, message in enumerate(value)]


def _message(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_field(path.rstrip("."), "must be an object with role and content")
    message = Fields(value, path)
    role = message.text("role")
    if not role:
        raise bad_field(f"{path}role", "must name who speaks, such as user")
    content = message.raw("content")
    if isinstance(content, list):
        content = "\n".join(_part(part, f"{path}content[{number}].") for number, part in enumerate(content))
    return {**value, "role": role, "content": "" if content is None else message.as_text("content", content)}


def _part(value: Any, path: str) -> str:
    part = Fields(value if isinstance(value, dict) else {}, path)
    if part.text("type") not in ("text", "input_text"):
        raise ApiError(400, f"{path}type: only parts of type text are understood", "unsupported_value", "messages")
    return part.text("text") or ""
