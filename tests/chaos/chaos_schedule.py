# SPDX-License-Identifier: Apache-2.0
"""What will happen, fixed by a seed before anything does: rounds, each an application and the faults that it meets.

How often each kind of fault comes is not left to chance: a run of so many faults has so many of each (its *floor*),
in an order, and with victims, that the seed gives. Which stream thread of which instance is hit follows from the
schedule alone, since it also says how many instances there are at any time.
"""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

INSTANCES_MAX: Final = 3
BROKERS: Final = 3
SESSION_TIMEOUT_S: Final = 6.0
SHAPES: Final = ("chain", "branch", "fanout")
PROTOCOLS: Final = ("classic", "consumer")


class Kind(enum.Enum):
    THREAD_KILL = "kill -9 of a stream thread"
    THREAD_STOP = "a stream thread stopped for a moment"
    THREAD_STOP_LONG = "a stream thread stopped for longer than its transaction may last"
    SUPERVISOR_KILL = "kill -9 of a supervisor"
    INSTANCE_KILL = "kill -9 of a supervisor with its stream threads"
    INSTANCE_STOP = "an instance stopped for longer than its session"
    BROKER_KILL = "kill -9 of a broker, and its restart"
    BROKER_STOP = "a broker stopped for seconds"
    JOIN = "an instance more"
    LEAVE = "an instance less"
    RECREATE = "an input topic deleted and created again while the application is down"


MEMBERS: Final = "members"
"""JOIN or LEAVE, as there is room."""

FULL: Final[Mapping[Kind | str, int]] = {
    Kind.THREAD_KILL: 8,
    Kind.THREAD_STOP: 3,
    Kind.THREAD_STOP_LONG: 2,
    Kind.SUPERVISOR_KILL: 2,
    Kind.INSTANCE_KILL: 2,
    Kind.INSTANCE_STOP: 2,
    Kind.BROKER_KILL: 2,
    Kind.BROKER_STOP: 1,
    MEMBERS: 5,
    Kind.RECREATE: 1,
}
"""Shares of a long run."""

SHORT: Final[Mapping[Kind | str, int]] = {
    Kind.THREAD_KILL: 6,
    Kind.THREAD_STOP: 2,
    Kind.THREAD_STOP_LONG: 1,
    Kind.SUPERVISOR_KILL: 1,
    Kind.INSTANCE_KILL: 1,
    Kind.INSTANCE_STOP: 1,
    Kind.BROKER_KILL: 1,
    MEMBERS: 3,
}
"""Those of CI, which has less than two minutes."""


@dataclass(frozen=True)
class Fault:
    """One thing that happens. `instance`, `thread`, `topic` and `broker` are numbers of what there is then."""

    kind: Kind
    instance: int
    thread: int
    topic: int
    broker: int
    seconds: float
    """How long something is stopped, or a broker is away."""
    same_identity: bool
    """Whether what starts after a kill has the state directory of what was killed, and so its transactional ids."""
    at_work: bool
    """Whether it waits until the instance runs all of its tasks, or may meet it in the middle of a rebalance."""
    outputs: int
    """Committed outputs to see after it before the next fault."""
    meanwhile: Fault | None = None
    """What happens while a broker is away, once there were outputs without it."""

    def __str__(self) -> str:
        match self.kind:
            case Kind.THREAD_KILL:
                return f"{self.kind.value} ({self.instance}.{self.thread})"
            case Kind.THREAD_STOP | Kind.THREAD_STOP_LONG:
                return f"{self.kind.value} ({self.instance}.{self.thread}, {self.seconds:.1f} s)"
            case Kind.SUPERVISOR_KILL | Kind.INSTANCE_KILL:
                return (
                    f"{self.kind.value} ({self.instance}, {'same' if self.same_identity else 'new'} identity)"
                )
            case Kind.INSTANCE_STOP:
                return f"{self.kind.value} ({self.instance}, {self.seconds:.1f} s)"
            case Kind.BROKER_KILL | Kind.BROKER_STOP:
                meanwhile = f", meanwhile {self.meanwhile}" if self.meanwhile is not None else ""
                return f"{self.kind.value} ({self.broker}, {self.seconds:.1f} s){meanwhile}"
            case Kind.LEAVE:
                return f"{self.kind.value} ({self.instance})"
            case Kind.RECREATE:
                return f"{self.kind.value} ({self.topic})"
            case _:
                return self.kind.value


@dataclass(frozen=True)
class Round:
    """One application, from its first start to its last end."""

    number: int
    shapes: tuple[str, ...]
    protocol: str
    commit_mode: str
    threads: int
    instances: int
    """At its start."""
    transaction_timeout_ms: int
    static: bool
    """Whether members have a group.instance.id, so that a quick restart moves nothing. Under the `consumer` protocol
    brokers refuse the successor of a member that died until its session has ended."""
    seed: int
    """Of the load."""
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return (
            f"round {self.number}: {'+'.join(self.shapes)}, {self.protocol} protocol, {self.commit_mode}"
            f"{', static members' if self.static else ''}, {self.instances} instance(s) of "
            f"{self.threads} stream threads, transaction timeout {self.transaction_timeout_ms} ms"
        )


