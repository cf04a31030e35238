"""Which models a server has, and what stands for which adapter."""

import threading
from pathlib import Path

import pytest

from bench.replay.http import parse_url
from bench.replay.server import Server, ask_server, model_names, serves
from libra.errors import LibraError
from tests.bench.replay.conftest import Start
from tests.bench.replay.stub_server import Behaviour

SERVER = Server("base", ("base", "sql", "lora-00", "lora-01"), "vllm", {})
ADAPTERS = ["lora-00", None, "lora-01"]


def none_else(_: str) -> bool:
    """A server that has no more models than it lists."""
    return False


def test_the_base_model_is_the_one_without_a_parent(start_stub: Start) -> None:
    stub = start_stub(Behaviour(server="libra"))
    server = ask_server(parse_url(stub.url), {}, None, 0.0)
    assert server.base_model == "stub"
    assert "lora-03" in server.listed
    assert (server.name, server.vocab_size) == ("fastlibra", 500)
    foreign = ask_server(parse_url(start_stub(Behaviour()).url), {}, "lora-01", 0.0)
    assert (foreign.base_model, foreign.vocab_size) == ("lora-01", 32_000)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(LibraError, match=r"127\.0\.0\.1:9: cannot be reached \(Connection refused\); start the server"):
        ask_server(parse_url("http://127.0.0.1:9"), {}, None, 0.0)


def test_a_server_without_a_list_needs_the_model_s_name(start_stub: Start) -> None:
    address = parse_url(start_stub(Behaviour(models_status=404)).url)
    with pytest.raises(LibraError, match="HTTP 404, no list of models; name the base model with --model"):
        ask_server(address, {}, None, 0.0)
    server = ask_server(address, {}, "any/model", 0.0)
    assert (server.base_model, server.listed, server.name) == ("any/model", (), "server")


def test_a_server_that_wants_a_key_says_so(start_stub: Start) -> None:
    with pytest.raises(LibraError, match="HTTP 401; give the server's key"):
        ask_server(parse_url(start_stub(Behaviour(models_status=401)).url), {}, None, 0.0)


def test_a_starting_server_is_waited_for(start_stub: Start) -> None:
    stub = start_stub(Behaviour(models_status=503))
    timer = threading.Timer(0.3, lambda: setattr(stub.behaviour, "models_status", 200))
    timer.start()
    assert ask_server(parse_url(stub.url), {}, None, 10.0).base_model == "stub"


def test_an_unknown_base_model_gets_the_nearest(start_stub: Start) -> None:
    stub = start_stub(Behaviour())
    with pytest.raises(LibraError, match="did you mean 'stub'"):
        ask_server(parse_url(stub.url), {}, "stubb", 0.0)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (None, {None: "base", "lora-00": "lora-00", "lora-01": "lora-01"}),
        ("lora-01=sql", {None: "base", "lora-00": "lora-00", "lora-01": "sql"}),
        ("sql,", None),
    ],
)
def test_adapters_have_their_own_names_unless_mapped(
    mapping: str | None, expected: dict[str | None, str] | None
) -> None:
    if expected is None:
        with pytest.raises(LibraError, match="write ADAPTER=MODEL"):
            model_names(SERVER, ADAPTERS, mapping, none_else)
    else:
        assert model_names(SERVER, ADAPTERS, mapping, none_else) == expected


def test_a_mapping_may_be_a_template_or_a_file(tmp_path: Path) -> None:
    anything = Server("base", (), "", {})
    assert model_names(anything, ADAPTERS, "my-{}", none_else)["lora-00"] == "my-lora-00"
    file = tmp_path / "map.json"
    file.write_text('{"lora-00": "sql"}')
    assert model_names(SERVER, ADAPTERS, str(file), none_else)["lora-00"] == "sql"
    file.write_text("[]")
    with pytest.raises(LibraError, match="must be one object"):
        model_names(SERVER, ADAPTERS, str(file), none_else)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("lora-0=sql", "unknown adapter in --lora-model-map 'lora-0': did you mean"),
        ("lora-00=sqll", "adapter lora-00: unknown model 'sqll': did you mean 'sql'"),
    ],
)
def test_names_that_match_nothing_are_refused(mapping: str, message: str) -> None:
    with pytest.raises(LibraError, match=message):
        model_names(SERVER, ADAPTERS, mapping, none_else)


def test_an_adapter_that_is_not_listed_may_be_loaded_on_demand(start_stub: Start) -> None:
    stub = start_stub(Behaviour(unlisted=("sql+v2",)))
    address = parse_url(stub.url)
    assert [serves(address, {}, name) for name in ("sql+v2", "sql", "lora-00")] == [True, False, True]
    server = ask_server(address, {}, None, 0.0)
    names = model_names(server, ["a"], "a=sql+v2", lambda name: serves(address, {}, name))
    assert names == {None: "stub", "a": "sql+v2"}
    with pytest.raises(LibraError, match=r"127\.0\.0\.1:9: cannot be reached"):
        serves(parse_url("http://127.0.0.1:9"), {}, "sql")
