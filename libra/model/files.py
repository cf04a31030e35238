"""Reading of JSON and safetensors with faults turned into one-line errors. Pickles are never opened."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from libra.errors import LibraError


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``. Raises LibraError when it is absent, unreadable, not JSON or not an object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LibraError(f"{path}: no such file; give a directory that holds {path.name}") from None
    except OSError as error:
        raise LibraError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:  # the second: nested too deeply
        raise LibraError(f"{path}: not valid JSON ({error}); download the file again") from error
    if not isinstance(document, dict):
        raise LibraError(f"{path}: holds a {type(document).__name__}, not an object; download the file again")
    return document


def open_safetensors(path: Path, framework: str = "pt") -> Any:
    """An open safetensors file (its header is read, its tensors are not).

    Raises LibraError when it is absent, truncated or corrupt.
    """
    try:
        return safe_open(str(path), framework=framework)
    except FileNotFoundError:
        raise LibraError(f"{path}: no such file; download it again") from None
    except (SafetensorError, OSError) as error:
        raise LibraError(f"{path}: corrupt or truncated safetensors ({error}); download it again") from error
