"""How much a translation has in common with that of a person: BLEU, as sacrebleu computes it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from everloop.errors import DataError

_RULES = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
ORDER = 4


def bleu(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the BLEU of sentences against one reference each, from 0 to 100, over the corpus as a whole.

    Papineni, Roukos, Ward and Zhu, "BLEU: a method for automatic evaluation of machine translation", ACL 2002, with
    the tokens "13a" and the smoothing "exp" of Post, "A call for clarity in reporting BLEU scores", WMT 2018. Case
    counts: lower both sides for lower-cased BLEU.
    """
    if len(written) != len(wanted) or not written:
        raise DataError(f"got {len(written)} translations for {len(wanted)} references; expected one each, and some")
    right, made, length, reference = [0] * ORDER, [0] * ORDER, 0, 0
    for text, model in zip(written, wanted, strict=True):
        a, b = tokens(text), tokens(model)
        length, reference = length + len(a), reference + len(b)
        for n in range(ORDER):
            grams, known = _grams(a, n + 1), _grams(b, n + 1)
            right[n] += sum((grams & known).values())
            made[n] += max(0, len(a) - n)
    if not right[0]:
        return 0.0
    total, missing = 0.0, 1.0
    for n in range(ORDER):
        if not made[n]:
            return 0.0
        if not right[n]:
            missing *= 2
        total += math.log(100 * right[n] / made[n] if right[n] else 100 / (missing * made[n]))
    short = min(0.0, 1 - reference / length)
    return math.exp(total / ORDER + short)


def sacrebleu_scores(written: Sequence[str], wanted: Sequence[str], *, lower: bool) -> dict[str, float | str]:
    """Return chrF2 and the signature of BLEU from the package sacrebleu; nothing where it is not installed.

    Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015. `lower` says that both sides are
    in lower case, which the signature tells.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        return {}
    measure = BLEU(lowercase=lower, force=True)
    measure.corpus_score(list(written), [list(wanted)])
    chrf = CHRF().corpus_score(list(written), [list(wanted)])
    return {"chrf2": float(chrf.score), "signature": str(measure.get_signature())}


def tokens(sentence: str) -> list[str]:
    """Return the tokens "13a" of a sentence."""
    line = sentence.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES:
        line = line.replace(entity, sign)
    line = f" {line} "
    for pattern, by in _RULES:
        line = pattern.sub(by, line)
    return line.split()


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
