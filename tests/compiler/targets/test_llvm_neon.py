"""What AArch64 processors have beside NEON: dot products of bfloat16 and of int8, found, generated and assembled."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import bfloat, capabilities, machine, narrow_single, single, whole
from everloop.compiler.targets.llvm.formats import FORMATS
from everloop.compiler.targets.llvm.layout import Layout, normalise
from everloop.compiler.targets.llvm.vector import Isa, named
from tests.compiler.targets import loops
from tests.compiler.targets.test_llvm_whole import loop_of

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
FORM, NEON = FORMATS[torch.float32], named("neon")


def product(isa: Isa) -> str:
    return machine.module(isa, bfloat.functions(isa))


def step(isa: Isa) -> str:
    return narrow_single.text(Layout(normalise(loops.gru(17).of(torch.float32)), FORM, isa))


def whole_step(isa: Isa) -> str:
    return single.text(Layout(normalise(loop_of(64, 32)), FORM, isa))


def assembly(text: str, isa: Isa) -> str:
    binding = machine.need()
    target = binding.Target.from_triple(machine.triple(isa))
    return str(target.create_target_machine(features=isa.features, opt=2).emit_assembly(binding.parse_assembly(text)))


@pytest.mark.parametrize(
    ("text", "feature", "instruction"),
    [(product, "bf16", "bfdot"), (step, "bf16", "bfdot"), (whole_step, "dotprod", "sdot")],
)
def test_generated_and_assembled(text: Callable[[Isa], str], feature: str, instruction: str) -> None:
    has_it = replace(NEON, features=f"{NEON.features},+{feature}")
    code = machine.generate(text(has_it), has_it)
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183  # EM_AARCH64
    assert b"llvm." not in code, "an intrinsic that nobody has"
    assert f"\t{instruction}\tv" in assembly(text(has_it), has_it)
    assert f"\t{instruction}\tv" not in assembly(text(NEON), NEON)


def test_said_by_what_they_are() -> None:
    assert bfloat.dots(NEON) == ""
    assert bfloat.dots(replace(NEON, features="+neon,+bf16")) == "dot products of NEON (bfdot)"
    assert whole.instruction(NEON) == ""
    assert whole.instruction(replace(NEON, features="+neon,+dotprod")) == "sdot"


@pytest.mark.parametrize("has", [True, False])
def test_an_instruction_set_has_what_the_processor_has(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"neon": True, "bf16": has, "dotprod": has}
    monkeypatch.setattr(machine, "host", lambda: NEON)
    monkeypatch.setattr(machine, "runs", lambda name: name == "neon")
    monkeypatch.setattr(machine, "_features", lambda arch: found)
    assert machine.narrow.__wrapped__(NEON).has("bf16") == has
    assert machine.dotted.__wrapped__(NEON).has("dotprod") == has
    assert not machine.narrow.__wrapped__(named("avx512")).has("bf16")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({16: 1 << 20, 26: 0}, {"dotprod"}),
        ({16: 1 << 20, 26: 1 << 14}, {"dotprod", "bf16"}),
        ({16: 1 << 14, 26: 1}, set()),
    ],
)
def test_linux_says_it_in_words_of_bits(
    words: dict[int, int], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def getauxval(word: int) -> int:
        return words[word]

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(getauxval=getauxval))
    assert {name for name, has in capabilities.capabilities().items() if has} == {"neon", *expected}


def test_macos_says_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def sysctlbyname(name: bytes, value: Any, size: Any, *_: object) -> int:
        assert size._obj.value == 4
        value._obj.value = 1
        return 0 if name == b"hw.optional.arm.FEAT_DotProd" else -1

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(sysctlbyname=sysctlbyname))
    assert capabilities.capabilities() == {"neon": True, "dotprod": True, "bf16": False}


def test_elsewhere_there_is_only_neon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert capabilities.capabilities() == {"neon": True, "dotprod": False, "bf16": False}
