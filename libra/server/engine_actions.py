"""What the event loop has the engine do beside requests: functions that EngineClient.call names."""

from libra.cache.holding import AdapterInUse
from libra.errors import LibraError
from libra.model.adapter import AdapterSource
from libra.server.engine_loop import EngineParts


def add_adapter(parts: EngineParts, source: AdapterSource) -> int:
    """Registers an adapter and returns how many tokens a request of it can have. Raises LibraError when its name is
    taken or the cache can never hold it."""
    spec = parts.store.register(source)
    try:
        parts.engine.add_adapter(spec)
    except LibraError:
        parts.store.remove(spec.adapter_id)
        raise
    return parts.engine.manager.longest_context(spec.adapter_id)


def remove_adapter(parts: EngineParts, name: str) -> bool:
    """Forgets an adapter unless something uses it; whether it did."""
    try:
        parts.engine.remove_adapter(name)
    except AdapterInUse:
        return False
    parts.store.remove(name)
    return True


def check_cache(parts: EngineParts) -> None:
    """Raises AssertionError unless every block, pin and claim is accounted for."""
    parts.engine.manager.check()
