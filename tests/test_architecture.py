"""The house: who may import whom, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "everloop"
LEVELS = [
    {"binding", "errors", "torch_private"},
    {"declaration", "own_gradient", "step"},
    {"cell"},
    {"cells", "compiler"},
    {"data"},
    {"layers"},
    {"models"},
    {"train", "decode", "diagnose", "draw"},
    {"kinds"},
    {"report"},
    {"cli", "notebook"},
]
# Within a folder, what is on a line imports only from the lines above it, or from its own folder.
INSIDE = {
    "compiler": """
        advice autocast batched bindings bounded compact expression fingerprints forks intervals locations pytree view
        backwards dependencies derivatives disk_cache formulas meanings
        effects opaque operations randomness time_axis
        embedded
        call dtypes ir kernel loop
        abstract evaluate rewrite symbol target
        conditions equations functions interpreter lower placement quotients reduced rules targets
        corners features precision schedule simplify sums
        aliases gradient hoist ranges shapes
        contractions chosen hoisted indexing rematerialisation sink
        roll
        activations assignments composed convolutions quantize scans surrogates
        extremes
        torch_function
        trace
        plan
        plan_cache single training verify
        passes
        program report stepping
    """,
    "data": """
        error_policy files noise resampling spacing spec_augment trimming vtlp
        lazy pictures settings
        ragged
        batching frames pen
        augmentation dataset readers tokenize
        in_memory
        datasets
    """,
    "layers": """
        bidirectional compare flatten guards masked_matrix nested precision recompute rows weight_gradients
        backward double_backward empty_sequences epilogue turns input_form linear reference serialization
        linear_cross_entropy validation
        extras
        autograd_function check custom_operator dropout
        decomposition dispatch stack torch_step
        explanation over_time quantized_cell recording single_step torch_nn
        recurrent
        as_torch
        quantize
    """,
    "compiler/targets/llvm": """
        c_library capabilities emit formats kept pages threads vector
        mathematics memory
        trigonometry
        machine
        phases product quick
        layout packing
        rounding
        features large partition team tiles
        bfloat tiled
        launch
        axes
        mapping
        barrier matrices pairs tile_products worker
        direct driver gemm
        narrow_direct narrow_gemm whole
        single
        narrow_single
        target
    """,
}
HEIGHT = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def modules() -> Iterator[tuple[Path, str]]:
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            yield path, room


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "everloop" and len(parts) > 1 and parts[1] in HEIGHT:
                yield node.lineno, parts[1]


def test_every_room_is_on_a_level() -> None:
    assert {room for _, room in modules()} <= set(HEIGHT)


def test_rooms_import_only_from_rooms_above() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path, room in modules()
        for line, other in imported_rooms(path)
        if other != room and HEIGHT[other] >= HEIGHT[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_files_of_a_folder_import_only_from_lines_above() -> None:
    wrong = []
    for folder, lines in INSIDE.items():
        package = ("everloop", *folder.split("/"))
        height = {part: level for level, parts in enumerate(lines.split("\n")) for part in parts.split()}
        for path in (ROOT / folder).rglob("*.py"):
            part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
            assert part in (*height, "__init__"), f"{path.relative_to(ROOT)} is on no line"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = (
                    [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                )
                inside = {name.split(".")[len(package)] for name in names if name.startswith(".".join(package) + ".")}
                below = [other for other in inside & set(height) - {part} if height[other] >= height.get(part, 99)]
                wrong += [f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {other}" for other in below]
    assert not wrong, "\n".join(wrong)


def test_only_the_registry_names_a_target() -> None:
    targets = {"llvm"}
    wrong = []
    for path, _ in modules():
        place = str(path.relative_to(ROOT))
        if place.startswith("compiler/targets/") or place == "compiler/target.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("everloop.compiler.targets"):
                wrong.append(f"{place}:{node.lineno}")
            if isinstance(node, ast.Constant) and node.value in targets:
                wrong.append(f"{place}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_neither_the_graph_nor_the_layers_load_a_target() -> None:
    loaded = "any('everloop.compiler.targets' in name or 'llvmlite' in name for name in sys.modules)"
    code = f"import sys, everloop.compiler.ir, everloop.layers; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_has_two_thoughts() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400} == {}


def test_every_file_says_what_it_does() -> None:
    files = [p for p in ROOT.rglob("*.py") if p.read_text(encoding="utf-8").strip()]
    assert [str(p.relative_to(ROOT)) for p in files if not ast.get_docstring(ast.parse(p.read_text("utf-8")))] == []
