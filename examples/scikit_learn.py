"""A sequence classifier with scikit-learn's interface: in a pipeline, cross-validated, with a grid of settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from everloop.data import Examples, ExamplesConfig
from everloop.models import Classifier
from everloop.train import train


class SequenceClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Learns a label for each sequence: texts, or numbers [N, T, F], or a list of arrays [T, F] of any lengths."""

    def __init__(self, cell: str = "gru", hidden: int = 32, steps: int = 200, lr: float = 1e-2, seed: int = 0) -> None:
        self.cell, self.hidden, self.steps, self.lr, self.seed = cell, hidden, steps, lr, seed

    def fit(self, X: Any, y: Any) -> SequenceClassifier:
        """Learn from sequences and their labels."""
        names, numbers = np.unique(y, return_inverse=True)
        data = Examples.of((X, numbers), config=ExamplesConfig(hold_out=(0.0, 0.0)))
        self.model_ = Classifier(data.tokenizer or data.features, data.labels, self.cell, hidden=self.hidden, layers=1)
        self.classes_ = names[[int(label) for label in data.labels.symbols]]  # in the order of the model's scores
        train(self.model_, data, steps=self.steps, batch=32, lr=self.lr, seed=self.seed)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each label [N, K], in the order of `classes_`."""
        return self.model_.classify([x if isinstance(x, str) else torch.as_tensor(x, dtype=torch.float32) for x in X])

    def predict(self, X: Any) -> Any:
        """Return the most likely labels [N]."""
        return self.classes_[self.predict_proba(X).argmax(-1)]


def main(steps: int = 200, hidden: int = 16) -> None:
    """Tell rising from falling waves."""
    random = np.random.default_rng(1)
    y = random.integers(0, 2, 120)
    phase, time = random.uniform(0, 6, (120, 1)), np.linspace(0, 1, 30)
    trend = np.where(y == 1, 1.0, -1.0)[:, None]
    X = (np.sin(phase + 9 * time) + trend * time + random.normal(0, 0.2, (120, 30)))[..., None]
    labels = np.where(y == 1, "rising", "falling")

    classifier = SequenceClassifier(hidden=hidden, steps=steps)
    pipeline = make_pipeline(FunctionTransformer(lambda x: x / 2), classifier)
    scores = cross_val_score(pipeline, X, labels, cv=3)
    print(f"accuracy of three folds: {', '.join(f'{s:.2f}' for s in scores)}")
    search = GridSearchCV(classifier, {"cell": ["gru", "lstm"]}, cv=2).fit(X, labels)
    print(f"the better cell: {search.best_params_['cell']}, {search.best_score_:.2f}")
    print(f"finished {steps} steps")


if __name__ == "__main__":
    main()
