"""`@tool`: turn a typed function into a tool.

The signature becomes the input schema, the docstring the description, the result the output schema; the decorator takes
the scopes and the effect on existing data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any, get_type_hints

from pydantic import BaseModel, create_model

from providers.api.api import UpstreamAPI
from providers.tools.presentation import DEFAULT, Presentation
from providers.tools.spec import Effect, Progress, ToolInput, ToolOutput, ToolSpec

Function = Callable[..., Awaitable[ToolOutput]]


def tool(
    provider: str,
    *,
    title: str,
    scopes: Iterable[str],
    effect: Effect,
    approval: bool = False,
    presentation: Presentation = DEFAULT,
) -> Callable[[Function], ToolSpec]:
    """Make a tool from an async function. `scopes` are the minimum that its calls need; `approval` asks the person each
    time, on a page that shows the call by its `presentation`.

    A parameter of type UpstreamAPI gets the provider's API with the call's token, one of type Progress the caller's
    progress; every other parameter is an argument, described by `Annotated[..., Field(...)]`. A parameter whose type is
    a ToolInput stands for all arguments, for rules across them. `account` is added automatically. Raises TypeError.
    """

    def declare(function: Function) -> ToolSpec:
        name, description = function.__name__, " ".join((function.__doc__ or "").split())
        hints = get_type_hints(function, include_extras=True)
        output: object = hints.pop("return", None)
        if not description:
            raise TypeError(f"{name}: write a docstring; agents read it as the tool's description")
        if not (isinstance(output, type) and issubclass(output, ToolOutput)):
            raise TypeError(f"{name}: annotate the result with a ToolOutput")
        model, call = _input_and_call(function, hints)
        return ToolSpec(
            name=name,
            title=title,
            description=description,
            provider=provider,
            scopes=frozenset(scopes),
            effect=effect,
            input=model,
            output=output,
            call=call,
            approval=approval,
            presentation=presentation,
        )

    return declare


def _input_and_call(
    function: Function, hints: Mapping[str, Any]
) -> tuple[type[BaseModel], Callable[[UpstreamAPI, BaseModel, Progress], Awaitable[BaseModel]]]:
    """The model of the arguments, and the call that refuses an instance of any other model."""
    given = {kind: name for name, kind in hints.items() if kind in (UpstreamAPI, Progress)}
    whole = {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, ToolInput)}
    own = [name for name in hints if name not in (*given.values(), *whole)]
    if len(whole) > 1 or (whole and own):
        raise TypeError(f"{function.__name__}: one ToolInput stands for all arguments; take no other parameter with it")
    if "account" in own:
        raise TypeError(f"{function.__name__}: every tool has `account` already; api.account is the one that is used")
    model = next(iter(whole.values())) if whole else _model(function, {name: hints[name] for name in own})

    async def call(api: UpstreamAPI, arguments: BaseModel, progress: Progress) -> BaseModel:
        if not isinstance(arguments, model):
            raise TypeError(f"{function.__name__} takes {model.__name__}")
        values: dict[str, object] = dict.fromkeys(whole, arguments)
        values |= {name: getattr(arguments, name) for name in own}
        values |= {name: api if kind is UpstreamAPI else progress for kind, name in given.items()}
        return await function(**values)

    return model, call


def _model(function: Function, hints: Mapping[str, Any]) -> type[ToolInput]:
    """Each parameter is a field, its default the field's."""
    parameters = signature(function).parameters
    fields: dict[str, Any] = {
        name: (kind, ... if (default := parameters[name].default) is Parameter.empty else default)
        for name, kind in hints.items()
    }
    words = function.__name__.split("_")
    name = "".join(word.capitalize() for word in words[1:] or words) + "Input"
    return create_model(name, __base__=ToolInput, __doc__=f"Arguments of {function.__name__}.", **fields)
