"""`libra` that ends with whoever started it, however that ends: `python -m bench.soak.bound_server serve ...`.

Its standard input is a pipe that the starter holds and never writes to. The system closes it when the starter is gone,
also when nobody had the time to clean up; then this process gets the signal that makes a server drain.
"""

import os
import signal
import threading

from bench.cli import main


def end_with_starter() -> None:
    """Watches standard input from a thread of its own."""
    threading.Thread(target=_watch, name="starter", daemon=True).start()


def _watch() -> None:
    # Unbuffered, and not by sys.stdin: its lock would still be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_starter()
    main()