def schedule(
    seed: int,
    fault_count: int,
    *,
    shares: Mapping[Kind | str, int] = FULL,
    round_faults: int = 15,
    shapes: Sequence[tuple[str, ...]] = (("chain",), ("branch",), ("fanout",), SHAPES),
    transaction_timeouts_ms: Sequence[int] = (10_000, 10_000, 3_000),
    protocols: Sequence[str] = PROTOCOLS,
    commit_mode: str = "drain_free",
) -> list[Round]:
    """The rounds of a run of `fault_count` faults or a few more, `round_faults` each; `protocols` take turns."""
    chance = random.Random(seed)
    round_count = max(1, round(fault_count / round_faults))
    decks = _deal(_deck(fault_count, shares), round_count, chance)
    first_protocol = chance.randrange(2)
    rounds = []
    for number, deck in enumerate(decks):
        timeout_ms = chance.choice(transaction_timeouts_ms)
        # Each shape meets both in turn.
        protocol = protocols[(first_protocol + number + number // 4) % len(protocols)]
        rounds.append(
            _round(number, deck, shapes[number % len(shapes)], timeout_ms, protocol, commit_mode, chance)
        )
    return rounds


def fault_counts(rounds: Sequence[Round]) -> Counter[Kind]:
    faults = [fault for each in rounds for fault in each.faults]
    faults += [fault.meanwhile for fault in faults if fault.meanwhile is not None]
    return Counter(fault.kind for fault in faults)


def _deck(count: int, shares: Mapping[Kind | str, int]) -> list[Kind | str]:
    """So many of each kind; what rounding leaves over are kills of stream threads."""
    total = sum(shares.values())
    deck = [kind for kind, share in shares.items() for _ in range(max(1, count * share // total))]
    return deck + [Kind.THREAD_KILL] * (count - len(deck))


def _deal(deck: list[Kind | str], round_count: int, chance: random.Random) -> list[list[Kind | str]]:
    chance.shuffle(deck)
    return [deck[number::round_count] for number in range(round_count)]


def _round(
    number: int,
    deck: Sequence[Kind | str],
    shapes: tuple[str, ...],
    transaction_timeout_ms: int,
    protocol: str,
    commit_mode: str,
    chance: random.Random,
) -> Round:
    threads = chance.choice([2, 2, 3])
    first = chance.choice([1, 2, 2])
    instances = first

    def fault(kind: Kind) -> Fault:
        killed_meanwhile = kind is Kind.BROKER_KILL and chance.random() < 0.5
        return Fault(
            kind=kind,
            instance=chance.randrange(instances),
            thread=chance.randrange(threads),
            topic=chance.randrange(len(SHAPES)),
            broker=chance.randrange(BROKERS) + 1,
            seconds=_seconds(kind, transaction_timeout_ms, chance),
            same_identity=chance.random() < 0.7,
            at_work=chance.random() < 0.75,
            outputs=chance.randrange(10, 150),
            meanwhile=fault(Kind.THREAD_KILL) if killed_meanwhile else None,
        )

    faults = []
    for card in deck:
        kind = card if isinstance(card, Kind) else _member_event(instances, chance)
        faults.append(fault(kind))
        instances += (kind is Kind.JOIN) - (kind is Kind.LEAVE)
    return Round(
        number=number,
        shapes=shapes,
        protocol=protocol,
        commit_mode=commit_mode,
        threads=threads,
        instances=first,
        transaction_timeout_ms=transaction_timeout_ms,
        static=chance.random() < 0.5 and protocol == "classic",
        seed=chance.randrange(1 << 30),
        faults=tuple(faults),
    )


def _member_event(instances: int, chance: random.Random) -> Kind:
    if instances == 1:
        return Kind.JOIN
    if instances == INSTANCES_MAX:
        return Kind.LEAVE
    return chance.choice([Kind.JOIN, Kind.LEAVE])


def _seconds(kind: Kind, transaction_timeout_ms: int, chance: random.Random) -> float:
    match kind:
        case Kind.THREAD_STOP:
            return chance.uniform(0.3, 2.0)
        case Kind.THREAD_STOP_LONG:
            return transaction_timeout_ms / 1000 + chance.uniform(1.5, 3.0)
        case Kind.INSTANCE_STOP:
            return SESSION_TIMEOUT_S + chance.uniform(1.0, 5.0)
        case Kind.BROKER_KILL | Kind.BROKER_STOP:
            return chance.uniform(0.5, 5.0)
        case _:
            return 0.0
