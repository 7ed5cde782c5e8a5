"""A forecaster with sktime's interface: backtested beside sktime's own, with intervals; one series or several."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.performance_metrics.forecasting import MeanAbsoluteError
from sktime.split import SlidingWindowSplitter

from everloop.data import Series, SeriesConfig
from everloop.models import Forecaster, ForecasterConfig, forecast_frame
from everloop.train import train


class EverloopForecaster(BaseForecaster):  # type: ignore[misc, unused-ignore]
    """Learns to forecast all steps up to the last one of `fh` from the `context` steps before."""

    _tags: ClassVar[dict[str, Any]] = {
        "y_inner_mtype": "pd.DataFrame",
        "capability:multivariate": True,
        "capability:exogenous": False,
        "capability:insample": False,
        "capability:missing_values": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "requires-fh-in-fit": True,
        "python_dependencies": "everloop",
    }

    def __init__(
        self, context: int = 24, cell: str = "lstm", hidden: int = 32, steps: int = 200, lr: float = 1e-2, seed: int = 0
    ) -> None:
        self.context, self.cell, self.hidden, self.steps, self.lr, self.seed = context, cell, hidden, steps, lr, seed
        super().__init__()
        self.set_config(remember_data=True)  # `update` adds to what a forecast follows

    def _fit(self, y: Any, X: Any, fh: Any) -> EverloopForecaster:
        names = tuple(f"series {i}" for i in range(y.shape[1]))
        self.config_ = SeriesConfig(series=names, split=(1.0, 0.0, 0.0))
        horizon = int(max(fh.to_relative(self.cutoff)))
        data = Series.from_frame(self._columns(y), self.config_, context=self.context, horizon=horizon)
        settings = ForecasterConfig(cell=self.cell, hidden=self.hidden, output="gaussian")
        self.model_ = Forecaster.of(data, settings)
        train(self.model_, data, steps=self.steps, batch=32, lr=self.lr, seed=self.seed)
        return self

    def _columns(self, y: Any) -> dict[str, Any]:
        return {name: y.iloc[:, i].to_numpy(float) for i, name in enumerate(self.config_.series)}

    def _ahead(self, fh: Any, ending: str) -> Any:
        """Return means or deviations of the steps of `fh`, which follow the last one seen."""
        found = forecast_frame(self.model_, self._columns(self._y), self.config_)
        steps = np.asarray(fh.to_relative(self.cutoff), dtype=int) - 1
        return np.stack([np.asarray(found[f"{name}{ending}"])[steps] for name in self.config_.series], 1)

    def _predict(self, fh: Any, X: Any) -> Any:
        return pd.DataFrame(self._ahead(fh, ""), fh.to_absolute_index(self.cutoff), self._y.columns)

    def _predict_quantiles(self, fh: Any, X: Any, alpha: Any) -> Any:
        mean, deviation = self._ahead(fh, ""), self._ahead(fh, "_deviation")
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        levels = [NormalDist().inv_cdf(level) for level in alpha]
        values = mean[:, :, None] + deviation[:, :, None] * np.array(levels)
        return pd.DataFrame(values.reshape(len(values), -1), fh.to_absolute_index(self.cutoff), columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        """Return small settings, for sktime's own checks."""
        return {"context": 3, "hidden": 4, "steps": 2}


def main(steps: int = 200, hidden: int = 16) -> None:
    """Forecast a year of a noisy season, beside the season before."""
    time = np.arange(240)
    values = 10 + 3 * np.sin(2 * np.pi * time / 12) + time / 80 + np.random.default_rng(1).normal(0, 0.3, len(time))
    y = pd.Series(values, pd.period_range("2004-01", periods=len(time), freq="M"))
    fh = ForecastingHorizon(range(1, 13))
    ours = EverloopForecaster(context=24, hidden=hidden, steps=steps)
    folds = SlidingWindowSplitter(fh=fh, window_length=200, step_length=14)
    for name, forecaster in {"everloop": ours, "last season": NaiveForecaster("last", sp=12)}.items():
        found = evaluate(forecaster, cv=folds, y=y, scoring=MeanAbsoluteError())
        print(f"{name}: mean absolute error {found['test_MeanAbsoluteError'].mean():.3f} on {len(found)} folds")
    interval = ours.fit(y, fh=fh).predict_interval(coverage=0.8)
    print(f"the last month of the next year, 80 %: {interval.iloc[-1].round(1).tolist()}")
    print(f"finished {steps} steps")


if __name__ == "__main__":
    main()
