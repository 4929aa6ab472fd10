"""What makes upstream's pipeline faster: put in place, and compared with it where it promises the same results."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from stream_worker.models.sam3d.backbones import Backbone, Latents, Structure, Unsuitable
from stream_worker.models.sam3d.options import Options
from stream_worker.models.sam3d.steps import StepCache

TOLERANCE = 0.02
"""Most that a pass may deviate from upstream's, as a share of its root mean square. Half precision gives some 0.002."""


class Speedups:
    """The options `exact_savings`, `cuda_graphs` and `step_cache`, applied to a pipeline.

    A stage that is not built as this release knows it runs as upstream wrote it; `active` and the log say so.
    """

    def __init__(self, pipeline: Any, options: Options) -> None:
        self._stages: dict[str, Backbone] = {}
        self._graphs = options.exact_savings and options.cuda_graphs and torch.cuda.is_available()
        if options.exact_savings:
            self._put("stage 1", lambda: _structure(pipeline, graphs=self._graphs))
            self._put("stage 2", lambda: Latents(pipeline.models["slat_generator"].reverse_fn.backbone))
        if options.step_cache:
            for name in ("ss_generator", "slat_generator"):
                StepCache(pipeline.models[name], options.step_cache)

    @property
    def active(self) -> bool:
        """Whether both stages run with the exact savings."""
        return len(self._stages) == 2

    @property
    def graphs(self) -> bool:
        """Whether stage 1 runs as CUDA graphs."""
        return self._graphs and "stage 1" in self._stages

    def check(self, run: Callable[[], None]) -> None:
        """Run an object with every pass computed both ways; a stage that deviates goes back to upstream's.

        A failure of any kind takes both back: whether upstream's own arithmetic works, the next object shows.
        """
        if not self._stages:
            return
        for stage in self._stages.values():
            stage.compare = True
        try:
            run()
        except Exception as error:  # noqa: BLE001  (a graph that can't be recorded, say: the model works without)
            traceback.print_exception(error, file=sys.stderr)
            print(f"no exact savings: {type(error).__name__}: {error}", file=sys.stderr)
            self._give_up(list(self._stages))
            return
        for name, stage in list(self._stages.items()):
            stage.compare = False
            if stage.deviation is None:
                print(f"{name}: exact savings were not compared with upstream", file=sys.stderr)
                continue
            print(f"{name}: exact savings deviate by {stage.deviation:.1e} from upstream", file=sys.stderr)
            if stage.deviation > TOLERANCE:
                self._give_up([name])

    def _put(self, name: str, put: Callable[[], Backbone]) -> None:
        try:
            self._stages[name] = put()
        except (Unsuitable, AttributeError) as error:
            print(f"{name}: no exact savings: {error}", file=sys.stderr)

    def _give_up(self, names: list[str]) -> None:
        for name in names:
            stage = self._stages.pop(name)
            stage.compare = False
            stage.give_up()


def _structure(pipeline: Any, *, graphs: bool) -> Structure:
    guided = pipeline.models["ss_generator"].reverse_fn
    return Structure(guided.backbone, graphs=graphs, guided=guided)
