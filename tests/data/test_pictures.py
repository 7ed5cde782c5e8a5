"""Pictures of NumPy, PNG and JPEG files, alone, with captions, and as films with a label for each frame."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data import Conditions, ConditionsConfig, Examples, ExamplesConfig, Tagged, TaggedConfig
from everloop.data.pictures import PictureSize, brightness
from everloop.data.readers.pictures import picture_files, pictures_of, read_picture, read_pictures, same_size, steps_of
from everloop.draw.pictures import png
from everloop.errors import DataError, OptionError, UnsupportedError
from everloop.kinds import classifier as classifier_kind
from everloop.kinds import tagger as tagger_kind
from everloop.models import Classifier, ClassifierConfig, Tagger, TaggerConfig
from tests.stubs import cannot_be_imported

CHANCE = np.random.default_rng(0)


def pixels(*shape: int) -> Any:
    return CHANCE.integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, array: Any) -> Path:
    """Write a picture as Pillow does, in the format of the file's name."""
    image = import_module("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [0, 128, 255]),
        (np.array([0, 255], np.int64), [0, 255]),
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([[False, True]]), [[0, 255]]),
        (np.zeros(0, np.float64), []),
    ],
)
def test_brightness_is_0_to_255(values: Any, expected: list[int]) -> None:
    found = brightness(values, "p")
    assert found.dtype == torch.uint8
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 256]), "p has numbers from 0 to 256; expected 0 to 255"),
        (np.array([-0.1, 1.0]), "p has numbers from -0.1 to 1; expected 0 to 1"),
        (np.array([0.0, np.nan]), "p has numbers from nan to nan"),
        (np.array(["a"]), "p holds <U1; expected pictures as numbers"),
    ],
)
def test_other_numbers_are_no_brightness(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("<", r"\<")):
        brightness(values, "p")


