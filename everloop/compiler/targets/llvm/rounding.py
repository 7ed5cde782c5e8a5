"""Numbers rounded to bfloat16, two neighbours in a word of 32 bits: a row, and a matrix that is copied into panels."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.targets.llvm.emit import Code
from everloop.compiler.targets.llvm.packing import place, transpose
from everloop.compiler.targets.llvm.vector import Isa

WORDS = 16  # k is rounded up to so many words, with zeros: a row of a tile of AMX


def each(number: int, lanes: int) -> str:
    """Return an integer of 32 bits in all lanes of a vector; without lanes one alone."""
    return f"<{', '.join([f'i32 {number}'] * lanes)}>" if lanes else str(number)


def rounded(code: Code, value: str, lanes: int = 0) -> str:
    """Return bits (i32) whose upper half is a number rounded to bfloat16, to even; NaN stays NaN."""
    kind, words = (f"<{lanes} x {one}>" if lanes else one for one in ("float", "i32"))
    bits = code(f"bitcast {kind} {value} to {words}")
    odd = code(f"and {words} {code(f'lshr {words} {bits}, {each(16, lanes)}')}, {each(1, lanes)}")
    near = code(f"add {words} {code(f'add {words} {bits}, {each(0x7FFF, lanes)}')}, {odd}")
    quiet = code(f"or {words} {bits}, {each(0x400000, lanes)}")
    is_nan = code(f"fcmp uno {kind} {value}, {value}")
    return code(f"select {kind.replace('float', 'i1')} {is_nan}, {words} {quiet}, {words} {near}")


def joined(code: Code, even: str, odd: str, lanes: int = 0) -> str:
    """Return words of two numbers each, from the upper halves of such bits."""
    kind = f"<{lanes} x i32>" if lanes else "i32"
    low = code(f"lshr {kind} {even}, {each(16, lanes)}")
    return code(f"or {kind} {low}, {code(f'and {kind} {odd}, {each(-65536, lanes)}')}")


def interleaved(code: Code, even: str, odd: str, lanes: int) -> str:
    """Return words of two numbers each, from vectors of bfloat16 in i16."""
    order = ", ".join(f"i32 {n + part}" for n in range(lanes) for part in (0, lanes))
    half, both = f"<{lanes} x i16>", f"<{2 * lanes} x i16>"
    mixed = code(f"shufflevector {half} {even}, {half} {odd}, <{2 * lanes} x i32> <{order}>")
    return code(f"bitcast {both} {mixed} to <{lanes} x i32>")


def side_by_side(code: Code, first: str, second: str, lanes: int, isa: Isa) -> str:
    """Return words of two neighbours each, from two vectors of float32 that follow one another."""
    kind, words = f"<{lanes} x float>", f"<{lanes} x i32>"
    if isa.has("avx512bf16"):
        name = f"llvm.x86.avx512bf16.cvtne2ps2bf16.{32 * lanes}"
        low = code(f"call <{2 * lanes} x bfloat> @{name}({kind} {second}, {kind} {first})")
        return code(f"bitcast <{2 * lanes} x bfloat> {low} to {words}")
    bits = [rounded(code, half, lanes) for half in (first, second)]
    masks = [", ".join(f"i32 {2 * i + one}" for i in range(lanes)) for one in (0, 1)]
    even, odd = (
        code(f"shufflevector {words} {bits[0]}, {words} {bits[1]}, <{lanes} x i32> <{mask}>") for mask in masks
    )
    return joined(code, even, odd, lanes)


def words_of(code: Code, k: str) -> str:
    """Return how many words a column or row of k numbers has."""
    return code.mul(code.divide(code.add(k, 2 * WORDS - 1), 2 * WORDS), WORDS)


def round_row(code: Code, source: str, to: str, k: str, words: str, isa: Isa) -> None:
    """Round k factors of products; zeros fill the last of the words."""
    round_numbers(code, source, to, k, isa.lanes(4), isa)
    code.clear(code.at(to, code.mul(k, 2)), code.sub(code.mul(words, 4), code.mul(k, 2)))


def round_numbers(code: Code, source: str, to: str, count: str, lanes: int, isa: Isa | None = None) -> None:
    """Write numbers of float32 as bfloat16; isa: by its instruction, which takes denormal numbers for zeros."""
    kind, full = f"<{lanes} x float>", code.mul(code.divide(count, lanes), lanes)

    def whole(j: str, _: list[str]) -> list[str]:
        value = code.load(kind, code.at(source, code.mul(j, 4)), 4)
        short = rounded_halves(code, value, lanes, isa)
        code.store(f"<{lanes} x i16>", short, code.at(to, code.mul(j, 2)), 2)
        return []

    def one(j: str, _: list[str]) -> list[str]:
        value = code.load("float", code.at(source, code.mul(j, 4)), 4)
        high = code(f"lshr i32 {rounded(code, value)}, 16")
        code.store("i16", code(f"trunc i32 {high} to i16"), code.at(to, code.mul(j, 2)), 2)
        return []

    code.loop(0, full, whole, step=lanes)
    code.loop(full, count, one)


def rounded_halves(code: Code, value: str, lanes: int, isa: Isa | None) -> str:
    """Return a vector of float32 as bfloat16, in i16; isa: may do so by an instruction of its own."""
    number, half = f"<{lanes} x float>", f"<{lanes} x i16>"
    if isa and isa.has("avx512bf16"):
        low = code(f"call <{lanes} x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}({number} {value})")
        return code(f"bitcast <{lanes} x bfloat> {low} to {half}")
    high = code(f"lshr <{lanes} x i32> {rounded(code, value, lanes)}, {each(16, lanes)}")
    return code(f"trunc <{lanes} x i32> {high} to {half}")


def bits_at(code: Code, place: str, size: int) -> str:
    """Return bits (i32) whose upper half is a number in memory, of `size` bytes, as bfloat16."""
    if size == 4:
        return rounded(code, code.load("float", place, 4))
    half = code.load("i16", place, 2)
    return code(f"shl i32 {code(f'zext i16 {half} to i32')}, 16")


def widened(code: Code, halves: str, lanes: int = 0) -> str:
    """Return the float32 of bfloat16 numbers, given as i16."""
    half, word, number = (f"<{lanes} x {one}>" if lanes else one for one in ("i16", "i32", "float"))
    bits = code(f"shl {word} {code(f'zext {half} {halves} to {word}')}, {each(16, lanes)}")
    return code(f"bitcast {word} {bits} to {number}")


def extended(code: Code, halves: str, lanes: int = 0) -> str:
    """Return the float32 of float16 numbers, given as i16."""
    short, half, number = (f"<{lanes} x {one}>" if lanes else one for one in ("i16", "half", "float"))
    return code(f"fpext {half} {code(f'bitcast {short} {halves} to {half}')} to {number}")


def shortened(code: Code, value: str, lanes: int = 0) -> str:
    """Return float32 rounded to float16, as i16."""
    short, half, number = (f"<{lanes} x {one}>" if lanes else one for one in ("i16", "half", "float"))
    return code(f"bitcast {half} {code(f'fptrunc {number} {value} to {half}')} to {short}")


def shorten_numbers(code: Code, source: str, to: str, count: str, lanes: int) -> None:
    """Write numbers of float32 as float16."""
    _convert(code, source, to, count, lanes, ("float", 4), ("i16", 2), shortened)


Widen = Callable[..., str]  # (code, numbers in i16, lanes) -> numbers of float32


def widen_numbers(code: Code, source: str, to: str, count: str, lanes: int, widen: Widen = widened) -> None:
    """Write numbers of two bytes as float32."""
    _convert(code, source, to, count, lanes, ("i16", 2), ("float", 4), widen)


def _convert(
    code: Code, source: str, to: str, count: str, lanes: int, old: tuple[str, int], new: tuple[str, int], how: Widen
) -> None:
    """Write numbers of one format in another, vectors first; old, new: type and bytes of one."""
    full = code.mul(code.divide(count, lanes), lanes)

    def some(lanes: int) -> Callable[[str, list[str]], list[str]]:
        given, written = (f"<{lanes} x {one}>" if lanes else one for one, _ in (old, new))

        def body(j: str, _: list[str]) -> list[str]:
            value = code.load(given, code.at(source, code.mul(j, old[1])), old[1])
            code.store(written, how(code, value, lanes), code.at(to, code.mul(j, new[1])), new[1])
            return []

        return body

    code.loop(0, full, some(lanes), step=lanes)
    code.loop(full, count, some(0))


def pack_rounded(isa: Isa, size: int = 4) -> str:
    """Text of `everloop_pack`, as that of `packing`: vectors of columns first to last - 1.

    size: bytes of a number, 4 of float32 and 2 of bfloat16.
    """
    lanes = isa.lanes(4)
    vector, many = f"<{lanes} x float>", f"<{lanes} x i32>"
    head = "ptr %source, i64 %by_k, i64 %by_j, i64 %k, i64 %n, ptr %packed, i64 %first, i64 %last"
    code = Code(f"void @everloop_pack({head})")
    words = words_of(code, "%k")
    along_k, along_j = code.equal("%by_k", size), code.equal("%by_j", size)
    blocks, pairs = code.divide("%k", 2 * lanes), code.divide("%k", 2)
    all_vectors = code.divide(code.add("%n", lanes - 1), lanes)

    def column(v: str, _: list[str]) -> list[str]:
        j = code.mul(v, lanes)
        to, stride = place(code, isa, 4, v, all_vectors, words)
        source = code.at("%source", code.mul(j, "%by_j"))
        left = code.least(code.sub("%n", j), lanes)

        def transposed() -> str:
            def block(b: str, _: list[str]) -> list[str]:
                corner = code.at(source, code.mul(b, 2 * size * lanes))
                rows = []
                for c in range(lanes):
                    row = code.at(corner, code.mul("%by_j", c))
                    if size == 2:
                        rows.append(code.load(many, row, 2))
                        continue
                    first, second = (code.load(vector, code.at(row, part), 4) for part in (0, 4 * lanes))
                    rows.append(side_by_side(code, first, second, lanes, isa))
                for r, row in enumerate(transpose(code, rows, many, lanes)):
                    code.store(many, row, code.at(to, code.mul(code.add(code.mul(b, lanes), r), stride)), 4)
                return []

            code.loop(0, blocks, block)
            return code.mul(blocks, lanes)

        def copied() -> str:
            def line(w: str, _: list[str]) -> list[str]:
                start = code.at(source, code.mul(w, code.mul("%by_k", 2)))
                kind = vector if size == 4 else f"<{lanes} x i16>"
                rows = [code.load(kind, start, size), code.load(kind, code.at(start, "%by_k"), size)]
                even, odd = rows if size == 2 else (rounded_halves(code, row, lanes, isa) for row in rows)
                code.store(many, interleaved(code, even, odd, lanes), code.at(to, code.mul(w, stride)), 4)
                return []

            code.loop(0, pairs, line)
            return pairs

        def whole() -> str:
            return code.either(along_k, "i64", transposed, lambda: code.either(along_j, "i64", copied, lambda: "0"))

        done = code.either(code.equal(left, lanes), "i64", whole, lambda: "0")

        def rest(w: str, _: list[str]) -> list[str]:
            place, k = code.at(to, code.mul(w, stride)), code.mul(w, 2)
            code.store(many, "zeroinitializer", place, 4)

            def one(c: str, _: list[str]) -> list[str]:
                start = code.at(source, code.mul(c, "%by_j"))

                def number(at: str) -> str:
                    def there() -> str:
                        return bits_at(code, code.at(start, code.mul(at, "%by_k")), size)

                    return code.either(code.less(at, "%k"), "i32", there, lambda: "0")

                even = number(k)
                code.store("i32", joined(code, even, number(code.add(k, 1))), code.at(place, code.mul(c, 4)), 4)
                return []

            code.loop(0, left, one)
            return []

        code.loop(done, words, rest)
        return []

    code.loop("%first", "%last", column)
    return code.end()
