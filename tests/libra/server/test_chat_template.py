"""Messages to a prompt, by the model's template or the default one."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from libra.errors import LibraError
from libra.server.chat_template import ChatTemplate
from libra.server.errors import ApiError
from tests.tiny_models import TinyModel

TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('no ' + message.role) }}
    {%- endif %}
    {{- '<' + message.role + '>' + message['content'] | trim + eos_token }}
    {%- if loop.last %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}
"""
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}]


def directory_with(tmp_path: Path, tiny: TinyModel, template: Any) -> Path:
    config = json.loads((tiny.directory / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    (tmp_path / "tokenizer.json").write_bytes((tiny.directory / "tokenizer.json").read_bytes())
    return tmp_path


def test_the_prompt_is_that_of_transformers(tmp_path: Path, tiny_model: TinyModel) -> None:
    directory = directory_with(tmp_path, tiny_model, TEMPLATE)
    oracle = AutoTokenizer.from_pretrained(directory)
    template = ChatTemplate(directory)
    assert not template.is_default
    for add in (True, False):
        expected = oracle.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=add)
        assert template.render(MESSAGES, add) == expected


def test_a_template_file_and_a_named_template_are_found(tmp_path: Path, tiny_model: TinyModel) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages | length }}"}]
    directory = directory_with(tmp_path, tiny_model, named)
    assert ChatTemplate(directory).render(MESSAGES) == "2"
    (directory / "chat_template.jinja").write_text("{{ messages | tojson }}")
    assert json.loads(ChatTemplate(directory).render(MESSAGES)) == MESSAGES


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('not so') }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content + 1 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_a_bad_request(
    source: str, tmp_path: Path, tiny_model: TinyModel
) -> None:
    template = ChatTemplate(directory_with(tmp_path, tiny_model, source))
    with pytest.raises(ApiError, match="chat template refuses"):
        template.render(MESSAGES)


def test_without_a_template_there_is_a_plain_one(tiny_model: TinyModel) -> None:
    template = ChatTemplate(tiny_model.directory)
    assert template.is_default
    assert template.render([{"role": "user", "content": "hi"}]) == "user: hi\nassistant:"


def test_a_broken_template_is_said_at_start(tmp_path: Path, tiny_model: TinyModel) -> None:
    with pytest.raises(LibraError, match="chat template is broken"):
        ChatTemplate(directory_with(tmp_path, tiny_model, "{% if %}"))
