#!/usr/bin/env bash
# Run tests as an AArch64 processor would, by QEMU's emulation of single programs: make test-arm64.
# Needs the Debian packages qemu-user-static and mmdebstrap, no rights of root, and 1 GB in .venv/arm64, which the first run
# fills with Debian's Python and PyPI's wheels; nothing of AArch64 is run to install them. Times mean nothing here.
set -euo pipefail
cd "$(dirname "$0")/.."
home=.venv/arm64

for tool in qemu-aarch64-static mmdebstrap; do
    command -v "$tool" > /dev/null || { echo "$tool is missing: install qemu-user-static and mmdebstrap"; exit 1; }
done

if [ ! -e "$home/complete" ]; then
    rm -rf "$home" && mkdir -p "$home"
    mmdebstrap --quiet --mode=chrootless --variant=extract --architectures=arm64 \
        --include=python3,libgomp1,libstdc++6 bookworm "$home/debian"
    # The wheels' own lists of what they need are read for this machine's processor, so here is the list.
    "${PYTHON:-python3}" -m pip install --quiet ${PIP_ARGS:-} --no-deps --only-binary=:all: --python-version=3.11 \
        --platform=manylinux_2_28_aarch64 --platform=manylinux_2_27_aarch64 --platform=manylinux_2_17_aarch64 \
        --target="$home/packages" \
        torch==2.9.1 filelock typing-extensions sympy mpmath networkx jinja2 markupsafe fsspec \
        numpy llvmlite safetensors tyro typeguard docstring-parser rich pygments markdown-it-py mdurl \
        pytest iniconfig pluggy packaging hypothesis attrs sortedcontainers
    touch "$home/complete"
fi

export PYTHONPATH="$home/packages:$PWD" XDG_CACHE_HOME="$PWD/$home/cache"
exec nice qemu-aarch64-static -L "$home/debian" "$home/debian/usr/bin/python3.11" -m pytest -p no:cacheprovider "$@"
