"""A set of loaded and checked rules: which of them apply to a call, and their combined decision. Pure, except for its
cache.

Few rules apply to a call: they are indexed by action, and by provider, agent, and arguments if a rule begins with such
a condition. The matching rules are parsed once, in parts by how often their inputs change. Cedar gets only the
attributes that a part names, and repeated questions are answered from a cache: an answer depends only on the rules and
the attributes that they name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import Final, TypeVar

import cedarpy
from cedarpy import _internal, pst
from pydantic_core import from_json

from providers.definitions.suggestions import did_you_mean
from server.policy.facts import CallFacts, FactUnusable, account_entity, as_json
from server.policy.files import RuleFiles, RulesRefused, RuleText
from server.policy.schema import ARGUMENTS, CALL_ONLY, GROUPS, Action, schema_text
from server.policy.syntax import Names, RuleHead, aims_at, head_of, named_in, normalize, weaken
from vault.refresh.policy_checks import PolicyOutcome, PolicyVerdict

_ANNOTATIONS: Final = frozenset({"id", "reason", "approval"})
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LONGEST_REASON: Final = 300  # characters
_TICKING: Final = frozenset({"now", "signedInSeconds"})
_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 1024  # characters of a question
_SLICES: Final = 4096
_WAYS: Final = 256  # through the texts of the arguments of one tool
_OTHER: Final = "\ud800"  # no text of a rule
_FOR_ACTION: Final = re.compile(r' for Action::"([^"]*)"')
_POLICY: Final = re.compile(r"policy(\d+)")
_FAILED: Final = re.compile(r"`r(\d+)`")
_ORDER: Final = tuple(PolicyOutcome)
_Texts = tuple[tuple[str, frozenset[str]], ...]  # by argument
Key = TypeVar("Key")
Kept = TypeVar("Kept")
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule. `actions`: the named actions with their groups; None for any. `names`: what it refers to."""

    name: str
    reason: str
    asks: bool
    place: str
    node: pst.Template = field(repr=False)
    actions: frozenset[str] | None
    names: Names = field(repr=False)
    head: RuleHead = field(repr=False)

    @property
    def pace(self) -> int:
        """How often its inputs change: with each call, with the time, or rarely."""
        named = self.names.attributes
        return 2 if not named.isdisjoint(CALL_ONLY) else 1 if not named.isdisjoint(_TICKING) else 0

    @property
    def is_about_tools(self) -> bool:
        """Whether other kinds of use must not bypass it: it names tools, or attributes that only tool calls have."""
        names = self.names
        return self.actions is not None or names.has_action or not names.attributes.isdisjoint(CALL_ONLY)

    @property
    def only_agent(self) -> str | None:
        """The only one that it can apply to."""
        return self.head.agent

    def verdict(self, digest: str) -> PolicyVerdict:
        """Its verdict if it applies. `digest`: of the rule set that it belongs to."""
        outcome = PolicyOutcome.ASK if self.asks else PolicyOutcome.FORBID
        return PolicyVerdict(outcome, self.name, self.reason, digest)

    def meets(self, action: Action, *, provider: str, agent: str) -> bool:
        """Whether the rule can apply to a call of this kind."""
        return (
            (self.actions is None or action.name in self.actions or not self.actions.isdisjoint(action.groups))
            and self.head.provider in {None, provider}
            and self.head.agent in {None, agent}
        )

    def meets_arguments(self, known: Mapping[str, str | None]) -> bool:
        """Whether it can apply if these arguments have these texts; None for no value."""
        for one in self.head.arguments:
            if one.name not in known:
                return True
            text = known[one.name]
            if text is None:
                return not one.is_guarded
            if text != one.text:
                return False
        return True


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rules for one kind of call with inputs that change equally often. `context`: their inputs, in addition to the
    named entities."""

    rules: tuple[PolicyRule, ...]
    handle: cedarpy.PolicySet = field(repr=False)
    context: Mapping[str, frozenset[str] | None]
    has_person: bool
    has_account: bool
    has_action: bool
    number: int  # its number within the set
    is_of_call: bool  # whether its inputs include values of a single call, such as arguments

    def entities(self, call: CallFacts) -> str:
        """Those of a call that the rules name, as JSON."""
        if not (self.has_person or self.has_action):
            return _account_alone(call.account_id, call.provider, call.account) if self.has_account else "[]"
        found = [call.account_entity()] if self.has_account else list[object]()
        found += [call.person_entity()] if self.has_person else []
        return as_json(found + ([call.action_entity()] if self.has_action else []))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The rules' verdicts for a call with unknown facts: the certain one and the worst possible one."""

    sure: PolicyVerdict
    worst: PolicyVerdict

    @property
    def is_open(self) -> bool:
        """Whether the unknown facts could make a difference."""
        return self.sure.outcome is not self.worst.outcome


