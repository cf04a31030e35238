"""What a completion request asks for, read from its body."""

from dataclasses import dataclass, field
from typing import Any, Literal

from libra.engine.sequence import SamplingParams
from libra.server import body_fields as body
from libra.server.chat_template import ChatTemplate
from libra.server.errors import ApiError, bad_field
from libra.server.fields import Fields
from libra.server.text import StopStrings

# Below this a temperature is greedy: the quotient would leave float32.
_LEAST_TEMPERATURE = 1e-5

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
    count, echo = body.LOGPROBS.read(fields), body.ECHO.read(fields)
    if echo and count is not None:
        raise bad_field("logprobs", "there are none for the prompt; leave out echo or logprobs")
    max_tokens, longer = body.MAX_TOKENS.read(fields), body.MAX_COMPLETION_TOKENS.read(fields)
    max_tokens = longer if max_tokens is None else max_tokens
    return _asked(
        fields,
        kind="completion",
        prompts=_prompts(fields),
        add_special_tokens=body.ADD_SPECIAL_TOKENS.read(fields, default=True),
        max_tokens=16 if max_tokens is None else max_tokens,
        num_logprobs=count,
        echo=echo,
    )


def read_chat(fields: Fields, template: ChatTemplate) -> Asked:
    """The body of /v1/chat/completions. Raises ApiError."""
    count, wants_logprobs = body.TOP_LOGPROBS.read(fields), body.CHAT_LOGPROBS.read(fields)
    max_tokens, older = body.MAX_COMPLETION_TOKENS.read(fields), body.MAX_TOKENS.read(fields)
    prompt = template.render(read_messages(fields), body.ADD_GENERATION_PROMPT.read(fields))
    return _asked(
        fields,
        kind="chat",
        prompts=(prompt,),
        # A template writes what a prompt begins with itself.
        add_special_tokens=body.ADD_SPECIAL_TOKENS.read(fields, default=template.is_default),
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
    model = body.MODEL.read(fields)
    if model is None:
        raise bad_field("model", "name a model; /v1/models lists them")
    min_tokens = body.MIN_TOKENS.read(fields) or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad_field("min_tokens", f"is {min_tokens}, above max_tokens {max_tokens}")
    return Asked(
        kind=kind,
        model=model,
        prompts=prompts,
        add_special_tokens=add_special_tokens,
        max_tokens=max_tokens,
        n=body.N.read(fields) or 1,
        sampling=_sampling(fields, min_tokens, num_logprobs),
        stops=_stops(fields, min_tokens),
        ignore_eos=body.IGNORE_EOS.read(fields),
        skip_special_tokens=body.SKIP_SPECIAL_TOKENS.read(fields),
        echo=echo,
        options=_stream_options(fields),
        user=body.USER.read(fields) or None,
        cache_salt=body.CACHE_SALT.read(fields),
    )


def _sampling(fields: Fields, min_tokens: int, num_logprobs: int | None) -> SamplingParams:
    temperature = body.TEMPERATURE.read(fields)
    stop_tokens = body.STOP_TOKEN_IDS.read(fields) or []
    return SamplingParams(
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_p=body.TOP_P.read(fields),
        top_k=max(body.TOP_K.read(fields) or 0, 0),
        seed=body.SEED.read(fields),
        stop_token_ids=frozenset(_token_list("stop_token_ids", stop_tokens, body.MAX_STOPS)),
        min_tokens=min_tokens,
        logprobs=num_logprobs,
    )


def _stops(fields: Fields, min_tokens: int) -> StopStrings:
    value = body.STOP.read(fields)
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > body.MAX_STOPS:
        raise bad_field("stop", f"must be a string or a list of at most {body.MAX_STOPS}")
    for text in texts:
        if not 1 <= len(fields.as_text("stop", text)) <= body.MAX_STOP_CHARACTERS:
            raise bad_field("stop", f"each must have 1 to {body.MAX_STOP_CHARACTERS} characters")
    return StopStrings(tuple(texts), body.INCLUDE_STOP.read(fields), min_tokens)


def _stream_options(fields: Fields) -> StreamOptions:
    options = fields.child(body.STREAM_OPTIONS.name)
    asked = StreamOptions(
        stream=body.STREAM.read(fields),
        usage=body.INCLUDE_USAGE.read(options),
        continuous_usage=body.CONTINUOUS_USAGE.read(options),
        token_ids=body.RETURN_TOKEN_IDS.read(fields),
    )
    fields.ignore(*options.unread())
    return asked


def _prompts(fields: Fields) -> tuple[Prompt, ...]:
    """A text, a list of texts, token ids, or a list of lists of token ids."""
    value = body.PROMPT.read(fields)
    if isinstance(value, str):
        return (fields.as_text("prompt", value),)
    if not isinstance(value, list) or not value:
        raise bad_field("prompt", "must be a string, a list of strings, token ids, or a list of lists of token ids")
    if isinstance(value[0], int):
        return (_token_list("prompt", value, body.TOKEN_LIMIT),)
    if len(value) > body.MAX_PROMPTS:
        raise bad_field("prompt", f"holds {len(value)} prompts; send at most {body.MAX_PROMPTS} at a time")
    if isinstance(value[0], str):
        return tuple(fields.as_text("prompt", text) for text in value)
    return tuple(_token_list("prompt", tokens, body.TOKEN_LIMIT) for tokens in value)


def _token_list(name: str, value: Any, longest: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > longest:
        raise bad_field(name, "must be a list of token ids")
    # One look at the types, not a call per token: prompts are long.
    if not all(type(token) is int for token in value):
        raise bad_field(name, "must hold token ids alone")
    if value and not 0 <= min(value) <= max(value) < body.TOKEN_LIMIT:
        raise bad_field(name, "holds a number that is no token id")
    return tuple(value)


def read_messages(fields: Fields) -> list[dict[str, Any]]:
    """Chat messages with their contents as text. Raises ApiError."""
    value = body.MESSAGES.read(fields)
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
