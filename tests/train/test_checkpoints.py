"""Damaged checkpoints are found, whatever is damaged, and training goes on from the one before, to the same bits."""

from __future__ import annotations

import base64
import json
import os
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from everloop.data import files
from everloop.data.files import remove_parts, write_atomically
from everloop.errors import RunError
from everloop.models import load
from everloop.models.weights import read_tensors, write_tensors
from everloop.train import Event, Note, Stepped, train
from everloop.train.checkpoint import Checkpoint
from tests.train.small import CONFIG, TEXT, small_model
from tests.train.test_killed import differing, outcome

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([3, 1]), "c": torch.ones(2, dtype=torch.bfloat16)}
# a file of "everloop-1", written by the code of that time: a and b, and FACTS
OLD = """
+AAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJjaGVja3N1bSI6ImE4NTU2NzI1IiwiZmFjdHMiOiJ7XCJzdGVwXCI6IDI1MCwgXCJi
ZXN0XCI6IFsxLjUsIDMsIHtcImFjY3VyYWN5XCI6IDAuMjV9XX0iLCJmb3JtYXQiOiJldmVybG9vcC0xIn0sImIiOnsiZHR5cGUi
OiJJNjQiLCJzaGFwZSI6WzJdLCJkYXRhX29mZnNldHMiOlswLDE2XX0sImEiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzIsM10s
ImRhdGFfb2Zmc2V0cyI6WzE2LDQwXX19ICAgICAgIAMAAAAAAAAAAQAAAAAAAAAAAAAAAACAPwAAAEAAAEBAAACAQAAAoEA=
"""
FACTS = {"step": 250, "best": [1.5, 3, {"accuracy": 0.25}]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 30 steps, with checkpoints of steps 20 and 30."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(small_model(), TEXT, CONFIG, out=path)
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def same(content: tuple[dict[str, Tensor], object]) -> bool:
    tensors, facts = content
    equal = all(torch.equal(t, TENSORS[name]) and t.dtype == TENSORS[name].dtype for name, t in tensors.items())
    return tensors.keys() == TENSORS.keys() and equal and facts == FACTS


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    write_tensors(path, TENSORS, FACTS)
    content = path.read_bytes()
    assert same(read_tensors(path))
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(RunError, match=r"is damaged|was not written by Everloop"):
            read_tensors(path)


def test_no_bit_of_a_file_may_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    write_tensors(path, TENSORS, FACTS)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            spoilt = bytearray(content)
            spoilt[place] ^= 1 << bit
            path.write_bytes(spoilt)
            try:
                read = read_tensors(path)
            except RunError:
                continue
            assert same(read), (place, bit)  # a blank of the header for another blank


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_damaged_newest_checkpoint(run: Path, whole: Path, share: float, tmp_path: Path) -> None:
    last, said = run / "last.safetensors", list[str]()
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    again = train(small_model(), TEXT, out=run, resume=True, report=lambda event: said.append(str(event)))
    assert "last.safetensors is damaged" in said[0]
    assert said[0].endswith("; training goes on from the checkpoint before it, that of step 20")
    assert "resuming after step 20" in said[1]
    assert again.step == 30
    assert differing(outcome(run), outcome(whole)) == []


def test_a_lost_newest_checkpoint(run: Path, whole: Path) -> None:
    (run / "last.safetensors").unlink()
    train(small_model(), TEXT, out=run, resume=True)
    assert differing(outcome(run), outcome(whole)) == []


def test_what_is_damaged_is_never_kept_as_the_one_before(run: Path) -> None:
    (run / "last.safetensors").write_bytes(b"damaged")
    seen: list[int] = []

    def power_cut(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 24:
            seen.append(Checkpoint(run / "previous.safetensors").facts["step"])
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            train(small_model(), TEXT, out=run, resume=True, report=power_cut)
    train(small_model(), TEXT, out=run, resume=True)
    assert seen == [20, 20]
    assert [Checkpoint(run / f"{name}.safetensors").facts["step"] for name in ("last", "previous")] == [30, 20]


def test_both_are_damaged(run: Path) -> None:
    for name in ("last", "previous"):
        (run / f"{name}.safetensors").write_bytes(b"damaged")
    message = r"last\.safetensors is damaged .*; nor is there one before it: .*previous\.safetensors is damaged"
    with pytest.raises(RunError, match=message):
        train(small_model(), TEXT, out=run, resume=True)


def test_a_checkpoint_of_another_model_is_no_damage(run: Path) -> None:
    with pytest.raises(RunError, match="averaged weights; expected 0"):
        train(small_model(), TEXT, CONFIG.replace({"ema_decay": 0.0}), out=run, resume=True)


def test_a_finished_run_keeps_both(run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in ("last.safetensors", "previous.safetensors")}
    train(small_model(), TEXT, out=run, resume=True)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_the_one_before_where_a_file_has_one_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    for content in (b"first", b"second", b"third"):
        write_atomically(tmp_path / "new", content, tmp_path / "old")
    assert [(tmp_path / name).read_bytes() for name in ("new", "old")] == [b"third", b"second"]


def test_what_killed_processes_left_is_removed_and_nothing_else(run: Path) -> None:
    left, kept = run / f".last.safetensors.a1b2c3_d{files.PART}", run / f".mine{files.PART}"
    for path in (left, kept):
        path.write_text("half")
    train(small_model(), TEXT, out=run, resume=True)
    assert not left.exists()
    assert kept.exists()
    remove_parts(run / "none")


def test_files_of_the_format_before(tmp_path: Path) -> None:
    old = tmp_path / "old.safetensors"
    old.write_bytes(base64.b64decode(OLD))
    tensors, facts = read_tensors(old)
    assert facts == FACTS
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "b": [3, 1]}
    for at in range(len(old.read_bytes()) - 40, len(old.read_bytes())):  # its numbers are under its checksum
        damaged = bytearray(base64.b64decode(OLD))
        damaged[at] ^= 1
        old.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged"):
            read_tensors(old)


def test_a_run_of_the_format_before_is_loaded_and_continued(run: Path) -> None:
    expected = load(run, "last").state_dict()
    for name in ("best", "last"):
        tensors, facts = read_tensors(run / f"{name}.safetensors")
        crc = 0  # of names and numbers in the order of names, as that format has it
        for each in sorted(tensors):
            crc = zlib.crc32(tensors[each].contiguous().numpy().tobytes(), zlib.crc32(each.encode(), crc))
        notes = {"format": "everloop-1", "checksum": f"{crc:08x}", "facts": json.dumps(facts)}
        save_file({each: tensor.contiguous() for each, tensor in tensors.items()}, run / f"{name}.safetensors", notes)
    found = load(run, "last").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert train(small_model(), TEXT, CONFIG, steps=31, out=run, resume=True).step == 31


def test_a_fallback_is_a_note(run: Path) -> None:
    (run / "last.safetensors").write_bytes(b"")
    seen: list[Event] = []
    train(small_model(), TEXT, out=run, resume=True, report=seen.append)
    assert isinstance(seen[0], Note)
