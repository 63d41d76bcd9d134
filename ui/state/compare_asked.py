"""What the address of compared runs asks for."""

from __future__ import annotations

import msgspec

from ..charts.smoothing import SPANS
from ..steps import AXES
from .comparison import MEAN, MOST, key_of

_OWN = "~"
"""Between the id of a run and the number of the SAE that a slot shows of it."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the page's address asks for.

    `slots` are the ids of the runs, each followed by `~` and a number where it shows that SAE and not what `sae` says:
    a run may be in several slots, as SAEs of its own. A slot keeps its colour when another one is taken away: an empty
    one holds nothing. `sae` is the label of the SAE to be shown of every run, or `MEAN`. `smoothing` is in steps, one
    of `SPANS`; `selected` are the keys of the lines that stand out.
    """

    slots: tuple[str, ...] = ()
    axis: str = "step"
    log: bool = False
    sae: str = MEAN
    every_field: bool = False
    smoothing: int = 0
    selected: tuple[str, ...] = ()

    @classmethod
    def of(cls, route: dict[str, str]) -> Asked:
        """What an address says; whatever cannot be asked for is left at its default."""
        slots: list[str] = []
        for said in route.get("ids", "").split(","):
            slot = _slot(said.strip())
            slots.append("" if slot in slots else slot)
        axis = route.get("axis", "")
        return cls(
            slots=_trimmed(slots[:MOST]),
            axis=axis if axis in AXES else "step",
            log=route.get("log") == "1",
            sae=route.get("sae", MEAN),
            every_field=route.get("fields") == "all",
            smoothing=next((span for span in SPANS if str(span) == route.get("smooth")), 0),
            selected=tuple(key for key in route.get("sel", "").split(",") if key),
        )

    def route(self) -> dict[str, str]:
        """The address that asks for this."""
        return {
            "page": "compare",
            "ids": ",".join(self.slots),
            "axis": "" if self.axis == "step" else self.axis,
            "log": "1" if self.log else "",
            "sae": self.sae,
            "fields": "all" if self.every_field else "",
            "smooth": str(self.smoothing) if self.smoothing else "",
            "sel": ",".join(self.selected),
        }

    @property
    def ids(self) -> dict[int, str]:
        """The runs by their slot."""
        return {slot: said.partition(_OWN)[0] for slot, said in enumerate(self.slots) if said}

    @property
    def own(self) -> dict[int, int]:
        """The SAEs of the slots that show one of their own."""
        return {slot: int(said.partition(_OWN)[2]) for slot, said in enumerate(self.slots) if _OWN in said}

    def with_run(self, id: str) -> Asked:
        """The same with one run more, in the first slot that is free."""
        if id in self.ids.values() or len(self.ids) >= MOST:
            return self
        slots = list(self.slots)
        if "" in slots:
            slots[slots.index("")] = id
        else:
            slots.append(id)
        return msgspec.structs.replace(self, slots=tuple(slots))

    def without(self, key: str) -> Asked:
        """The same without the line of this key."""
        selected = tuple(one for one in self.selected if one != key)
        slots = _trimmed(["" if key_of(slot) == key else said for slot, said in enumerate(self.slots)])
        return msgspec.structs.replace(self, slots=slots, selected=selected)

    def showing(self, key: str, sae: int | None) -> Asked:
        """The same, with the line of this key showing an SAE of its own, or (None) what is shown of every run."""
        slots = list(self.slots)
        for slot, id in self.ids.items():
            if key_of(slot) == key:
                slots[slot] = id if sae is None else f"{id}{_OWN}{sae}"
        return (
            self if len(set(filter(None, slots))) < len(self.ids) else msgspec.structs.replace(self, slots=tuple(slots))
        )

    def each(self, key: str, saes: int) -> Asked:
        """The same, with every one of a run's SAEs as a line of its own, as far as there is room."""
        slot = next((slot for slot in self.ids if key_of(slot) == key), None)
        if slot is None:
            return self
        slots, id = list(self.slots), self.ids[slot]
        missing = [said for said in (f"{id}{_OWN}{sae}" for sae in range(saes)) if said not in slots]
        if missing and slots[slot] == id:
            slots[slot] = missing.pop(0)
        for said in missing[: MOST - len(self.ids)]:
            slots = [*slots, ""] if "" not in slots else slots
            slots[slots.index("")] = said
        return msgspec.structs.replace(self, slots=tuple(slots))


def _slot(said: str) -> str:
    """A slot as an address says it; what does not name an SAE shows what is shown of every run."""
    id, _, sae = said.partition(_OWN)
    return f"{id}{_OWN}{int(sae)}" if id and sae.isascii() and sae.isdigit() and len(sae) < 6 else id


def _trimmed(slots: list[str]) -> tuple[str, ...]:
    while slots and not slots[-1]:
        slots.pop()
    return tuple(slots)
