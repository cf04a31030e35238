"""`libra model make-tiny`."""

from pathlib import Path

import pytest

from bench.cli import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "tinny"], "unknown tiny model 'tinny': did you mean 'tiny'?"),
        (["--size", "tiny", "--architecture", "LamaForCausalLM"], "did you mean 'LlamaForCausalLM'?"),
        (["--size", "tiny", "--ranks", "0"], "--ranks is 0; give ranks of 1 or more"),
        (["--size", "tiny", "--ranks", "8,x"], "--ranks is '8,x'; give whole numbers"),
        (["--num-loras", "-1"], "Invalid value for '--num-loras'"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["model", "make-tiny", str(tmp_path / "model"), *flags])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
