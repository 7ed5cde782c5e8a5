"""Tables of Beijing air with the wind as a vector, and the air and wind of every station: data for beijing_air.

    python air_tables.py BEIJING_AIR_FOLDER --out air

BEIJING_AIR_FOLDER holds the CSV files of some stations (UCI, Beijing Multi-Site Air Quality, named STATION.csv or
STATION.csv.gz). For each is written STATION.csv: its columns, and besides

    east, north          the wind in m/s, as where it comes from: WSPM times sine and cosine of the direction wd
    PM2.5_S              PM2.5 at each station S in the same hour, its own too
    east_S, north_S      the wind there

A missing number stays NA. Nothing is read from a later hour.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from everloop.data.readers.lines import unpacked

DIRECTIONS = ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"]
HOUR = ("year", "month", "day", "hour")
Row = Mapping[str, str]


def wind(row: Row) -> tuple[str, str]:
    """Return the wind from the east and from the north, in m/s."""
    if row["wd"] not in DIRECTIONS or row["WSPM"] in ("", "NA"):
        return "NA", "NA"
    angle, speed = 2 * math.pi * DIRECTIONS.index(row["wd"]) / len(DIRECTIONS), float(row["WSPM"])
    return f"{speed * math.sin(angle):.2f}", f"{speed * math.cos(angle):.2f}"


def joined(tables: Mapping[str, Sequence[Row]]) -> dict[str, list[list[str]]]:
    """Return for each station its table, headings first, with the columns that are added."""
    air = {
        (station, *(row[part] for part in HOUR)): (row["PM2.5"], *wind(row))
        for station, rows in tables.items()
        for row in rows
    }
    added = ["east", "north", *(f"{name}_{station}" for name in ("PM2.5", "east", "north") for station in tables)]
    found = {}
    for station, rows in tables.items():
        found[station] = [[*rows[0], *added]]
        for row in rows:
            hour = [row[part] for part in HOUR]
            others = [air.get((other, *hour), ("NA", "NA", "NA")) for other in tables]
            columns = [number for numbers in zip(*others, strict=True) for number in numbers]
            found[station].append([*row.values(), *air[station, *hour][1:], *columns])
    return found


def main() -> None:
    """Write the tables of all stations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the CSV files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    options = parser.parse_args()
    tables = {}
    for path in sorted(options.folder.glob("*.csv*")):
        tables[path.name.partition(".")[0]] = [*csv.DictReader(unpacked(path).decode("utf-8").splitlines())]
    if not tables:
        raise SystemExit(f"{options.folder} has no CSV files; expected one a station")
    options.out.mkdir(parents=True, exist_ok=True)
    for station, rows in joined(tables).items():
        with (options.out / f"{station}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    print(f"{len(tables)} stations in {options.out}")


if __name__ == "__main__":
    main()
