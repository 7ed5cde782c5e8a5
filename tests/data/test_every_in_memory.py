"""Every kind of data from lists, frames and datasets of others: the same as from its own constructor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data import (
    AudioConfig,
    Conditions,
    ConditionsConfig,
    Examples,
    FrameConfig,
    Parallel,
    ParallelConfig,
    Recordings,
    Series,
    SeriesConfig,
    Tagged,
    TaggedConfig,
    Text,
    TextConfig,
)
from everloop.decode import generate
from everloop.errors import DataError, OptionError
from everloop.models import Classifier, ClassifierConfig, EncoderDecoder, Tagger, TaggerConfig

READ, WRITTEN = ["ein hund", "ein mann", "zwei hunde"], ["a dog", "a man", "two dogs"]
WORDS, TAGS = [["they", "walk"], ["she", "sings", "well"]], [["P", "V"], ["P", "V", "A"]]


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, *columns: Any) -> None:
        self.rows = list(zip(*columns, strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index] if len(self.rows[index]) > 1 else self.rows[index][0]


class Decoded:
    """As datasets of Hugging Face decode since version 4: no mapping, but asked like one."""

    def __init__(self, sound: Any) -> None:
        self.sound = sound

    def get_all_samples(self) -> None: ...

    def __getitem__(self, name: str) -> Any:
        return {"array": self.sound, "sampling_rate": 8000}[name]


def forms(first: Any, second: Any, names: tuple[str, str]) -> list[Any]:
    """Return the same examples as lists, a dataset of PyTorch, a mapping, and in every library that is here."""
    mapping = dict(zip(names, (first, second), strict=True))
    rows = [dict(zip(names, row, strict=True)) for row in zip(first, second, strict=True)]
    found: list[Any] = [(first, second), Items(first, second), Items(rows), mapping, rows]
    for library in ("pandas", "polars", "datasets"):
        try:
            module = __import__(library)
        except ImportError:
            continue
        found.append(module.Dataset.from_dict(mapping) if library == "datasets" else module.DataFrame(mapping))
    return found


def test_texts() -> None:
    config = TextConfig(text_column="body", split=(1, 0, 0), min_freq=1)
    wanted = Text.from_string("".join(f"{text}\n" for text in READ), split=(1, 0, 0), min_freq=1)
    for form in [READ, Items(READ), *forms(READ, WRITTEN, ("body", "other"))[2:]]:
        data = Text.of(form, config=config)
        assert data.fingerprint == wanted.fingerprint
        assert data.splits == wanted.splits
    data = Text.of(READ, valid=WRITTEN, config=TextConfig(documents="files", min_freq=1, split=(0.9, 0.1, 0)))
    assert data.documents == {"train": 3, "valid": 3, "test": 0}
    assert len(data["valid"]) == sum(map(len, WRITTEN)) + 3
    with pytest.raises(DataError, match=r"text 2 is 3; expected a text"):
        Text.of(["a", 3])
    with pytest.raises(DataError, match=r"the texts are empty"):
        Text.of(["", ""])
    with pytest.raises(DataError, match=r"unknown column 'text'; known: body"):
        Text.of({"body": READ})
    with pytest.raises(DataError, match=r"texts are str; expected a list of them"):
        Text.of("abc")
    for text in ("a\nb", "a" * 5000):
        with pytest.raises(DataError, match=r"a text was given where a file is expected; Text.from_string reads"):
            Text(text)


def test_rows_of_pandas_are_counted_from_0() -> None:
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(READ, index=[7, 8, 9])
    config = TextConfig(split=(1, 0, 0), min_freq=1)
    assert Text.of(column, config=config).fingerprint == Text.of(READ, config=config).fingerprint


def test_pairs_of_sentences() -> None:
    config = ParallelConfig(source_column="de", target_column="en", hold_out=0, min_freq=1)
    wanted = Parallel([*zip(READ, WRITTEN, strict=True)], config=config).fingerprint
    nested = {"translation": [{"de": a, "en": b} for a, b in zip(READ, WRITTEN, strict=True)]}
    for form in [*forms(READ, WRITTEN, ("de", "en")), [*zip(READ, WRITTEN, strict=True)], nested]:
        assert Parallel.of(form, config=config).fingerprint == wanted
    data = Parallel.of((READ, WRITTEN), (READ[:1], WRITTEN[:1]), (READ[1:], WRITTEN[1:]), config)
    assert {name: len(data.sentences[name]) for name in data.sentences} == {"train": 3, "valid": 1, "test": 2}
    assert len(Parallel.of((READ * 10, WRITTEN * 10)).sentences["valid"]) == 2  # of 30, a twentieth
    with pytest.raises(DataError, match=r"pair 1 is \('ein hund', 3\); expected two texts"):
        Parallel.of((READ, [3, 4, 5]))
    with pytest.raises(DataError, match=r"3 and 2 examples on both sides"):
        Parallel.of((READ, WRITTEN[:2]))


def test_tagged_words() -> None:
    config = TaggedConfig(text="tokens", label="tags", hold_out=(0, 0), min_freq=1)
    wanted = Tagged({"train": [*zip(WORDS, TAGS, strict=True)]}, config).fingerprint
    spaced = [" ".join(words) for words in WORDS], [" ".join(tags) for tags in TAGS]
    for form in [*forms(WORDS, TAGS, ("tokens", "tags")), spaced]:
        assert Tagged.of(form, config=config).fingerprint == wanted
    pairs = [[*zip(words, tags, strict=True)] for words, tags in zip(WORDS, TAGS, strict=True)]
    assert Tagged.of(pairs, config=config).fingerprint == wanted  # as NLTK has them
    two = [[("she", "P"), ("sings", "V")]] * 3
    assert Tagged.of(two, config=config).labels.symbols == ("P", "V")
    assert Tagged.of([(["she", "sings"], ["P", "V"])] * 3, config=config).labels.symbols == ("P", "V")
    numbers = Tagged.of((WORDS, [[0, 1], [0, 1, 2]]), config=config)
    assert numbers.labels.symbols == ("0", "1", "2")
    series = [np.ones((4, 3), np.float32), np.zeros((2, 3), np.float32)]
    data = Tagged.of((series, [[0, 1, 1, 0], [1, 0]]), config=config)
    assert (data.features, len(data.labels), data["train"][1][1].tolist()) == (3, 2, [1, 0])


def test_texts_with_what_stands_for_them() -> None:
    config = ConditionsConfig(hold_out=0)
    wanted = Conditions([*zip(["A", "B", "A"], READ, strict=True)], config=config).fingerprint
    for form in forms(["A", "B", "A"], READ, ("label", "text")):
        assert Conditions.of(form, config=config).fingerprint == wanted
    vectors = Conditions.of((np.eye(3), READ), config=config)
    assert vectors.given_size == 3
    pictures = np.zeros((3, 4, 5), np.uint8)
    assert str(Conditions.of({"image": [*pictures], "text": READ}, config=config, given="image").given_size) == "4×5×1"
    with pytest.raises(DataError, match=r"example 1 is torch.float64 \[4, 5\]; expected a label, a vector"):
        Conditions.of((np.zeros((3, 4, 5)), READ), config=config)


def test_recordings(tmp_path: Path) -> None:
    sounds = [np.sin(np.arange(800) * f).astype(np.float32) for f in (0.1, 0.5)]
    frames = FrameConfig(rate=8000, mels=20)
    clips = [*zip(map(torch.from_numpy, sounds), ["a", "b"], strict=True)]
    wanted = Recordings({"train": clips}, frames).fingerprint
    heard = [{"array": sound.tolist(), "sampling_rate": 8000} for sound in sounds]
    for form in ((sounds, ["a", "b"]), {"audio": heard, "text": ["a", "b"]}, Items(sounds, ["a", "b"])):
        assert Recordings.of(form, frames=frames).fingerprint == wanted
    slow = [{"array": sound, "sampling_rate": 4000} for sound in sounds]
    resampled = Recordings.of(
        {"audio": slow, "said": ["a", "b"]}, frames=frames, config=AudioConfig(text_column="said")
    )
    assert len(resampled["train"][0][0]) == 1600
    decoded = {"audio": [Decoded(sound) for sound in sounds], "text": ["a", "b"]}
    assert Recordings.of(decoded, frames=frames).fingerprint == wanted
    with pytest.raises(DataError, match=r"recording 1 has 2 channels"):
        Recordings.of(([np.zeros((5, 2))], ["a"]), frames=frames)


def test_series_may_be_arrays_of_one_axis() -> None:
    config = SeriesConfig(series=("y",))
    wanted = Series(torch.arange(40.0)[:, None], config=config, context=4, horizon=2)
    for values in (np.arange(40), torch.arange(40.0), [*range(40)]):
        given: Any = values
        assert Series(given, config=config, context=4, horizon=2).fingerprint == wanted.fingerprint


def test_one_text_is_not_taken_for_many() -> None:
    data = Examples.of((["good", "bad"] * 5, ["1", "0"] * 5))
    model = Classifier.of(data, ClassifierConfig(hidden=4))
    with pytest.raises(OptionError, match=r"classify was given the text 'good'; expected a list, as in classify\(\["):
        model.classify("good")
    assert model.classify([]).shape == (0, 2)
    tagger = Tagger.of(Tagged.of((WORDS * 5, TAGS * 5)), TaggerConfig(hidden=4))
    given: Any = "they walk"
    for call in (tagger.tag, tagger.probabilities):
        with pytest.raises(OptionError, match=r"tag was given the text 'they walk'; expected a list"):
            call(given)
        with pytest.raises(OptionError, match=r"tag was given the text 'they walk'; expected a list of words"):
            call([given])
    pairs = Parallel([*zip(READ, WRITTEN, strict=True)] * 2, config=ParallelConfig(min_freq=1))
    translator = EncoderDecoder(pairs.source, pairs.target, hidden=4, embedding=4)
    with pytest.raises(OptionError, match=r"generate was given the text 'ein hund'; expected a list"):
        generate(translator, given.replace("they walk", "ein hund"))
