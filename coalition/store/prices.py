"""Prices as somebody said them, and machines that people ask for by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select

from coalition.errors import BadInput, NotFound, nearest
from coalition.model import Price
from coalition.offerings import wrong_offering
from coalition.schema import launch_wish, price
from coalition.store.base import reads, writes
from coalition.store.cloud import Cloud

PRICES = "prices"  # the counter that moves when they do
KEY = ("provider", "region", "zone", "type", "market", "source")


@dataclass(frozen=True)
class Wish:
    """Instances that somebody asked for; `offering` names an offer or a type, and nothing means the pool's best."""

    id: int
    pool: str
    offering: str
    count: int
    who: str


class Prices(Cloud):
    """The part of the store that knows prices."""

    @writes
    def put_prices(self, db: Connection, prices: Sequence[Price], who: str = "") -> int:
        """Stores prices; each takes the place of what the same source said before of the same thing. How many there are."""
        rows = {tuple(getattr(one, name) for name in KEY): asdict(one) for one in prices}
        if not rows:
            return 0
        here = and_(*[price.c[name] == bindparam(f"b_{name}") for name in KEY])
        db.execute(delete(price).where(here), [{f"b_{name}": row[name] for name in KEY} for row in rows.values()])
        db.execute(insert(price), list(rows.values()))
        if who:
            sources = ", ".join(sorted({one.source for one in prices}))
            self._event(db, "prices.import", who, f"{len(rows)} prices, source {sources}")
        self._bump(db, PRICES)
        return len(rows)

    @reads
    def prices(self, db: Connection, provider: str = "", region: str = "", type: str = "") -> list[Price]:
        """All prices that are known, old ones too."""
        query = select(*[price.c[name] for name in Price.__dataclass_fields__])
        for column, wanted in ((price.c.provider, provider), (price.c.region, region), (price.c.type, type)):
            query = query.where(column == wanted) if wanted else query
        return [Price(*row) for row in db.execute(query.order_by(*[price.c[name] for name in KEY]))]

    @writes
    def ask_launch(self, db: Connection, pool: str, count: int, offering: str, who: str) -> int:
        """Asks the autoscaler for instances by hand; it starts them with its next tick, as far as pool and budgets allow.

        BadInput for what the pool can never have, as far as cloud.ini tells.
        """
        known = {one.name: one for one in self.settings.pools}
        if pool not in known:
            raise NotFound(f"there is no pool {pool}", fields={"pool": f"no pool {pool}; {nearest(pool, known)}"})
        if count > known[pool].max:
            raise BadInput(fields={"count": f"{count} is more than `max` of pool {pool}, which is {known[pool].max}"})
        if wrong := wrong_offering(known[pool], offering):
            raise BadInput(fields={"offering": wrong})
        row = {"pool": pool, "offering": offering, "count": count, "who": who, "created_at": self.clock()}
        db.execute(insert(launch_wish).values(row))
        what = f"{count} of {offering}" if offering else str(count)
        self._event(db, "pool.ask_launch", who, f"{what} in pool {pool}, by hand")
        self._bump(db, "backlog")
        return count

    @reads
    def launch_wishes(self, db: Connection) -> list[Wish]:
        """What was asked for by hand and not carried out."""
        return [Wish(*row) for row in db.execute(select(*_columns(Wish)).order_by(launch_wish.c.id))]

    @writes
    def forget_wishes(self, db: Connection, ids: Sequence[int], fence: int) -> None:
        """What is about to be carried out, so that no crash has it done twice."""
        self._check_fence(db, fence)
        db.execute(delete(launch_wish).where(launch_wish.c.id.in_(list(ids))))


def _columns(kind: Any) -> list[Any]:
    return [launch_wish.c[name] for name in kind.__dataclass_fields__]
