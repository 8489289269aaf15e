"""Make a model that fails smaller while it still fails in the same way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from blockfuse.frontend import shrink

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBERS = re.compile(r"[0-9]+(x[0-9]+)*")


@dataclass(frozen=True)
class Failure:
    """How a model fails.

    Attributes:
        kind: Class of the error; ``crash`` for an end of the process, ``hang`` for no end.
        text: The message.
        place: Where an error came from that is none of blockfuse's own.
    """

    kind: str
    text: str
    place: str = ""

    @property
    def reasons(self) -> frozenset[str]:
        """The complaints in the message, without names and numbers."""
        if self.place or self.kind in {"crash", "hang", "VerificationError"}:
            return frozenset({self.place or self.kind})
        clauses = _NUMBERS.sub("#", _QUOTED.sub("..", self.text)).split("; ")
        return frozenset(clause.rpartition(": ")[2].strip() for clause in clauses)

    def is_like(self, other: Failure) -> bool:
        """Whether this is the same failure, or a part of it where the other one has several complaints."""
        return self.kind == other.kind and self.reasons <= other.reasons

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


ModelProto: TypeAlias = Any
"""An ``onnx.ModelProto``; what is done to it is in :mod:`blockfuse.frontend.shrink`."""

Trial: TypeAlias = Callable[[ModelProto], Failure | None]
"""Tells how a model fails; None if it does not."""


@dataclass(frozen=True)
class Reduced:
    """A smaller model.

    Attributes:
        model: The model.
        failure: How it fails.
        nodes: Number of nodes before and now.
        trials: Models that were tried.
        is_complete: Whether no smaller one was found, as opposed to looked for.
    """

    model: ModelProto
    failure: Failure
    nodes: tuple[int, int]
    trials: int
    is_complete: bool

    def to_dict(self) -> dict[str, Any]:
        """All but the model as JSON holds it."""
        return {
            "failure": {"kind": self.failure.kind, "text": self.failure.text},
            "nodes": {"before": self.nodes[0], "after": self.nodes[1]},
            "trials": self.trials,
            "complete": self.is_complete,
        }

    def __str__(self) -> str:
        end = "" if self.is_complete else "; the time was up before all was tried"
        return (
            f"{self.nodes[1]} of {self.nodes[0]} nodes fail alike, found in {self.trials} trials{end}\n{self.failure}"
        )


def reduce(model: ModelProto, trial: Trial, seconds: float = 300.0) -> Reduced | None:
    """Make a failing model smaller.

    Args:
        model: The model.
        trial: Tells how a model fails.
        seconds: After so long no further model is tried.

    Returns:
        The smallest model found; None if the given one does not fail.
    """
    started = time.monotonic()
    failure = trial(model)
    if failure is None:
        return None
    search = _Search(trial, failure, started + seconds)
    complete = True
    try:
        search.run(model)
    except TimeoutError:
        complete = False
    smallest = search.smallest or model
    counts = (shrink.node_count(model), shrink.node_count(smallest))
    return Reduced(smallest, search.last, counts, search.trials, complete)


class _Search:
    """Tries models until the time is up.

    Attributes:
        last: How the smallest model so far fails.
        smallest: That model, once there is one.
        trials: Models tried.
    """

    def __init__(self, trial: Trial, failure: Failure, deadline: float) -> None:
        self.trial = trial
        self.failure = self.last = failure
        self.deadline = deadline
        self.smallest: ModelProto | None = None
        self.trials = 1

    def fails_alike(self, model: ModelProto) -> bool:
        if time.monotonic() > self.deadline:
            raise TimeoutError
        self.trials += 1
        found = self.trial(model)
        if found is None or not found.is_like(self.failure):
            return False
        self.last, self.smallest = found, model
        return True

    def run(self, model: ModelProto) -> None:
        """All kinds of steps, over again until none helps."""
        steps = (self._inlined, self._one_output, self._fewer_nodes, self._smaller_inputs, self._other_weights)
        size = -1
        while size != model.ByteSize():
            size = model.ByteSize()
            for step in steps:
                model = step(model)

    def _inlined(self, model: ModelProto) -> ModelProto:
        candidate = shrink.inlined(model)
        return candidate if candidate is not model and self.fails_alike(candidate) else model

    def _one_output(self, model: ModelProto) -> ModelProto:
        for index in range(shrink.output_count(model) if shrink.output_count(model) > 1 else 0):
            candidate = shrink.with_output(model, index)
            if self.fails_alike(candidate):
                return candidate
        return model

    def _fewer_nodes(self, model: ModelProto) -> ModelProto:
        """Take away ranges of nodes, long ones first."""
        count = shrink.node_count(model) // 2
        while count:
            start = 0
            types = shrink.types_of(model)
            while start < shrink.node_count(model):
                found = next(filter(self.fails_alike, shrink.without_nodes(model, start, count, types)), None)
                if found is None:
                    start += count
                else:
                    model, types = found, shrink.types_of(found)
            count //= 2
        return model

    def _smaller_inputs(self, model: ModelProto) -> ModelProto:
        for change in (shrink.with_one_image, shrink.with_smaller_images):
            candidate = change(model)
            while candidate != model and self.fails_alike(candidate):
                model, candidate = candidate, change(candidate)
        return model

    def _other_weights(self, model: ModelProto) -> ModelProto:
        candidate = shrink.with_seeded_weights(model)
        return candidate if candidate != model and self.fails_alike(candidate) else model
