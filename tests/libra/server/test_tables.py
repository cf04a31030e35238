"""Tables do not outlive what they describe: a server that has served more holds no more."""

import shutil
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

import torch

from tests.libra.server.running import BASE, Running, engine_settings, running, settings
from tests.tiny_models import TinyModel

ROUNDS = 8
# As long as the time it looks back on, however many requests that had.
OF_LAST_SECONDS = {"DemandWindow._batches"}
PROMPTS = ([3, 1, 4, 1, 5], list(range(1, 41)), list(range(60, 20, -1)))


def census(*roots: object) -> Counter[str]:
    """How many entries the containers below ``roots`` have, by the attribute that holds them ("Class.attribute").

    Follows attributes of libra's own objects, and what is in containers. Those bounded by their making are left out.
    """
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    todo = [("", root) for root in roots]
    while todo:
        name, one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | set | tuple | deque):
            if isinstance(one, deque) and one.maxlen is not None:
                continue
            sizes[name] += len(one)
            todo += [(name, item) for item in list(one)]
            todo += [(name, item) for item in list(one.values())] if isinstance(one, dict) else []
        elif type(one).__module__.startswith("libra."):
            todo += [(f"{type(one).__name__}.{attribute}", value) for attribute, value in _attributes(one)]
    return sizes


def _attributes(one: object) -> Iterable[tuple[str, object]]:
    slots = [slot for kind in type(one).__mro__ for slot in getattr(kind, "__slots__", ())]
    yield from ((slot, getattr(one, slot)) for slot in slots if hasattr(one, slot))
    yield from getattr(one, "__dict__", {}).items()


def serve_round(server: Running, number: int, adapters: list[str], guest: Path) -> None:
    """What clients do, good and bad; each round under names of its own."""
    for index, model in enumerate([BASE, *adapters]):
        reply = server.complete(model=model, prompt=PROMPTS[index % len(PROMPTS)], stream=index % 2 == 0)
        assert reply.status == 200, reply.body
    assert server.complete(model=f"nobody-{number}").status == 404
    assert server.complete(max_tokens=-1, **{f"field_{number}": 1}).status == 400
    server.open("POST", "/v1/completions", {"model": BASE, "prompt": PROMPTS[1], "max_tokens": 60}).close()
    name = f"guest-{number}"
    assert server.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(guest)).status == 200
    assert server.complete(model=name, prompt=PROMPTS[1], user=name, cache_salt=name).status == 200
    assert server.post("/v1/unload_lora_adapter", lora_name=name).status == 200


def test_a_server_that_has_served_more_holds_no_more(tiny_model: TinyModel, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    names = ["adapter-00", "adapter-01"]
    for name in names:
        shutil.copytree(tiny_model.adapters[name], tmp_path / name)
    with running(settings(lora_dirs=(tmp_path,)), engine_settings(tiny_model, adapters={})) as server:

        def count(first: int) -> Counter[str]:
            for number in range(first, first + ROUNDS):
                serve_round(server, number, names, tmp_path / names[0])
            server.check_idle()
            return server.in_engine(lambda engine: census(server.server, server.engine_loop, engine))

        before, after = count(0), count(ROUNDS)
    assert before["DependencyTree.labels"] > 0, "the census looks at the cache"
    growth = {name: size - before[name] for name, size in after.items() if name not in OF_LAST_SECONDS}
    assert {name: entries for name, entries in growth.items() if entries >= ROUNDS} == {}
