"""The kinds of models on the command line, each with the module that reads its data, trains it and asks it."""

from __future__ import annotations

# each has KIND, Options and main; those that answer also predict, given, own and TAKES, and some decoded and DEFAULT
MODULES = {
    "language-model": "everloop.cli.language_model",
    "tagger": "everloop.cli.tagger",
    "classifier": "everloop.cli.classifier",
    "forecaster": "everloop.cli.forecaster",
    "translator": "everloop.cli.translator",
    "transcriber": "everloop.cli.transcriber",
    "generator": "everloop.cli.generator",
}