class RuleSet:
    """Rules that were checked against `actions`."""

    def __init__(self, rules: Sequence[PolicyRule], actions: Mapping[str, Action], *, digest: str) -> None:
        self.rules = tuple(rules)
        self.actions = actions
        self.digest = digest
        self._allowed = PolicyVerdict(digest=digest)
        self._verdicts = {one.name: one.verdict(digest) for one in rules}
        self._agents = frozenset(one.only_agent for one in rules if one.only_agent is not None)
        self._texts = _compared_texts(rules, actions)
        self._slices: dict[tuple[object, ...], tuple[_Slice, ...]] = {}
        self._compiled: dict[tuple[object, ...], _Slice] = {}  # by the names of its rules, and what is unknown
        self._known: dict[tuple[int, str | bytes], PolicyVerdict] = {}  # by the slice's number and the question
        self._numbers = count()
        self._entities: dict[str, _internal.Entities] = {}

    def needs_person(self, action: Action, *, provider: str, agent: str) -> bool:
        """Whether the rules for this kind of call ask who the person or the agent is."""
        found = (
            *self._slices_of(action, provider, agent),
            *self._slices_of(action, provider, agent, unknown=CALL_ONLY),
        )
        return any(one.has_person or "agent" in one.context for one in found)

    def judge(self, call: CallFacts) -> PolicyVerdict:
        """The rules' verdict for a call with all facts known."""
        texts = self._texts.get(call.action.name)
        known = () if texts is None else _known_texts(texts, call.values)
        return self._ask(self._slices_of(call.action, call.provider, call.agent.id, known=known), call)

    def judge_partly(
        self, call: CallFacts, *, unknown: frozenset[str], without: frozenset[str] = _NOBODY, about_tools: bool = False
    ) -> Judgement:
        """The verdicts without these context attributes. `about_tools`: only rules about tools.

        Rules that name anything in `without` are left out.
        """
        kind = (call.action, call.provider, call.agent.id)
        sure = self._ask(self._slices_of(*kind, without=unknown | without, about_tools=about_tools), call)
        perhaps = self._ask(self._slices_of(*kind, without=without, unknown=unknown, about_tools=about_tools), call)
        is_worse = _ORDER.index(perhaps.outcome) > _ORDER.index(sure.outcome)
        return Judgement(sure, perhaps if is_worse else sure)

    def _slices_of(
        self,
        action: Action,
        provider: str,
        agent: str,
        *,
        without: frozenset[str] = _NOBODY,
        unknown: frozenset[str] = _NOBODY,
        about_tools: bool = False,
        known: tuple[tuple[str, str | None], ...] = (),
    ) -> tuple[_Slice, ...]:
        """The rules for this kind of call that name nothing in `without`, weakened by what is `unknown`.

        `known`: texts of its arguments, None for those without a value.
        """
        agent = agent if agent in self._agents else ""
        key = (action.name, provider, agent, without, unknown, about_tools, known)
        if key not in self._slices:
            _make_room(self._slices, _SLICES)
            met = [
                one
                for one in self.rules
                if one.meets(action, provider=provider, agent=agent)
                and (one.is_about_tools or not about_tools)
                and one.names.attributes.isdisjoint(without)
                and one.meets_arguments(dict(known))
            ]
            paces = ([one for one in met if one.pace == pace] for pace in range(3))
            self._slices[key] = tuple(self._slice_of(part, unknown) for part in paces if part)
        return self._slices[key]

    def _slice_of(self, rules: Sequence[PolicyRule], unknown: frozenset[str]) -> _Slice:
        """Compiled once, however many kinds of calls these rules apply to."""
        key = (tuple(one.name for one in rules), unknown)
        found = self._compiled.get(key)
        if found is None:
            _make_room(self._compiled, _SLICES)
            found = self._compiled[key] = _compile(rules, unknown, number=next(self._numbers))
        return found

    def _ask(self, parts: Sequence[_Slice], call: CallFacts) -> PolicyVerdict:
        """The strictest verdict: rules only forbid, so each part can be evaluated separately."""
        verdict = self._allowed
        for part in parts:
            found = self._ask_part(part, call)
            if found.outcome is PolicyOutcome.FORBID:
                return found
            if found.outcome is PolicyOutcome.ASK and verdict is self._allowed:
                verdict = found
        return verdict

    def _ask_part(self, met: _Slice, call: CallFacts) -> PolicyVerdict:
        try:
            context, entities = as_json(call.context(met.context)), met.entities(call)
        except FactUnusable as unjudged:
            return self._refusal(met.rules[0], f"{met.rules[0].reason} ({unjudged})".strip())
        question = met.number, _remembered_question(met, context, entities)
        if (known := self._known.get(question)) is not None:
            return known
        asked: dict[str, object] = {
            "principal": {"type": "User", "id": call.person.key if met.has_person else "-"},
            "action": {"type": "Action", "id": call.action.name},
            "resource": {"type": "Account", "id": call.account_id if met.has_account else "-"},
            "context": context,
        }
        verdict = self._verdict(met, asked, self._entities_of(entities))
        if len(question[1]) <= _LONGEST_REMEMBERED:
            _make_room(self._known, _REMEMBERED)
            self._known[question] = verdict
        return verdict

    def _entities_of(self, written: str) -> _internal.Entities | str:
        """The entities, parsed once while the same ones are needed."""
        if len(written) > _LONGEST_REMEMBERED:
            return written
        known = self._entities.get(written)
        if known is None:
            _make_room(self._entities, _REMEMBERED)
            known = self._entities[written] = _internal.Entities.from_json_str(written)
        return known

    def _verdict(self, met: _Slice, asked: dict[str, object], entities: _internal.Entities | str) -> PolicyVerdict:
        """Cedar's decision. Any error forbids."""
        try:
            # The other work of `cedarpy.is_authorized` (its own JSON reader, objects) takes a third of the time.
            answer = from_json(_internal.is_authorized(asked, met.handle, entities))
        except ValueError as error:
            return self._refusal(met.rules[0], f"{met.rules[0].reason} (this call can't be judged: {error})".strip())
        reasons, errors = answer["diagnostics"]["reason"], answer["diagnostics"]["errors"]
        said = [met.rules[int(one.removeprefix("r"))] for one in reasons if one != "base"]
        forbidding = [one for one in said if not one.asks]
        if not forbidding and errors:
            failed = _FAILED.search(errors[0])
            rule = met.rules[0 if failed is None else int(failed[1])]
            return self._refusal(rule, f"{rule.reason} (this rule failed for the call)".strip())
        if forbidding:
            return self._verdicts[forbidding[0].name]
        if said:
            return self._verdicts[said[0].name]
        if answer["decision"] == "Allow":
            return self._allowed
        return self._refusal(met.rules[0], "this call can't be judged")

    def _refusal(self, rule: PolicyRule, reason: str) -> PolicyVerdict:
        return PolicyVerdict(PolicyOutcome.FORBID, rule.name, reason, self.digest)