def test_arrays_of_pictures(tmp_path: Path) -> None:
    grey, coloured = pixels(2, 3, 5), pixels(2, 3, 5, 3)
    np.save(tmp_path / "grey.npy", grey)
    np.savez(tmp_path / "both.npz", grey=grey, coloured=coloured)
    assert read_pictures(tmp_path / "grey.npy").tolist() == grey[..., None].tolist()
    assert read_pictures(tmp_path / "both.npz", "coloured").tolist() == coloured.tolist()
    with pytest.raises(DataError, match="holds the arrays grey, coloured; name one with --array"):
        read_pictures(tmp_path / "both.npz")
    np.save(tmp_path / "flat.npy", pixels(2, 3))
    with pytest.raises(DataError, match=r"uint8 \[2, 3\]; expected pictures \[N, height, width\]"):
        read_pictures(tmp_path / "flat.npy")
    (tmp_path / "other.npy").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"other\.npy is no NumPy file; expected one that numpy\.save wrote"):
        read_pictures(tmp_path / "other.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"cut\.npy is no NumPy file that can be read \(.*\); expected"):
        read_pictures(tmp_path / "cut.npy")
    named = list(pictures_of(tmp_path / "grey.npy", PictureSize(3, 5)))
    assert [name for name, _ in named] == ["1", "2"]
    with pytest.raises(DataError, match="holds pictures of 3×5×1; expected 5×3×1"):
        list(pictures_of(tmp_path / "grey.npy", PictureSize(5, 3)))


def test_png_files_are_read_as_pillow_wrote_them(tmp_path: Path) -> None:
    grey, coloured = pixels(3, 5), pixels(4, 2, 3)
    assert read_picture(saved(tmp_path / "b" / "grey.png", grey)).tolist() == grey[..., None].tolist()
    assert read_picture(saved(tmp_path / "coloured.PNG", coloured)).tolist() == coloured.tolist()
    assert read_picture(saved(tmp_path / "clear.png", pixels(2, 2, 4))).shape == (2, 2, 3)
    scaled = read_picture(tmp_path / "coloured.PNG", (8, 6), 1)
    assert scaled.shape == (8, 6, 1)
    flat = np.full((6, 7, 3), 200, np.uint8)
    close = read_picture(saved(tmp_path / "flat.jpg", flat), (3, 3), 3)
    assert int((close.int() - 200).abs().max()) <= 2
    image = import_module("PIL.Image")
    held = image.fromarray(grey)
    held.getexif()[0x112] = 6  # a quarter turn
    held.save(tmp_path / "held.png", exif=held.getexif())
    assert read_picture(tmp_path / "held.png")[..., 0].tolist() == np.rot90(grey, -1).tolist()
    (tmp_path / "held.png").unlink()
    assert [path.name for path in picture_files(tmp_path)] == ["grey.png", "clear.png", "coloured.PNG", "flat.jpg"]
    assert picture_files(tmp_path / "flat.jpg") == [tmp_path / "flat.jpg"]


def test_what_png_writes_pillow_reads(tmp_path: Path) -> None:
    for channels in (1, 3):
        picture = torch.from_numpy(pixels(3, 4, channels))
        (tmp_path / "p.png").write_bytes(png(picture))
        assert read_picture(tmp_path / "p.png").equal(picture)


def test_files_that_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"broken\.png is no picture that can be read: its beginning is that"):
        read_picture(tmp_path / "broken.png")
    large = saved(tmp_path / "large.png", pixels(40, 40))
    (tmp_path / "head.png").write_bytes(large.read_bytes()[:11] + b"\x05" + large.read_bytes()[12:])
    with pytest.raises(DataError, match=r"head\.png is no picture that can be read: Truncated IHDR chunk"):
        read_picture(tmp_path / "head.png")
    (tmp_path / "half.png").write_bytes(large.read_bytes()[:900])
    with pytest.raises(DataError, match=r"half\.png is no picture that can be read: .*truncated"):
        read_picture(tmp_path / "half.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 799)
    with pytest.raises(DataError, match=r"large\.png is too large a picture: Image size \(1600 pixels\) exceeds limit"):
        read_picture(large)
    monkeypatch.undo()
    saved(tmp_path / "deep.png", np.full((2, 2), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"deep\.png has pixels of more than 8 bits \(I;16\)"):
        read_picture(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"no such picture; did you mean .*broken\.png"):
        read_picture(tmp_path / "brokn.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no picture; expected files that end in \.png"):
        picture_files(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        picture_files(tmp_path / "nowhere")
    cannot_be_imported("PIL", ImportError, tmp_path, monkeypatch)
    with pytest.raises(UnsupportedError, match=r"everloop\[pictures\]"):
        read_picture(tmp_path / "broken.png")


def test_one_picture_in_colours_makes_all_have_colours(tmp_path: Path) -> None:
    grey, coloured = pixels(4, 6), pixels(4, 6, 3)
    for place in ("all/films", "all/films/b", "all/animals/cat"):
        saved(tmp_path / place / "0.png", grey)
    saved(tmp_path / "all" / "films" / "0.png", grey)
    saved(tmp_path / "all" / "films" / "a" / "0.png", coloured)
    saved(tmp_path / "all" / "animals" / "dog" / "1.png", coloured)
    for size in ((), (4, 6), (8, 8)):
        for folder, channels in (("films", 3), ("animals", 3), ("films/b", 1)):
            found = [picture for _, picture in same_size(picture_files(tmp_path / "all" / folder), size)]
            assert {picture.shape for picture in found} == {(*(size or (4, 6)), channels)}
        assert read_picture(tmp_path / "all/films/b/0.png", size).shape == (*(size or (4, 6)), 1)
        (tmp_path / "all" / "films" / "labels.tsv").write_text("b\ton\na\toff\n")
        films = Tagged.from_config(TaggedConfig(train=tmp_path / "all" / "films", hold_out=(0, 0), size=size))
        assert films.features == PictureSize(*(size or (4, 6)), 3)
        (tmp_path / "c.tsv").write_text("cat/0.png\tgrey\ndog/1.png\tcoloured\n")
        config = ConditionsConfig(tmp_path / "c.tsv", pictures=tmp_path / "all" / "animals", size=size, hold_out=0)
        data = Conditions.from_config(config)
        assert data.given_size == PictureSize(*(size or (4, 6)), 3)
        if size != (8, 8):
            shown = {data.vocabulary.decode(numbers): given.tolist() for given, numbers in data["train"]}
            assert shown == {"grey": np.stack([grey] * 3, -1).tolist(), "coloured": coloured.tolist()}


@pytest.mark.parametrize("coloured", ["train", "valid"])
def test_all_splits_have_the_channels_of_training(tmp_path: Path, coloured: str) -> None:
    for split in ("train", "valid"):
        shown = pixels(4, 6, 3) if split == coloured else pixels(4, 6)
        for label in ("cat", "dog"):
            saved(tmp_path / split / label / "0.png", shown)
        (tmp_path / split / "labels.tsv").write_text("cat\ton\ndog\toff\n")
    channels = 3 if coloured == "train" else 1
    splits = {name: tmp_path / name for name in ("train", "valid")}
    how = ExamplesConfig(train=splits["train"], valid=splits["valid"])
    examples = Examples.from_config(how)
    assert {x.shape for split in splits for x, _ in examples[split]} == {(4, 6 * channels)}
    tagged = TaggedConfig(train=splits["train"], valid=splits["valid"])
    films = Tagged.from_config(tagged)
    assert {x.shape for split in splits for x, _ in films[split]} == {(1, 4, 6, channels)}
    classifier, tagger = Classifier.of(examples, ClassifierConfig(hidden=2)), Tagger.of(films, TaggerConfig(hidden=2))
    for path in splits.values():
        again = classifier_kind.evaluation_dataset(classifier, how, path, None)
        assert {x.shape for x, _ in again["test"]} == {(4, 6 * channels)}
        seen = tagger_kind.evaluation_dataset(tagger, tagged, path, None)
        assert {x.shape for x, _ in seen["test"]} == {(1, 4, 6, channels)}


def test_settings_of_pictures_of_folders_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", pixels(11, 4, 4))
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "good\tyes\nbad\tno\n" * 5)
    (tmp_path / "t.conll").write_text("a\tb\n\n" * 10)
    for made in (
        lambda: Examples.from_config(ExamplesConfig(train=tmp_path / "t.tsv", size=(4, 4))),
        lambda: Examples.from_config(ExamplesConfig(train=tmp_path / "t.tsv", patch=2)),
        lambda: Tagged.from_config(TaggedConfig(train=tmp_path / "t.conll", size=(4, 4))),
        lambda: Conditions.from_config(ConditionsConfig(tmp_path / "t.tsv", pictures=tmp_path / "p.npy", size=(4, 4))),
        lambda: Conditions.from_config(ConditionsConfig(tmp_path / "t.tsv", size=(4, 4))),
    ):
        with pytest.raises(OptionError, match=r"(size|patch) is for pictures of a folder; leave it out"):
            made()
    with pytest.raises(DataError, match="no such file"):
        Examples.from_config(ExamplesConfig(train=tmp_path / "t.csv", patch=2))


def test_captions_beside_an_array(tmp_path: Path) -> None:
    pictures = pixels(10, 3, 4)
    np.savez(tmp_path / "p.npz", pictures=pictures)
    (tmp_path / "c.txt").write_text("".join(f"text {i}\n" for i in range(10)))
    config = ConditionsConfig(texts=tmp_path / "c.txt", pictures=tmp_path / "p.npz", hold_out=0.2)
    data = Conditions.from_config(config)
    assert data.given_size == PictureSize(3, 4)
    assert (len(data["train"]), len(data["valid"])) == (8, 2)
    for given, numbers in [*data["train"], *data["valid"]]:
        which = int(data.vocabulary.decode(numbers).removeprefix("text "))
        assert given.tolist() == pictures[which, :, :, None].tolist()
    batch = data.collate([data["train"][0], data["train"][1]])
    assert (batch.given.dtype, batch.given.shape) == (torch.uint8, (2, 3, 4, 1))
    assert data.first("train").startswith("a picture of 3×4×1, 'text ")
    assert "picture of 3×4×1" in repr(data)
    changed = pictures.copy()
    changed[0, 0, 0] ^= 1
    np.savez(tmp_path / "p.npz", pictures=changed)
    assert Conditions.from_config(config).fingerprint != data.fingerprint
    (tmp_path / "c.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"holds 10 pictures and .* has 1 lines; expected one for each line"):
        Conditions.from_config(config)
    with pytest.raises(OptionError, match="both --vectors and --pictures"):
        Conditions.from_config(replace(config, vectors=tmp_path / "p.npz"))
    with pytest.raises(OptionError, match=r"size is \[3\]; expected height and width"):
        Conditions.from_config(replace(config, size=(3,)))


def test_captions_of_the_files_of_a_folder(tmp_path: Path) -> None:
    pictures = pixels(3, 6, 4)
    for i in range(3):
        saved(tmp_path / "shown" / f"{i}.png", pictures[i])
    (tmp_path / "c.tsv").write_text("".join(f"{i}.png\ttext {i}\n" for i in (2, 0, 1)))
    config = ConditionsConfig(texts=tmp_path / "c.tsv", pictures=tmp_path / "shown", hold_out=0)
    data = Conditions.from_config(config)
    found = {data.vocabulary.decode(numbers): given.tolist() for given, numbers in data["train"]}
    assert found == {f"text {i}": pictures[i, :, :, None].tolist() for i in range(3)}
    assert Conditions.from_config(replace(config, size=(3, 2))).given_size == PictureSize(3, 2)
    saved(tmp_path / "shown" / "1.png", pixels(5, 4))
    with pytest.raises(DataError, match=r"a picture is \d×4×1, the first is \d×4×1; expected one size \(--size scales"):
        Conditions.from_config(config)
    (tmp_path / "c.tsv").write_text("0.png\tgood\n3.png\tgone\n0.png\n\n")
    with pytest.raises(DataError, match=r"line 2: there is no picture .*3\.png; expected a file of the folder"):
        Conditions.from_config(config)
    kept = Conditions.from_config(replace(config, malformed="skip"))
    assert (len(kept["train"]), kept.errors.skipped) == (1, 2)


def test_films_with_a_label_for_each_frame(tmp_path: Path) -> None:
    frames, digits = pixels(4, 5, 3, 2), CHANCE.integers(0, 3, (4, 5))
    digits[0, 0] = 2
    path = tmp_path / "f.npz"
    np.savez(path, frames=frames, digits=digits, steps=np.array([5, 1, 3, 0]))
    config = TaggedConfig(train=path, text="frames", label="digits", hold_out=(0, 0))
    data = Tagged.from_config(config)
    assert data.features == PictureSize(3, 2)
    assert data.first("train") == "5 frames of 3×2×1"
    assert "20 frames" in data.describe(4)[0]
    for (x, y), film, labels in zip(data["train"], frames, digits, strict=True):
        assert x.tolist() == film[..., None].tolist()
        assert y.tolist() == labels.tolist()
    ragged = Tagged.from_config(replace(config, lengths="steps"))
    assert ragged.lengths["train"].tolist() == [5, 1, 3]
    batch = ragged.collate([ragged["train"][i] for i in range(3)])
    assert batch.x.shape == (5, 3, 3, 2, 1)  # type: ignore[union-attr]
    assert not batch.x[1:, 1].any()  # type: ignore[index]
    np.savez(path, frames=frames, digits=digits, steps=np.array([5, 1, 6, 0]))
    with pytest.raises(DataError, match=r"steps does not fit frames \[4, 5, 3, 2\]; expected whole numbers \[4\]"):
        Tagged.from_config(replace(config, lengths="steps"))
    np.savez(path, frames=frames.astype(np.float32), digits=digits)
    with pytest.raises(DataError, match=r"frames has numbers from \d+ to 2\d\d; expected 0 to 1 in pictures"):
        Tagged.from_config(config)


def test_a_picture_is_read_row_by_row_or_patch_by_patch() -> None:
    picture = torch.arange(24, dtype=torch.uint8).view(4, 6, 1)
    assert (steps_of(picture) * 255).round().tolist() == picture[..., 0].tolist()
    patches = (steps_of(picture, 2) * 255).round().int().tolist()
    assert patches[0] == [0, 1, 6, 7]
    assert patches[2] == [4, 5, 10, 11]
    assert patches[5] == [16, 17, 22, 23]
    assert steps_of(picture.expand(4, 6, 3), 2).shape == (6, 12)
    assert steps_of(picture[:1, :1], 1).tolist() == [[0]]
    with pytest.raises(DataError, match="patch is 4; expected what divides 4 and 6"):
        steps_of(picture, 4)


def test_examples_of_a_folder_of_pictures(tmp_path: Path) -> None:
    shown = {f"{label}/{i}.png": pixels(4, 6) for label in ("cat", "dog") for i in range(5)}
    for name, array in shown.items():
        saved(tmp_path / "animals" / name, array)
    config = ExamplesConfig(train=tmp_path / "animals", hold_out=(0, 0))
    data = Examples.from_config(config)
    assert data.features == 6
    assert data.labels.symbols == ("cat", "dog")
    found = {(tuple((x * 255).round().flatten().tolist()), y) for x, y in data["train"]}
    assert found == {(tuple(map(float, a.ravel())), int("dog" in name)) for name, a in shown.items()}
    assert Examples.from_config(replace(config, patch=2)).features == 4
    assert Examples.from_config(replace(config, size=(2, 3))).features == 3
    saved(tmp_path / "animals" / "dog" / "9.png", pixels(4, 5))
    with pytest.raises(DataError, match=r"9\.png is 4×5×1, .*cat.0\.png is 4×6×1; expected one size, or --size"):
        Examples.from_config(config)
    assert len(Examples.from_config(replace(config, size=(4, 4)))["train"]) == 11
    with pytest.raises(OptionError, match="shift is for IDX images"):
        Examples.from_config(replace(config, shift=1))
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "good\tyes\nbad\tno\n" * 5)
    with pytest.raises(OptionError, match=r"shift is for IDX images; leave it out for .*t\.tsv"):
        Examples.from_config(ExamplesConfig(train=tmp_path / "t.tsv", shift=1))
    with pytest.raises(OptionError, match="shift is for images, and these are texts"):
        Examples.of((["a", "b"] * 5, ["x", "y"] * 5), config=ExamplesConfig(shift=1))
    with pytest.raises(OptionError, match="shift is -1; expected 0 or more"):
        ExamplesConfig(shift=-1)
    with pytest.raises(OptionError, match=r"size is \[0, 4\]"):
        Examples.from_config(replace(config, size=(0, 4)))
    with pytest.raises(OptionError, match="patch is -2; expected 0"):
        Examples.from_config(replace(config, patch=-2))


def test_films_of_folders_of_frames(tmp_path: Path) -> None:
    frames = pixels(12, 3, 4)
    for i in range(12):
        saved(tmp_path / "films" / "long" / f"{i}.png", frames[i])
    saved(tmp_path / "films" / "short" / "only.png", frames[0])
    table = tmp_path / "films" / "labels.tsv"
    table.write_text("long\t" + "on " * 6 + "off " * 6 + "\nshort\ton\n")
    config = TaggedConfig(train=tmp_path / "films", hold_out=(0, 0))
    data = Tagged.from_config(config)
    assert data.labels.symbols == ("off", "on")
    (long, labels), (short, _) = data["train"]
    assert long.tolist() == frames[..., None].tolist()  # 2.png is before 10.png
    assert labels.tolist() == [1] * 6 + [0] * 6
    assert short.tolist() == frames[:1, ..., None].tolist()
    assert Tagged.from_config(replace(config, size=(6, 6))).features == PictureSize(6, 6)
    for text, message in [
        ("long\ton\n", r"labels\.tsv: line 1: 12 frames and 1 labels; expected equally many"),
        ("short\ton\nshirt\ton\n", "line 2: there is no folder .*shirt; expected a folder of frames"),
        ("short on\n", r"line 1: 'short on'; expected FILM TAB LABEL LABEL …"),
    ]:
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            Tagged.from_config(config)
    table.unlink()
    with pytest.raises(DataError, match=r"films has no labels\.tsv; expected lines FILM TAB LABEL"):
        Tagged.from_config(config)
