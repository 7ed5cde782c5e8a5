"""How long tables of 100 MB take to read: rows of numbers and labelled texts, as CSV and as Parquet.

Peers read the same file, where nothing is malformed, into arrays or lists of the same values: polars alone, and pandas
where it is installed. Usage: python -m benchmarks.tables [MEGABYTES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.formats import block_reader, read_examples
from everloop.data.readers.source import Fields, FileSource
from everloop.data.readers.time_series import Table

NUMBERS = [f"n{i}" for i in range(4)]
WORDS = "the of and to a in that it is was for on are with as his they at be this from have or by"


def write_numbers(folder: Path, rows: int) -> None:
    """Write hourly rows of four numbers."""
    values = np.random.default_rng(0).normal(0, 10, (rows, len(NUMBERS))).round(4)
    start = np.datetime64("1900-01-01T00:00:00")
    times = (start + np.arange(rows) * np.timedelta64(1, "h")).astype("datetime64[us]")
    frame = polars.DataFrame({"time": times, **dict(zip(NUMBERS, values.T, strict=True))})
    frame.write_csv(folder / "numbers.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    frame.write_parquet(folder / "numbers.parquet")


def write_texts(folder: Path, rows: int) -> None:
    """Write texts of 30 words with labels."""
    chance, words = np.random.default_rng(1), WORDS.split()
    texts = [" ".join(words[i] for i in row) for row in chance.integers(0, len(words), (rows, 30))]
    frame = polars.DataFrame({"text": texts, "label": chance.integers(0, 5, rows).astype(str).tolist()})
    frame.write_csv(folder / "texts.csv")
    frame.write_parquet(folder / "texts.parquet")


def ours(path: Path) -> int:
    """Read a file as datasets do; return how many rows it has."""
    source = FileSource(path, ErrorPolicy())
    if path.stem == "texts":
        return sum(1 for _ in read_examples(source, "auto", Fields("text", "label")))
    (track,) = Table((*NUMBERS,), ("time",)).tracks([(source, block_reader(path))], print)
    return len(track.values)


def of_polars(path: Path) -> int:
    """Read a file into lists of texts, or an array of numbers and the times."""
    is_csv = path.suffix == ".csv"
    frame = polars.read_csv(path, try_parse_dates=True) if is_csv else polars.read_parquet(path)
    if path.stem == "texts":
        return len(list(zip(frame["text"].to_list(), frame["label"].to_list(), strict=True)))
    frame["time"].to_list()
    return len(frame.select(NUMBERS).to_numpy())


def of_pandas(path: Path) -> int:
    """As `of_polars`."""
    import pandas

    frame = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    if path.stem == "texts":
        return len(list(zip(frame["text"].tolist(), frame["label"].tolist(), strict=True)))
    pandas.to_datetime(frame["time"]).tolist()
    return len(frame[NUMBERS].to_numpy())


def timed(read: Callable[[Path], int], path: Path) -> tuple[float, int]:
    """Return the seconds of one reading, and the rows."""
    start = time.perf_counter()
    rows = read(path)
    return time.perf_counter() - start, rows


def results(folder: Path) -> Iterator[str]:
    """Yield a line for each file and reader."""
    readers = {"everloop": ours, "polars": of_polars}
    if find_spec("pandas"):
        readers["pandas"] = of_pandas
    for path in sorted(folder.iterdir()):
        for name, read in readers.items():
            if name == "pandas" and path.suffix == ".parquet" and not find_spec("pyarrow"):
                continue
            seconds, rows = timed(read, path)
            of = f"{path.name:16} {path.stat().st_size / 1e6:5.0f} MB {rows:9,} rows"
            yield f"{of}  {name:8} {seconds:6.2f} s {1e6 * seconds / rows:6.1f} µs a row"


def main(megabytes: float = 100) -> None:
    """Print how long each reader takes."""
    with tempfile.TemporaryDirectory() as name:
        write_numbers(Path(name), round(megabytes * 1e6 / 52))
        write_texts(Path(name), round(megabytes * 1e6 / 117))
        for line in results(Path(name)):
            print(line, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 100)