def _compared_texts(rules: Sequence[PolicyRule], actions: Mapping[str, Action]) -> Mapping[str, _Texts]:
    """By tool, the arguments with texts that can exclude rules, and the texts that rules compare.

    The number of combinations, each with its own slice, is limited; further ones are left to Cedar.
    """
    found: dict[str, _Texts] = {}
    for action in actions.values():
        texts: dict[str, set[str]] = {}
        for rule in rules:
            if action.is_tool and rule.meets(action, provider=action.provider, agent=rule.only_agent or ""):
                for one in rule.head.arguments:
                    texts.setdefault(one.name, set()).add(one.text)
        ways, kept = 1, list[tuple[str, frozenset[str]]]()
        for name, values in sorted(texts.items(), key=lambda item: len(item[1])):
            ways *= len(values) + 2
            if ways <= _WAYS:
                kept.append((name, frozenset(values)))
        if kept:
            found[action.name] = tuple(kept)
    return found


def _known_texts(texts: _Texts, values: Mapping[str, object]) -> tuple[tuple[str, str | None], ...]:
    """The values of these arguments for the rules: one of the texts, no value, or any other text.

    Values that aren't text, or that Cedar can't read, are left out, so that rules that name them are evaluated.
    """
    found: list[tuple[str, str | None]] = []
    for name, compared in texts:
        value = values.get(name)
        if value is None or (isinstance(value, str) and value in compared):
            found.append((name, value))
        elif isinstance(value, str) and value.isascii():
            found.append((name, _OTHER))
    return tuple(found)


