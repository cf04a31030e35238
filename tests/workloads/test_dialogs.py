"""What becomes of utterances: pairs of what is said and what is answered."""

from collections import Counter

import pytest

from workloads.dialogs import Exchange, Utterance, pair_up


@pytest.mark.parametrize(
    ("said", "exchanges", "skipped"),
    [
        ("u:hi a:yes u:and a:no", [("hi", "yes"), ("and", "no")], {}),
        ("u:hi u:there a:yes a:indeed", [("hi\nthere", "yes\nindeed")], {}),
        ("a:welcome u:hi a:yes", [("welcome\nhi", "yes")], {}),
        ("u:hi a:yes u:bye", [("hi", "yes")], {"skipped_unanswered_utterances": 1}),
        ("u: a:yes", [], {"skipped_empty_utterances": 1}),
        ("u:hi a: a:yes", [("hi", "yes")], {"skipped_empty_utterances": 1}),
        ("", [], {}),
    ],
)
def test_pairs(said: str, exchanges: list[tuple[str, str]], skipped: dict[str, int]) -> None:
    counted: Counter[str] = Counter()
    utterances = [Utterance(word[0] == "u", word[2:]) for word in said.split()]
    assert pair_up(utterances, counted) == [Exchange(*pair) for pair in exchanges]
    assert counted == skipped
