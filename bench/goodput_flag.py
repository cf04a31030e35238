"""`--goodput ttft:500 tpot:50`: several values after one flag, as vLLM takes them."""

from typing import Any

from bench.help_page import LibraCommand

_FLAG = "--goodput"


class GoodputCommand(LibraCommand):
    """A command that takes the objectives of `--goodput` with and without quotes around them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_objectives(args))


def join_objectives(args: list[str]) -> list[str]:
    """``args`` with all objectives after the flag in one value."""
    joined: list[str] = []
    takes_more = False
    for argument in args:
        is_objective = ":" in argument and not argument.startswith("-")
        if takes_more and is_objective:
            joined[-1] += f" {argument}"
            continue
        takes_more = argument.startswith(f"{_FLAG}=") or (is_objective and joined[-1:] == [_FLAG])
        joined.append(argument)
    return joined