def checked_rules(files: RuleFiles, actions: Mapping[str, Action], *, setting: str) -> RuleSet:
    """These rules, checked. Raises RulesRefused with every problem found."""
    problems: list[str] = []
    rules: list[PolicyRule] = []
    places: dict[str, str] = {}
    for text in files.rules:
        try:
            rule = _rule(text)
        except ValueError as error:
            problems.append(f"{text.place}: {error}")
            continue
        if rule.name in places:
            problems.append(f"{text.place}: @id({rule.name!r}) is taken by {places[rule.name]}: choose another")
        places[rule.name] = text.place
        rules.append(rule)
    problems += _misfits([(one.place, text) for one, text in _with_text(rules, files.rules)], actions)
    if problems:
        raise RulesRefused(setting, problems)
    return RuleSet(rules, actions, digest=files.digest)


def _with_text(rules: Iterable[PolicyRule], texts: Iterable[RuleText]) -> list[tuple[PolicyRule, str]]:
    by_place = {one.place: one.text for one in texts}
    return [(one, by_place[one.place]) for one in rules]


def _rule(text: RuleText) -> PolicyRule:
    """Parse a rule. Raises ValueError with an explanation."""
    parsed = cedarpy.policies_to_pst(text.text)
    if parsed.templates or len(parsed.static_policies) != 1:
        raise ValueError("write one rule without ?principal and ?resource, and end it with a semicolon")
    (node,) = parsed.static_policies.values()
    if node.effect != "forbid":
        raise ValueError("a rule can only take away: write forbid, and what stays allowed after `unless`")
    notes = node.annotations
    if strange := sorted(notes.keys() - _ANNOTATIONS):
        near = did_you_mean(strange[0], list(_ANNOTATIONS))
        raise ValueError(f"no annotation @{strange[0]}.{near} Use @id, @reason, and @approval")
    if notes.get("approval"):
        raise ValueError("write @approval without a value; leave it out to forbid")
    name, reason = notes.get("id", ""), notes.get("reason", "")
    if _NAME.fullmatch(name) is None:
        raise ValueError('name the rule: @id("no-mail-at-night"), of at most 64 a-z, 0-9, dots, and hyphens')
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise ValueError(f"@reason: use one line of at most {_LONGEST_REASON} characters")
    node = normalize(node)
    return PolicyRule(
        name,
        reason,
        asks="approval" in notes,
        place=text.place,
        node=node,
        actions=aims_at(node),
        names=named_in(node),
        head=head_of(node),
    )


