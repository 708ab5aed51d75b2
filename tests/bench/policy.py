"""CPU time of one decision by 200 rules, in us: `python -m tests.bench.policy`.

Of the rules, 140 name a tool (with a condition on its arguments or on the agent), 40 a provider and the hour, and 20
apply to everything. `new`: each call has different arguments that a rule checks, so nothing is cached. `same`: the
previous call was the same. `wide`: 200 rules that all apply to every call, and one about mail.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from server.policy.facts import CallFacts
from server.policy.rules import RuleSet
from tests.bench.tables import gate, keep, table_heading
from tests.support.rules import MAIL, Rules, rules_in

_ROUNDS = 25
_CALLS = 400
_WANTED = 40.0  # us


def _rules(here: Rules, *, is_wide: bool) -> list[str]:
    tools = [one.name for one in here.place.providers.tools if one.provider is not None]
    everything = "principal, action, resource"
    written: list[str] = []
    for number in range(200):
        hour = f"context.hour == {number % 24} && context.strong"
        if is_wide:
            scope, condition = everything, f'{hour} && context.agent.name == "a{number}"'
        elif number < 70:
            tool = tools[number % len(tools)]
            scope = f'principal, action == Action::"{tool}", resource'
            condition = f'context.arguments has account && context.arguments.account == "x{number}"'
        elif number < 140:
            scope = f'principal, action == Action::"{tools[number % len(tools)]}", resource'
            condition = f'context.agent.id == "agent-{number}"'
        elif number < 180:
            scope = everything
            condition = f'resource.provider == "{("slack", "google", "github", "notion")[number % 4]}" && {hour}'
        else:
            scope, condition = everything, hour
        written.append(f'@id("r{number}") forbid({scope}) when {{ {condition} }};')
    outside = 'unless { ["example.com"].containsAll(context.recipientDomains) }'
    return [
        *written[1:],
        f'@id("out") @approval forbid(principal, action == Action::"gmail_send", resource) {outside};',
    ]


def _measure(rules: RuleSet, make: Callable[[int], CallFacts]) -> list[float]:
    """The us per decision on this thread, by round."""
    rounds: list[float] = []
    for number in range(-1, _ROUNDS):
        calls = [make(number * _CALLS + one) for one in range(_CALLS)]
        before = time.thread_time_ns()
        for call in calls:
            rules.judge(call)
        if number >= 0:
            rounds.append((time.thread_time_ns() - before) / _CALLS / 1000)
    return sorted(rounds)


async def main() -> None:
    """Measure and print."""
    with TemporaryDirectory() as folder:
        here = await rules_in(Path(folder))
        sorted_rules = here.load(*_rules(here, is_wide=False))
        mail = here.facts(sorted_rules, "gmail_send", arguments=MAIL, user="alice")

        def new(number: int) -> CallFacts:
            return replace(mail, arguments=lambda: {**MAIL, "to": [f"ann@n{number}.example.com"]})

        print(table_heading("200 rules, us of processor time for each call"))
        wide = here.load(*_rules(here, is_wide=True))
        for name, rules, make in (
            ("new", sorted_rules, new),
            ("same", sorted_rules, lambda _: replace(mail)),
            ("wide, new", wide, new),
            ("wide, same", wide, lambda _: replace(mail)),
        ):
            found = _measure(rules, make)
            median = statistics.median(found)
            print(f"{name:12}{median:6.1f} ({found[0]:.1f} to {found[-1]:.1f})   {gate(median, _WANTED)}")
            keep(f"200 rules: {name}", median, _WANTED, "us")


if __name__ == "__main__":
    asyncio.run(main())
