"""Numbers over time: from what is known of some series to what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.data.datasets.series import Series, SeriesBatch
from everloop.data.tokenize.vocabulary_file import read_json, strings, write_json
from everloop.errors import DataError, OptionError, unknown
from everloop.layers.linear import Linear
from everloop.models.body import BodyConfig, Dropout, body, check, configured
from everloop.models.forecast import Forecast
from everloop.models.loss import Loss
from everloop.models.missing import Decay, Filled, filled
from everloop.models.model import Model
from everloop.models.modes import evaluating
from everloop.models.outline import Block, Outline, Strand
from everloop.models.outputs import Counts, Output, Scale, output_of
from everloop.models.pooling import Pooling

FORMAT = "everloop-series-1"
LEAST_SPREAD = 0.05  # of the deviation in training: a window of equal numbers is not blown up
Around = Literal["zero", "last", "mean", "seasonal"]
Missing = Literal["decay", "fill"]
Scaling = Literal["train", "window"]


@dataclass(frozen=True)
class ForecasterConfig(BodyConfig):
    """The shape of a forecaster."""

    bidirectional: bool = False
    """Whether each layer reads in both directions."""
    context: int = 0
    """Steps known; 0: as fits the data, four seasons where there are enough steps."""
    horizon: int = 0
    """Steps to forecast; 0: a season where there are enough steps."""
    season: int = 0
    """Steps after which the series roughly repeat, of the seasonal baseline and of `around`; 0: a day of hours, a week
    of days, a year of months, and 24 where no time tells."""
    output: Output = "point"
    """One number a step; a mean with a standard deviation; quantiles; or counts, with their mean and deviation."""
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Which quantiles, with that output."""
    around: Around = "last"
    """What the forecast is the difference to: nothing, the last value, the mean of the window, or the last season."""
    together: bool = False
    """Whether all series of a step are read together; otherwise each on its own, with the same weights."""
    patch: int = 1
    """Steps that are read at once, as one step of the layers."""
    missing: Missing = "decay"
    """Missing numbers: the last one seen, which goes to the mean the longer ago it was, beside a mask; or that number
    alone (fill). It matters where some are missing in training."""
    scaling: Scaling = "train"
    """What the numbers of a window are divided by: the deviation of the training split, or that of the window too, for
    series of different sizes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, ("context", "horizon", "season"), at_least=0)
        check(self, ("patch",), at_least=1)
        choices = {"output": Output, "around": Around, "missing": Missing, "scaling": Scaling}
        for name, kinds in choices.items():
            if getattr(self, name) not in get_args(kinds):
                raise OptionError(unknown(name, str(getattr(self, name)), get_args(kinds)))
        if self.context % self.patch:
            raise OptionError(f"context is {self.context}; expected a multiple of patch, {self.patch}")
        if self.around == "seasonal" and self.season > self.context > 0:
            raise OptionError(f"season is {self.season}; around 'seasonal' expects at most context, {self.context}")
        if self.output == "quantile" and not all(0 < q < 1 for q in self.quantiles):
            raise OptionError(f"quantiles are {self.quantiles}; expected numbers between 0 and 1")


class Forecaster(Model):
    """Forecasts all steps of the horizon at once, from the last state of its layers.

    Salinas et al., "DeepAR: probabilistic forecasting with autoregressive recurrent networks", 2020 (Gaussian output);
    Wen et al., "A multi-horizon quantile recurrent forecaster", 2017 (quantiles, all steps at once); Lin et al.,
    "SegRNN: segment recurrent neural network for long-term time series forecasting", 2023 (patches, last value).

    The loss is counted on series scaled by the means and deviations that `of` found in the training part: squared
    error, nats of a Gaussian, or pinball loss; that of counts on the counts.

    Args:
        names: of the series.
        cell: a cell class, its name, or "file.py:Class".
        extras: how many covariates, planned numbers, and numbers of the calendar a step has.
        masks: whether it reads which numbers are missing.
        static: what does not change in a series, by name the words that occur.
        settings: those of ForecasterConfig, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """

    kind: ClassVar[str] = "forecaster"
    config: ForecasterConfig
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        names: Sequence[str],
        cell: type[Cell] | str = "lstm",
        extras: tuple[int, int, int] = (0, 0, 0),
        masks: bool = False,
        static: Mapping[str, Sequence[str]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        config = configured(ForecasterConfig, cell, settings)
        context, horizon, season = config.context or 96, config.horizon or 24, config.season or 24
        self.config = config = replace(config, context=context, horizon=horizon, season=season)
        self.series, self.extras = len(names), tuple(extras)
        known = self.series + self.extras[0] + self.extras[1]
        self.register_buffer("mean", torch.zeros(known))
        self.register_buffer("scale", torch.ones(known))
        self.decay = Decay(known) if masks else None
        self.output = output_of(config.output, config.quantiles)
        self.outs = self.output.size
        read = self.series if config.together else 1
        marks = read + sum(self.extras[:2]) if masks else 0
        self.static = {name: tuple(words) for name, words in (static or {}).items()}
        width = (read + sum(self.extras) + sum(map(len, self.static.values())) + marks) * config.patch
        # patches are embedded, so that the layers do not read many raw numbers at once
        self.read_in = nn.Sequential(Linear(width, config.hidden), nn.ReLU()) if config.patch > 1 else nn.Identity()
        self.recurrent = body(config, config.hidden if config.patch > 1 else width, cell)
        self.last = Pooling("last", self.recurrent.output_size, bidirectional=config.bidirectional)
        self.inputs = Dropout(config.dropped_inputs(embedded=config.patch > 1))
        self.dropout = Dropout(config.dropout)
        planned, calendar = self.extras[1:]
        size = self.recurrent.output_size
        self.head = Linear(size + config.horizon * calendar, config.horizon * read * self.outs)
        # each step to come with what is planned for it, by the same weights at every step
        layers = [Linear(size + planned, config.hidden), nn.ReLU(), Linear(config.hidden, read * self.outs)]
        self.plans = nn.Sequential(*layers) if planned else None

    @classmethod
    def of(cls, data: Series, config: ForecasterConfig | None = None) -> Forecaster:
        """Return the untrained forecaster that fits some data."""
        config = config or ForecasterConfig()
        config = replace(config, context=data.context, horizon=data.horizon, season=config.season or data.season)
        masks = data.missing and config.missing == "decay"
        self = cls.from_config(data.names, config, data.extras, masks=masks, static=data.categories)
        if isinstance(self.output, Counts):
            data.check_counts()
        mean, deviation = data.scale()
        self.mean.copy_(mean)
        self.scale.copy_(deviation)
        return self

    def outline(self) -> Outline:
        width, patch = self.recurrent.input_size, self.config.patch
        read = (self.series if self.config.together else 1) + sum(self.extras) + sum(map(len, self.static.values()))
        before = (Block("patch", read * patch, width),) if patch > 1 else ()
        head = (Block("head", self.head.in_features, self.head.out_features),)
        reads, writes = f"{patch} steps" if patch > 1 else "step", f"{self.config.horizon} steps to come"
        strand = Strand(self.recurrent, reads, writes, before, head, pooling="last")
        return Outline(self.kind, "N → M, all at once", (strand,))

    @property
    def target(self) -> str:
        return "value"

    @property
    def measure(self) -> str:
        return self.output.measure

    @property
    def scaled(self) -> Scale:
        """How the series are scaled."""
        return Scale(self.mean[: self.series], self.scale[: self.series])

    def forward(self, past: Tensor, extra: Tensor, ahead: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the output of the head [H, B, S, outs], in scaled numbers: of points, (mean, deviation), or quantiles.

        past: [T, B, S] as in the data, NaN where a number is missing; extra: covariates, what was planned and calendar
        [T, B, C + P + K]; ahead: what is planned and the calendar to come [H, B, P + K]; static: [B or 1, W], or None.
        """
        config, batch = self.config, past.shape[1]
        numbers, calendar = torch.split(extra, [sum(self.extras[:2]), self.extras[2]], -1)
        known = filled((torch.cat([past, numbers], -1) - self.mean) / self.scale)
        planned, ahead = torch.split(ahead, list(self.extras[1:]), -1)
        series = Filled(*(part[..., : self.series] for part in (known.values, known.seen, known.since)))
        base, level = self._around(series)
        spread = series.deviation().clamp_min(LEAST_SPREAD) if config.scaling == "window" else None
        read = known.values if self.decay is None else self.decay(known)
        values, covariates = read[..., : self.series] - level, read[..., self.series :]
        values = values if spread is None else values / spread
        marks = [] if self.decay is None else [known.seen[..., self.series :].to(read.dtype)]
        still = [] if static is None else [static.expand(len(past), batch, -1)]
        shared = torch.cat([covariates, calendar, *still, *marks], -1)
        own = [values] if self.decay is None else [values, series.seen.to(read.dtype)]
        x = torch.cat([*own, shared], -1) if config.together else self._apart(own, shared)
        x = x.reshape(len(x) // config.patch, config.patch, *x.shape[1:]).transpose(1, 2).flatten(2)
        y, _ = self.recurrent(self.inputs(self.read_in(x)))
        last = self.last(y, torch.full((x.shape[1],), len(x), device=x.device))
        last = self.dropout(last)
        to_head = torch.cat([last, self._spread(ahead, x.shape[1] // batch)], -1)
        output = self.head(to_head).view(batch, -1, config.horizon, self.series if config.together else 1, self.outs)
        output = output.permute(2, 0, 1, 3, 4).flatten(2, 3)
        if self.plans is not None:
            output = output + self._planned(last, planned).view_as(output)
        return self.output.parameters(output, base, spread, self.scaled)

    def _around(self, series: Filled) -> tuple[Tensor, Tensor]:
        """Return (what a forecast is the difference to [H or 1, B, S], what is subtracted from the past)."""
        values = series.values
        mean = series.mean() if self.decay is not None else values.mean(0, keepdim=True)
        match self.config.around:
            case "last":
                return values[-1:], values[-1:]
            case "mean":
                return mean, mean
            case "seasonal":
                return seasonal(values, self.config.horizon, self.config.season), mean
        return torch.zeros_like(values[:1]), torch.zeros_like(values[:1])

    def _apart(self, own: Sequence[Tensor], extra: Tensor) -> Tensor:
        """Return the series side by side as sequences of their own [T, B * S, 1 + C]."""
        steps, batch, series = own[0].shape
        shared = extra[:, :, None].expand(steps, batch, series, extra.shape[-1])
        return torch.cat([*(part[..., None] for part in own), shared], -1).flatten(1, 2)

    def _spread(self, ahead: Tensor, times: int) -> Tensor:
        """Return the calendar to come, flat, for each sequence [B * times, H * K]."""
        return ahead.transpose(0, 1).flatten(1).repeat_interleave(times, 0)

    def _planned(self, last: Tensor, planned: Tensor) -> Tensor:
        """Return what the plans [H, B, P] add to the forecast [H, rows, outs], given what the layers put out last."""
        assert self.plans is not None, "only called with plans"
        first = self.series + self.extras[0]
        scaled = ((planned - self.mean[first:]) / self.scale[first:]).nan_to_num()
        each = scaled.repeat_interleave(len(last) // planned.shape[1], 1)
        return self.plans(torch.cat([last.expand(len(each), -1, -1), each], -1))  # type: ignore[no-any-return]

    def loss(self, batch: SeriesBatch, state: Any = None) -> Loss:
        """Return the loss; outside of training also the errors, and beside them those of the baselines."""
        output = self(batch.past, batch.extra, batch.ahead, batch.static)
        future = (batch.future - self.mean[: self.series]) / self.scale[: self.series]
        is_known = ~future.isnan()
        future, count = future.nan_to_num(), int(is_known.sum())
        losses = self.output.loss(output, future, self.scaled)
        total = torch.where(is_known, losses, 0).sum()
        if self.training:
            return Loss(total, count)
        past = filled((batch.past - self.mean[: self.series]) / self.scale[: self.series]).values
        guesses = {"": self.output.point(output)} | {
            f"_{name}": guess for name, guess in baselines(past, self.config.horizon, self.config.season).items()
        }
        errors = {name: torch.where(is_known, guess.detach() - future, 0) for name, guess in guesses.items()}
        sums = {f"mse{name}": (float(error.square().sum()), count) for name, error in errors.items()}
        sums |= {f"mae{name}": (float(error.abs().sum()), count) for name, error in errors.items()}
        return Loss(total, count, sums=sums)

    @torch.no_grad()
    def forecast(self, batch: SeriesBatch) -> Forecast:
        """Return the forecast for windows, in the numbers of the data."""
        with evaluating(self):
            output = self(batch.past, batch.extra, batch.ahead, batch.static)
        return self.output.forecast(output, self.scaled)

    def write(self, folder: Path) -> None:
        """Write the names of the series, and what comes with them, into a run folder."""
        write_json(
            folder / "series.json",
            FORMAT,
            {"names": self.names, "extras": self.extras, "masks": self.decay is not None, "static": self.static},
        )

    @classmethod
    def read(cls, folder: Path, config: ForecasterConfig) -> Forecaster:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        path = folder / "series.json"
        content = read_json(path, FORMAT)
        extras = content.get("extras")
        if not isinstance(extras, list) or [type(n) for n in extras] not in ([int] * 2, [int] * 3):
            raise DataError(f"{path}: extras must be three integers")
        # runs of before there were plans have two; those of before there were masks say nothing of them
        sizes, masks = (extras[0], sum(extras[1:-1]), extras[-1]), bool(content.get("masks"))
        static = content.get("static", {})  # runs of before there was any have none
        if not isinstance(static, dict):
            raise DataError(f"{path}: static must be an object of lists of strings")
        static = {name: strings(static, name, path) for name in static}
        return cls.from_config(strings(content, "names", path), config, sizes, masks=masks, static=static)

    @classmethod
    def from_config(
        cls,
        names: Sequence[str],
        config: ForecasterConfig,
        extras: tuple[int, int, int],
        *,
        masks: bool = False,
        static: Mapping[str, Sequence[str]] | None = None,
    ) -> Forecaster:
        """Return the model that a configuration describes."""
        return cls(names, extras=extras, masks=masks, static=static, **vars(config))


def seasonal(past: Tensor, horizon: int, season: int) -> Tensor:
    """Return the last season of [T, ...], repeated over the horizon."""
    if season > len(past):
        raise DataError(f"{len(past)} steps are known; the seasonal baseline needs {season}")
    return past[-season:].repeat(-(-horizon // season), *[1] * (past.dim() - 1))[:horizon]


def baselines(past: Tensor, horizon: int, season: int) -> dict[str, Tensor]:
    """Return what needs no model: the last value, and the last season if one is known."""
    found = {"last": past[-1:].expand(horizon, *past.shape[1:])}
    if 1 < season <= len(past):
        found["seasonal"] = seasonal(past, horizon, season)
    return found
