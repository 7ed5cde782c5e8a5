"""What is planned for the steps to come of series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from torch import Tensor

from everloop.data.datasets.series_config import SeriesConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.blocks import BlockReader
from everloop.data.readers.formats import block_reader
from everloop.data.readers.frames import FrameSource
from everloop.data.readers.source import FileSource, Source
from everloop.data.readers.time_series import Track
from everloop.errors import DataError


class Plans:
    """What is planned for the steps to come: a table with the planned columns, the time of each row if it counts, and
    the columns of the group if there are several series.

    Raises:
        DataError: missing, malformed, or a column that is not there.
    """

    def __init__(self, path: Path, config: SeriesConfig, errors: ErrorPolicy) -> None:
        self._read(FileSource(path, errors), block_reader(path), config)

    @classmethod
    def of(cls, frame: FrameSource, config: SeriesConfig) -> Plans:
        """Return what is planned as a frame has it."""
        self = cls.__new__(cls)
        self._read(frame, frame.blocks, config)
        return self

    def _read(self, source: Source, blocks: BlockReader, config: SeriesConfig) -> None:
        self.place, self.timed = source.place, bool(config.time)
        table = replace(config, columns=(), static=()).table(config.planned)
        self.tracks: dict[str, Track] = {}
        self.rows: dict[str, dict[datetime, int]] = {}
        for track in table.tracks([(source, blocks)], lambda told: None):
            if bool(track.values.isnan().any()):
                row = int(track.values.isnan().any(1).nonzero()[0])
                raise DataError(f"{self.place}: a number is missing in row {row + 1}{_of(track.name)}; fill it in")
            if track.breaks:
                came = f"rows are missing before its row {track.breaks[0] + 1}, and no time tells which"
                raise DataError(f"{self.place}: {came}; fill them in")
            self.tracks[track.name] = track
            self.rows[track.name] = {time: row for row, time in enumerate(track.times)}

    def ahead(self, times: Sequence[datetime], horizon: int, group: str = "") -> Tensor:
        """Return what is planned [H, P] at these times; without times, in the first rows.

        Raises:
            DataError: a step to come has no row, or something in it is missing.
        """
        track, of = self.tracks.get(group), _of(group)
        if track is None:
            raise DataError(f"{self.place} has no row{of}")
        if not self.timed:
            if len(track.values) < horizon:
                raise DataError(f"{self.place} has {len(track.values)} rows{of}; a forecast needs {horizon}")
            return track.values[:horizon].float()
        rows = self.rows[group]
        for time in times:
            if time not in rows:
                raise DataError(f"{self.place} has no row{of} for {time.isoformat(sep=' ')}, a step of the forecast")
        return track.values[[rows[time] for time in times]].float()


def _of(group: str) -> str:
    return f" of series {group}" if group else ""