def _misfits(texts: Sequence[tuple[str, str]], actions: Mapping[str, Action]) -> list[str]:
    """Mismatches with the schema, each with its place and a fix."""
    if not texts:
        return []
    written = "\n".join(text for _, text in texts)
    checked = cedarpy.validate_policies(written, schema_text(actions))  # pyright: ignore[reportUnknownMemberType] -- as above
    found: dict[tuple[str, str], list[str]] = {}  # the actions that have each problem
    for one in checked.errors:
        number = _POLICY.search(one.policy_id)
        place = texts[int(number[1])][0] if number else texts[0][0]
        words = re.sub(r"^for policy `policy\d+`, ", "", one.error)
        if "unable to find an applicable action" in words:
            continue
        action = _FOR_ACTION.search(words)
        told = f"{place}: {_FOR_ACTION.sub('', words)}"
        found.setdefault((told, _remedy(words, actions)), []).extend([action[1]] if action else [])
    return [f"{told}{_whose([one for one in actions if one in names])}{fix}" for (told, fix), names in found.items()]


def _remedy(words: str, actions: Mapping[str, Action]) -> str:
    unknown = re.search(r'unrecognized action `Action::"([^"]*)"`', words)
    if unknown is not None:
        return f":{did_you_mean(unknown[1], [*actions, *GROUPS])} Use an action of `token-vault policy schema`"
    optional = re.search(r"optional attribute `([^`]+)` in context", words)
    if optional is not None:
        return f": write `context has {optional[1]} &&` before it"
    return ": token-vault policy schema shows what there is"


def _whose(actions: Sequence[str]) -> str:
    """The actions that a problem concerns: a rule for every action has the same one with many."""
    if not actions:
        return ""
    return f" for {actions[0]}" if len(actions) == 1 else f" for {len(actions)} actions, such as {actions[0]}"


def _compile(met: Sequence[PolicyRule], unknown: frozenset[str], *, number: int) -> _Slice:
    """The policy for Cedar: everything is permitted unless a rule forbids it."""
    nodes = {"base": _PERMIT}
    attributes: dict[str, frozenset[str] | None] = {}
    has_person = has_account = has_action = False
    for place, rule in enumerate(met):
        weakened = weaken(rule.node, unknown)
        node = replace(weakened, id=f"r{place}", action=pst.ScopeAny(), annotations=pst.FrozenMap())
        names = rule.names if not unknown else named_in(node)
        nodes[node.id] = node
        has_person |= names.has_person
        has_account |= names.has_account
        has_action |= names.has_action
        for name in names.attributes:
            inner = names.arguments if name == ARGUMENTS else None
            before = attributes.get(name, _NOBODY)
            attributes[name] = None if inner is None or before is None else before | inner
    made = pst.PolicySet(pst.FrozenMap(), pst.FrozenMap(nodes), ())
    handle = cedarpy.PolicySet.from_pst(made)
    is_of_call = not attributes.keys().isdisjoint(CALL_ONLY)
    return _Slice(tuple(met), handle, attributes, has_person, has_account, has_action, number, is_of_call)


_PERMIT: Final = pst.Template("base", "permit", pst.ScopeAny(), pst.ScopeAny(), pst.ScopeAny(), (), pst.FrozenMap())


@lru_cache(maxsize=_REMEMBERED)
def _account_alone(account_id: str, provider: str, name: str) -> str:
    return as_json([account_entity(account_id, provider, name)])


def _remembered_question(met: _Slice, context: str, entities: str) -> str | bytes:
    """A question in its cached form, without the arguments of a call, which are never kept."""
    text = f"{context}{entities}"
    return blake2b(text.encode(), digest_size=16).digest() if met.is_of_call else text


def _make_room(kept: dict[Key, Kept], most: int) -> None:
    """Clear the cache when it is full; current questions soon fill it again."""
    if len(kept) >= most:
        kept.clear()
