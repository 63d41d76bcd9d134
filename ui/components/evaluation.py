"""What a training's SAEs are worth on held-out text."""

from __future__ import annotations

from .component import Component, script, style


class EvaluationView(Component):
    """The newest evaluation of every SAE: verdict, reasons, figures with their course, density of the latents.

    Action: `retry`.
    """

    _esm = script("evaluation.js")
    _stylesheets = style("evaluation.css")
