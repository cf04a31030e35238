"""A model's chat template: messages to one prompt text, in Jinja's sandbox as transformers does it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from libra.errors import LibraError
from libra.model.files import read_json
from libra.server.errors import bad_field

# For models that come without one.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# What a template that meets something unforeseen in the messages raises.
_REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """``is_default``: the model has none, so the tokenizer must add what a prompt begins with."""

    def __init__(self, directory: Path) -> None:
        """Reads ``chat_template.jinja`` or the template in ``tokenizer_config.json``. Raises LibraError when it is
        broken."""
        config_path = directory / "tokenizer_config.json"
        config = read_json(config_path) if config_path.exists() else {}
        source = _read_template(directory, config)
        self.is_default = source is None
        self._special_tokens = {
            name: _token_text(config[name]) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
            if config.get(name) is not None
        }  # fmt: skip
        try:
            self._template = _environment().from_string(source or DEFAULT_TEMPLATE)
        except TemplateError as error:
            raise LibraError(f"{directory}: the chat template is broken ({error}); take the model's own") from error

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt. Raises ApiError when the template refuses the messages."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except _REFUSALS as error:
            raise bad_field("messages", f"the chat template refuses them: {error}") from None


def _read_template(directory: Path, config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _token_text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
