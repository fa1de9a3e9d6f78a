"""Steps of minibatches whose cells lie on a card: prepared for a whole epoch, recorded once, replayed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np
import torch

from nmfbench.models.autoencoder.adam import BETA1, BETA2
from nmfbench.models.autoencoder.minibatch import BatchObjective
from nmfbench.rows.batches import Batch, CardBatch
from nmfbench.rows.card import ROOM, CardRows
from nmfbench.rows.dense import DenseRows, Densifier, products_in

log = logging.getLogger(__name__)


class CardSteps:
    """The steps of an epoch, with nothing sent or read in between.

    All that changes from one step to the next (which cells, how the gradient is scaled, the learning rates of
    Adam's step so far) is written into tables on the card before the epoch; a step reads the line that a
    counter on the card points to. On CUDA it is recorded as a graph and replayed.

    Parameters
    ----------
    objective : BatchObjective
        Its cells are taken from `rows` from now on.
    rows : CardRows
    batch_size : int
        Cells of a batch at most.
    by_condition : bool
        Whether every batch has cells of one condition.
    precision : {"float32", "tf32"}
        Of products of the steps; the objective is always computed in full.
    record : bool, optional
        Whether steps are recorded; by default on CUDA.
    """

    def __init__(
        self,
        objective: BatchObjective,
        rows: CardRows,
        batch_size: int,
        *,
        by_condition: bool = False,
        precision: str = "float32",
        record: bool | None = None,
    ) -> None:
        self.objective, self.rows, self.device = objective, rows, objective.W.device
        self.by_condition, self.precision = by_condition, precision
        self.recorded = self.device.type == "cuda" if record is None else record
        self.layout = objective.layout(batch_size, by_condition)
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._tables: dict[str, torch.Tensor] = {}
        self._densifier: Densifier | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded_phase = -1
        objective.put_on(rows, self.layout)

    draws_ahead = True

    def begin(self, batches: Sequence[Batch], rates: list[float], first: int, epoch: int) -> None:
        self._epoch = epoch
        self._batches = [self.layout.arranged(batch) for batch in batches]
        of_cells = [batch.rows for batch in self._batches]
        at = [self.layout.places(batch) for batch in self._batches]
        sources = self.rows.begin(of_cells, first)
        self._write("cells", self._laid_out(of_cells, at, self.objective.n_rows))
        self._write("sources", self._laid_out(sources, at, self.rows.nonzeros.empty_row))
        donors = [self.layout.donors(batch) for batch in self._batches]
        if donors[0] is not None:
            self._write("donors", np.stack(donors))
        self._write("numbers", self._numbers(rates, first))
        if self.by_condition:
            self._write("condition", np.array([batch.condition for batch in self._batches]))
        self._fit_buffer(self.rows.longest(of_cells))
        self._at.fill_(first)

    def step(self, number: int) -> None:
        self.reach(number)
        if self.recorded:
            phase = self.objective.phase(self._epoch)
            with torch.cuda.device(self.device):
                if self._graph is None or phase != self._recorded_phase:
                    self._record()
                    self._recorded_phase = phase
        if self.recorded:
            with torch.cuda.device(self.device):
                self._graph.replay()
        else:
            with products_in(self.precision):
                self._step()
        for adam, part in self._adams(self._batches[number]):
            adam.steps[part] += 1

    def reach(self, number: int) -> None:
        """Have the cells of a batch in place; batches come in order."""
        self.rows.reach(number)

    # ------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One step, of the line that the counter points to; it then points to the next."""
        objective = self.objective
        X, batch, numbers = self.present()
        for g in objective.gradients(X, batch, self._epoch):
            column = 2 + 2 * list(objective.adams).index(g.name)
            objective.adams[g.name].step_by(g, numbers[column], numbers[column + 1])
        objective.finish_step()
        self._at += 1

    def present(self) -> tuple[DenseRows, CardBatch, torch.Tensor]:
        """The cells, the batch and the numbers of the line that the counter points to."""
        line = {name: table.index_select(0, self._at) for name, table in self._tables.items()}
        numbers = line["numbers"][0]
        donors = line["donors"][0] if "donors" in line else None
        batch = CardBatch(line["cells"][0], numbers[0], line.get("condition"), numbers[1], donors)
        return DenseRows(self._densifier.fill(line["sources"][0])), batch, numbers

    def _record(self) -> None:
        """Record a step, after two that count for nothing: libraries set themselves up in the first."""
        self.rows.settle()
        changed = [*self.objective.changing(), self._at]
        kept = [tensor.clone() for tensor in changed]
        here, beside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        with products_in(self.precision):
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                for _ in range(2):
                    self._step()
                    self._at.copy_(kept[-1])
            here.wait_stream(beside)
            for tensor, before in zip(changed, kept, strict=True):
                tensor.copy_(before)
            self._graph = torch.cuda.CUDAGraph()
            try:
                # other threads may go on: the one that reads ahead allocates pinned memory
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._step()
            except RuntimeError as error:  # the same steps, one call at a time: slower, not another fit
                self._graph, self.recorded = None, False
                log.warning("a step could not be recorded (%s): steps are taken call by call", error)

    def _adams(self, batch: Batch) -> Iterator[tuple[object, int | slice]]:
        """What Adam counts a step of for a batch, and of which part."""
        for adam in self.objective.adams.values():
            one = adam.stacked and batch.condition is not None
            yield adam, batch.condition if one else slice(None)

    def _numbers(self, rates: list[float], first: int) -> np.ndarray:
        """A line for each batch: scale, share of the condition, and rate and root of each Adam."""
        adams = self.objective.adams
        table = np.zeros((len(self._batches), 2 + 2 * len(adams)))
        counts = {name: adam.steps.copy() for name, adam in adams.items()}
        for i, batch in enumerate(self._batches):
            table[i, :2] = batch.scale, batch.condition_share
            if i < first:
                continue
            for j, (name, (_, part)) in enumerate(zip(adams, self._adams(batch), strict=True)):
                counts[name][part] += 1
                count = int(np.max(counts[name][part]))
                rate = rates[i] * self.objective.rates[name] / (1 - BETA1**count)
                table[i, 2 + 2 * j : 4 + 2 * j] = rate, sqrt(1 - BETA2**count)
        return table.astype(str(self.objective.W.dtype).removeprefix("torch."))

    def _laid_out(self, rows: Sequence[np.ndarray], at: Sequence[np.ndarray], filler: int) -> np.ndarray:
        """A line for each batch: its numbers at their places, and a filler in the others."""
        table = np.full((len(rows), self.layout.n_places), filler, np.int64)
        for line, of_batch, places in zip(table, rows, at, strict=True):
            line[places[: len(of_batch)]] = of_batch  # none of a batch that was done before
        return table

    def _write(self, name: str, values: np.ndarray) -> None:
        """Into the table's own memory, which a recorded step reads; made anew where it is too small."""
        values = torch.from_numpy(values)
        held = self._tables.get(name)
        if held is None or len(held) < len(values):
            self._tables[name] = held = torch.zeros(
                (int(ROOM * len(values)) + 1, *values.shape[1:]), dtype=values.dtype, device=self.device
            )
            self._graph = None
        held[: len(values)].copy_(values)

    def _fit_buffer(self, longest: int) -> None:
        held = self._densifier
        if held is None or held.capacity < longest or held.nonzeros is not self.rows.nonzeros:
            self._densifier = Densifier(
                self.rows.nonzeros, self.layout.n_places, self.objective.W.shape[0], int(ROOM * longest) + 1
            )
            self._graph = None
