"""More names for what a stage stored: the keys under which a run as of a later time looks for it.

Serves promise 7. A stage is made with upper bounds in its keys where nothing was known of them; once it is read, the proofs tell which of them cut off nothing, and what
was made is linked to the keys that leave those out (`plans.idle` says when). Nothing is written twice: both names lead to the same bytes.

::

    a stage as it was made + proofs -> links in Partials
"""

from __future__ import annotations

from hindscan.data import Proof
from hindscan.history.snapshot import DrawSlice
from hindscan.plans.idle import is_idle, is_idle_whole
from hindscan.plans.keys import state_key
from hindscan.plans.plan import Chain, Plan, Stage
from hindscan.runs.partials import Partials
from hindscan.tasks.kept import KeptSlices

__all__ = ["Names"]


class Names:
    """Names of what is stored of one stage.

    Parameters
    ----------
    plan : Plan
        With the pins and proofs of the broadcast tables.
    partials : Partials
        Where it is stored.
    done : KeptSlices
        Slices that were made, with their proofs; those of others are in their partials.
    """

    def __init__(self, plan: Plan, partials: Partials, done: KeptSlices) -> None:
        self._plan = plan
        self._partials = partials
        self._done = done

    def without_bounds(self, stage: Stage) -> None:
        """Name the slices that were made now, of a stage whose slices stand side by side, without bounds that cut off nothing."""
        for done in self._done if stage.unbounded else ():
            if done.key in stage.unbounded and is_idle(stage.slices[done.position], done.proof):
                self._partials.link(done.key, stage.unbounded[done.key])

    def without_bounds_of_chain(self, stage: Stage, chain: Chain, *, made: Stage) -> None:
        """Name partials and checkpoints of a chain without bounds, up to the first that cut off something.

        Parameters
        ----------
        stage : Stage
            Whose keys are named; `made`, or the same with other bounds of tables.
        made : Stage
            As it was made.
        """
        idle = chain.first
        while idle < chain.last and not (stage.keys[idle] in stage.unbounded and self._cuts(made, idle)):
            idle += 1
        names = stage.without_idle_bounds(chain, idle)
        # From the back: a plan looks from the front for as many as there are, and finds what follows them then.
        for position in reversed(range(chain.first, chain.last)):
            key, state = stage.keys[position], chain.after(position)
            if key in names and self._partials.has(key):
                if self._partials.has(state):
                    self._partials.link(state, state_key(names[key]))
                self._partials.link(key, names[key])

    def without_bounds_of_tables(self, stage: Stage) -> None:
        """Name all that was made without the bounds of the broadcast tables, once these are seen to cut off nothing."""
        other = stage.alike
        if other is None or stage.tables_idle or not self._are_tables_idle():
            return
        for key, same in _pairs(stage, other).items():
            if key != same and self._partials.has(key):
                self._partials.link(key, same)
        for chain in other.chains:
            self.without_bounds_of_chain(other, chain, made=stage)
        for s in other.slices if not other.chains else ():
            key = other.keys[s.position]
            if key in other.unbounded and not self._cuts(stage, s.position):
                self._partials.link(key, other.unbounded[key])

    def _are_tables_idle(self) -> bool:
        """Tell whether the proofs of the broadcast tables show that their upper bounds cut off nothing."""
        pins = self._plan.snapshot.pins
        return all(
            is_idle_whole(pins[name], self._partials.find_proof(key)) for name, key in self._plan.table_proofs.items()
        )

    def _cuts(self, stage: Stage, position: int) -> bool:
        """Tell whether a slice's upper bound cuts off rows, or may."""
        s, key = stage.slices[position], stage.keys[position]
        if isinstance(s, DrawSlice) or s.before is None:
            return False
        return not self._partials.has(key) or not is_idle(s, self._proof(position, key))

    def _proof(self, position: int, key: str) -> Proof | None:
        """Give the proof of a slice that was made or reused."""
        done = self._done.get(position)
        return done.proof if done is not None else self._partials.read_meta(key).proof


def _pairs(stage: Stage, other: Stage) -> dict[str, str]:
    """Give by the keys of all that is stored of a stage those that it has in the same stage with other keys."""
    pairs = dict(zip((*stage.keys, stage.empty), (*other.keys, other.empty), strict=True))
    for one, same in zip(stage.chains, other.chains, strict=True):
        pairs |= dict(zip(one.states, same.states, strict=True))
        pairs |= {} if one.close is None or same.close is None else {one.close: same.close}
    nodes = [[node.key for level in each.levels for node in level] for each in (stage, other)]
    return {
        **pairs,
        **dict(zip(*nodes, strict=True)),
        **dict(zip(stage.roots, other.roots, strict=True)),
        **dict(zip(stage.results, other.results, strict=True)),
    }
