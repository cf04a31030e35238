"""Text for servers that take no token ids: common English words, one for each token."""

from collections.abc import Iterable

# Short and frequent, so that most tokenizers make one token of each with its space.
_TEXT = """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one
    you were all her she there would their we him been has when who will no more if out so up said what its about than
    into them can only other time new some could these two may first then do any like my now over such our man me even
    most made after also did many off before must well back through years much where your way down should because long
    each just state those people too mr how little good world make very year still see own work men day get here old
    between both life being under three never know same last another while us might great go come since against right
    came take used himself few house use place during high without again home around small however found part school
    does once general upon say every war until always away something fact though less public put think almost enough
    far took head yet government system set better told nothing night end why called eyes find going look asked later
    next knew point city business give group toward young days let room word side social given present several order
    national possible rather second per face among form important often things looked early white case john large big
    need four within felt along children saw best church ever least power thing light family interest want area mind
    country door done open kind sense whole matter body act name line car law week hand reason study water money
"""
WORDS = tuple(_TEXT.split())


def token_words(token_ids: Iterable[int]) -> str:
    """One word per token id, the same for equal ids."""
    return " ".join([WORDS[token % len(WORDS)] for token in token_ids])
