"""Adapters that come and go over HTTP, and where they may come from."""

import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import find_policy
from libra.engine.engine import Engine
from libra.model.adapter import AdapterSource
from libra.server.settings import EngineSettings
from tests.libra.server.running import BASE, Reply, Running, engine_settings, running, settings, slowed
from tests.tiny_models import TinyModel

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def root(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A directory that the server may load from: two adapters at start, more to come."""
    made = tmp_path / "adapters"
    made.mkdir()
    for name in ("adapter-00", "adapter-01"):
        shutil.copytree(tiny_model.adapters[name], made / name)
    return made


def started(tiny: TinyModel, root: Path, **changes: object) -> Iterator[Running]:
    torch.set_num_threads(1)
    wanted = engine_settings(tiny, adapters={}, **changes)
    with running(settings(lora_dirs=(root,)), wanted) as server:
        yield server
        server.check_idle()


@pytest.fixture
def served(tiny_model: TinyModel, root: Path) -> Iterator[Running]:
    yield from started(tiny_model, root)


def load(server: Running, name: str, path: Path | str) -> Reply:
    return server.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path))


def unload(server: Running, name: str) -> Reply:
    return server.post("/v1/unload_lora_adapter", lora_name=name)


def tokens(server: Running, model: str) -> list[int]:
    reply = server.complete(model=model, prompt=PROMPT, ignore_eos=True, return_token_ids=True)
    assert reply.status == 200, reply.body
    found: list[int] = reply.json["choices"][0]["token_ids"]
    return found


def names(server: Running) -> list[str]:
    return [card["id"] for card in server.get("/v1/models").json["data"]]


def test_an_adapter_comes_goes_and_comes_back_as_another(served: Running, root: Path, tiny_model: TinyModel) -> None:
    reference = {name: tokens(served, name) for name in ("adapter-00", "adapter-01")}
    assert reference["adapter-00"] != reference["adapter-01"]
    reply = load(served, "mine", root / "adapter-00")
    assert (reply.status, reply.body) == (200, b"Success: LoRA adapter 'mine' added successfully.")
    assert names(served) == [BASE, "adapter-00", "adapter-01", "mine"]
    assert tokens(served, "mine") == reference["adapter-00"]
    again = load(served, "mine", root / "adapter-01")
    assert again.status == 400
    assert "has already been loaded" in again.error["message"]
    reply = unload(served, "mine")
    assert (reply.status, reply.body) == (200, b"Success: LoRA adapter 'mine' removed successfully.")
    assert served.complete(model="mine").status == 404
    assert unload(served, "mine").status == 404
    # Other weights under the old name: neither the old weights nor the old KV may show.
    assert load(served, "mine", root / "adapter-01").status == 200
    assert tokens(served, "mine") == reference["adapter-01"]


def test_unloading_frees_every_block_in_both_tiers(served: Running, root: Path) -> None:
    def used(engine: Engine) -> tuple[int, int]:
        memory = engine.manager.memory
        return memory.hbm.num_free, memory.host.num_free

    before = None
    while before != (before := served.in_engine(used)):
        time.sleep(0.3)  # what the swapper brings in while nobody asks for it
    assert load(served, "extra", root / "adapter-01").status == 200
    for number in range(3):
        served.complete(model="extra", prompt=[number] * 50)
    assert served.in_engine(used) != before
    assert unload(served, "extra").status == 200
    assert served.in_engine(used) == before
    served.check_idle()


def test_a_running_request_keeps_its_adapter_to_the_end(served: Running, root: Path) -> None:
    connection = served.open(
        "POST", "/v1/completions",
        {"model": "adapter-01", "prompt": PROMPT, "max_tokens": 60, "ignore_eos": True, "stream": True},
    )  # fmt: skip
    response = connection.getresponse()
    assert unload(served, "adapter-01").status == 200, "answers once the request has ended"
    whole = response.read()
    connection.close()
    assert whole.count(b'"text"') == 60
    assert whole.endswith(b"data: [DONE]\n\n")
    assert served.complete(model="adapter-01").status == 404, "one that was unloaded does not come back by itself"
    assert load(served, "adapter-01", root / "adapter-01").status == 200
    assert served.complete(model="adapter-01").status == 200


def test_an_adapter_is_found_when_it_is_asked_for(served: Running, root: Path, tiny_model: TinyModel) -> None:
    assert served.complete(model="adapter-02").status == 404
    shutil.copytree(tiny_model.adapters["adapter-02"], root / "adapter-02")
    reply = served.complete(model="adapter-02", stream=True, stream_options={"include_usage": True})
    assert reply.events[-1]["usage"]["libra"]["adapter_tier"] == "disk"
    assert "adapter-02" in names(served)
    assert served.complete(model="../adapters/adapter-00").status == 404


def test_nothing_outside_the_root_is_read(served: Running, root: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(tiny_model.adapters["adapter-03"], outside)
    (root / "linked").symlink_to(outside)
    half = root / "half"
    half.mkdir()
    (half / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    (half / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    inside_link = root / "alias"
    inside_link.symlink_to(root / "adapter-00")
    for path in (outside, root / "linked", half, root / ".." / "outside", "/etc", "", "\0", "x" * 5000):
        reply = load(served, "stolen", path)
        assert reply.status == 400, path
    assert load(served, "gone", tmp_path / "not there").error["message"].count("not an adapter below") == 1
    for name in ("linked", "half", "outside"):
        assert served.complete(model=name).status == 404
    assert load(served, "alias", inside_link).status == 200
    assert load(served, "nothing", root / "nothing").status == 404
    for name in ("a/b", "..", "", "a b", "x" * 300):
        assert load(served, name, root / "adapter-00").status == 400
    assert load(served, BASE, root / "adapter-00").status == 400


def test_what_is_no_adapter_of_this_model_is_refused(served: Running, root: Path, tiny_model: TinyModel) -> None:
    pickled = root / "pickled"
    shutil.copytree(tiny_model.adapters["adapter-02"], pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cut = root / "cut"
    shutil.copytree(tiny_model.adapters["adapter-02"], cut)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for name, word in (("pickled", "pickles are not read"), ("cut", "safetensors")):
        reply = load(served, name, root / name)
        assert (reply.status, reply.error["code"]) == (400, "invalid_adapter")
        assert word in reply.error["message"]
        assert name not in names(served)


def test_without_a_root_nothing_can_be_loaded(tiny_model: TinyModel) -> None:
    with running(settings(), engine_settings(tiny_model)) as server:
        reply = load(server, "x", tiny_model.adapters["adapter-00"])
        assert reply.status == 400
        assert "--lora-dir" in reply.error["message"]


def test_a_deleted_file_ends_only_the_requests_that_need_it(served: Running, root: Path, tiny_model: TinyModel) -> None:
    good = tokens(served, "adapter-00")
    shutil.copytree(tiny_model.adapters["adapter-02"], root / "late")
    assert load(served, "late", root / "late").status == 200
    weights = root / "late" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    for stream in (False, True):
        reply = served.complete(model="late", stream=stream)
        assert (reply.status, reply.error["code"]) == (500, "adapter_load_failed")
    assert tokens(served, "adapter-00") == good
    assert served.get("/health").status == 200
    served.check_idle()
    weights.write_bytes(kept)
    assert served.complete(model="late").status == 200, "it is tried again"


@pytest.mark.parametrize("policy", ["vllm-async", "sglang"])
def test_policies_with_slots_take_adapters_up_to_the_rank_they_were_told(
    policy: str, root: Path, tiny_model: TinyModel
) -> None:
    make_policy = partial(find_policy, policy)
    config = EngineSettings(make_policy, tiny_model.directory).config
    for server in started(tiny_model, root, policy=make_policy, max_lora_rank=8, config=config):
        shutil.copytree(tiny_model.adapters["adapter-04"], root / "wide")
        for name in ("adapter-00", "wide", "adapter-01", "wide"):
            assert served_tokens(server, name)


def served_tokens(server: Running, name: str) -> list[int]:
    return tokens(server, name)


def test_loading_in_place_replaces_weights_once_open_requests_have_ended(served: Running, root: Path) -> None:
    def load_in_place(name: str, directory: str) -> Reply:
        path = str(root / directory)
        return served.post("/v1/load_lora_adapter", lora_name=name, lora_path=path, load_inplace=True)

    old, new = (tokens(served, name) for name in ("adapter-00", "adapter-01"))
    asked = {"model": "adapter-00", "prompt": PROMPT, "max_tokens": 60, "ignore_eos": True, "temperature": 0}
    whole = served.complete(**asked).text
    connection = served.open("POST", "/v1/completions", {**asked, "stream": True})
    response = connection.getresponse()
    reply = load_in_place("adapter-00", "adapter-01")
    assert (reply.status, reply.body) == (200, b"Success: LoRA adapter 'adapter-00' added successfully.")
    assert Reply(200, response.headers, response.read()).text == whole, "an open request ends with the old weights"
    connection.close()
    assert tokens(served, "adapter-00") == new != old, "neither old weights nor old KV show"
    broken = load_in_place("adapter-00", "nothing")
    assert broken.status == 404
    assert tokens(served, "adapter-00") == new, "what cannot be loaded replaces nothing"
    assert load_in_place("another", "adapter-01").status == 200, "there need be none to replace"
    assert tokens(served, "another") == new


def test_requests_for_an_adapter_that_is_being_replaced_wait_for_it(served: Running, root: Path) -> None:
    old, new = (tokens(served, name) for name in ("adapter-00", "adapter-01"))
    with slowed(served):
        blocker = served.open(
            "POST", "/v1/completions",
            {"model": "adapter-00", "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream": True},
        )  # fmt: skip
        blocker.getresponse()
        change = {"lora_name": "adapter-00", "lora_path": str(root / "adapter-01"), "load_inplace": True}
        replacing = served.open("POST", "/v1/load_lora_adapter", change)
        while "adapter-00" in served.server.adapters.paths:
            time.sleep(0.001)
    assert tokens(served, "adapter-00") == new != old
    assert replacing.getresponse().status == 200
    for connection in (blocker, replacing):
        connection.close()


@pytest.mark.parametrize("asked", ["by name", "by path"])
def test_a_load_whose_client_leaves_comes_to_its_end(
    served: Running, root: Path, tiny_model: TinyModel, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_model.adapters["adapter-02"], root / "late")
    engine_is_held, engine_may_go_on = threading.Event(), threading.Event()

    def hold(_: Engine) -> None:
        engine_is_held.set()
        assert_set(engine_may_go_on)

    holding = threading.Thread(target=served.in_engine, args=(hold,))
    holding.start()
    assert_set(engine_is_held)
    if asked == "by name":
        connection = served.open("POST", "/v1/completions", {"model": "late", "prompt": PROMPT})
    else:
        body = {"lora_name": "late", "lora_path": str(root / "late")}
        connection = served.open("POST", "/v1/load_lora_adapter", body)
    time.sleep(0.3)  # the engine has been asked, and does not answer yet
    connection.close()
    time.sleep(0.1)
    engine_may_go_on.set()
    holding.join()
    assert tokens(served, "late")
    assert load(served, "late", root / "late").error["code"] == "already_loaded"
    assert unload(served, "late").status == 200
    assert load(served, "late", root / "late").status == 200
    assert not caplog.records


def assert_set(event: threading.Event) -> None:
    assert event.wait(timeout=20)


def test_an_adapter_unloaded_while_it_is_being_replaced_is_there_in_the_end(
    served: Running, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, is_read, may_go_on = served.server.adapters._reader, threading.Event(), threading.Event()

    class SlowDisk:
        def read(self, *arguments: Any) -> AdapterSource:
            is_read.set()
            assert_set(may_go_on)
            return reader.read(*arguments)

    monkeypatch.setattr(served.server.adapters, "_reader", SlowDisk())
    change = {"lora_name": "adapter-00", "lora_path": str(root / "adapter-01"), "load_inplace": True}
    replacing = served.open("POST", "/v1/load_lora_adapter", change)
    assert_set(is_read)
    unloading = served.open("POST", "/v1/unload_lora_adapter", {"lora_name": "adapter-00"})
    while "adapter-00" in served.server.adapters.paths:
        time.sleep(0.001)
    may_go_on.set()
    for connection in (replacing, unloading):
        assert connection.getresponse().status == 200
        connection.close()
    assert tokens(served, "adapter-00") == tokens(served, "adapter-01")


def test_weights_that_are_no_longer_those_loaded_are_not_read(
    served: Running, root: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.adapters["adapter-02"], root / "late")
    assert load(served, "late", root / "late").status == 200
    weights = root / "late" / "adapter_model.safetensors"
    weights.rename(tmp_path / "outside")
    weights.symlink_to(tmp_path / "outside")
    reply = served.complete(model="late")
    assert (reply.status, reply.error["code"]) == (500, "adapter_load_failed")
    weights.unlink()
    shutil.copy(root / "adapter-01" / "adapter_model.safetensors", weights)
    shutil.copy(root / "adapter-01" / "adapter_config.json", weights.parent)
    assert served.complete(model="late").status == 500
    change = {"lora_name": "late", "lora_path": str(root / "late"), "load_inplace": True}
    assert served.ask("POST", "/v1/load_lora_adapter", change).status == 200
    assert tokens(served, "late") == tokens(served, "adapter-01")


def test_a_link_in_a_circle_is_no_adapter(served: Running, root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "knot").mkdir()
    (root / "knot" / "adapter_config.json").symlink_to("adapter_config.json")
    for name in ("loop", "knot"):
        assert served.complete(model=name).status == 404
        assert load(served, name, root / name).status in (400, 404)


def test_an_adapter_that_overflows_fails_its_own_requests_alone(
    served: Running, root: Path, tiny_model: TinyModel
) -> None:
    good = tokens(served, "adapter-00")
    shutil.copytree(tiny_model.adapters["adapter-02"], root / "wild")
    weights = root / "wild" / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
    for asked in ({"temperature": 0}, {"temperature": 1}, {"logprobs": 3}, {"stream": True}):
        reply = served.complete(model="wild", **asked)
        assert (reply.status, reply.error["code"]) == (500, "output_not_finite")
    assert tokens(served, "adapter-00") == good
    assert served.get("/health").status == 200
