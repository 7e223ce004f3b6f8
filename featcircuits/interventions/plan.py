"""What is to be done to a task's prompts, checked before any run; and its runs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from featcircuits.evaluation.ablations import Ablation, prepared_ablation
from featcircuits.interventions.edited import Edited, edited
from featcircuits.interventions.how import Ablate
from featcircuits.interventions.intervention import Intervention, interventions_of
from featcircuits.interventions.moves import Given
from featcircuits.interventions.named import Named
from featcircuits.interventions.parts import Part, check_overlap, check_places, parts_of, with_sites
from featcircuits.interventions.sources import Prompts, check_sources, given_values
from featcircuits.interventions.where import Frame
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Plan:
    """Interventions on the prompts of a task. `spliced` has a dictionary at each site where something is done."""

    spliced: SplicedModel
    task: Task
    interventions: tuple[Intervention, ...]
    parts: tuple[Part, ...]
    named: Named
    ablations: Mapping[str, Ablation]

    @property
    def held(self) -> str:
        """What keeps its value of the unedited run."""
        return self.interventions[0].held

    def prompts(self, batch: Batch) -> Prompts:
        """The clean prompts of a batch."""
        return Prompts(batch.clean, Frame.of(batch.clean, [self.task.examples[n] for n in batch.index.tolist()]))

    def given(self, batch: Batch, parts: Sequence[Part]) -> Given:
        """The values from elsewhere for parts of the interventions, in a batch."""
        values = {name: one.values(self.spliced, self.task, batch) for name, one in self.ablations.items()}
        return given_values(self.spliced, parts, self.prompts(batch), self.named, batch.corrupted, values)

    @contextmanager
    def runs(self, batch: Batch) -> Iterator[Edited]:
        """A context for edited runs of a batch."""
        with edited(self.spliced, self.prompts(batch), self.held) as runs:
            yield runs


def planned(
    spliced: SplicedModel,
    task: Task,
    interventions: Iterable[Intervention | str] | Intervention | str,
    named: Named,
    batch_size: int,
    seed: int = 0,
) -> Plan:
    """The plan for interventions on a task.

    Raises `InputError`, before any run, for sites, features, groups, vectors, runs, places and values that do not
    exist, for a node that is changed twice at a token, and for an ablation that does not suit the task.
    """
    given = interventions_of(interventions)
    parts = parts_of(spliced, given, named)
    check_places(parts, task.examples)
    check_sources(parts, named, task.examples)
    for batch in task.batches(batch_size):
        check_overlap(parts, Frame.of(batch.clean, [task.examples[n] for n in batch.index.tolist()]))
    spliced = with_sites(spliced, parts)
    wanted = dict.fromkeys(part.how.to for part in parts if isinstance(part.how, Ablate))
    ablations = {name: prepared_ablation(name, spliced, task, batch_size, seed) for name in wanted}
    return Plan(spliced, task, given, tuple(parts), named, ablations)
