"""Reasons to refuse an imported API, each with an import that succeeds without only that reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.administration.actor import Actor, ChangeRefused
from server.policy.gate import PolicyGate
from server.policy_settings import PolicySettings
from server.provider_settings import ProviderSettings
from server.remote import imported_apis
from server.remote.described_apis import DescribedApi, content_of_description
from tests.portal.administration.test_imported_apis import AUDIENCE, ImportRoom, fresh, openapi_text, place

__all__ = ["place"]  # a fixture


async def test_an_api_that_a_rule_names_stays(place: ImportRoom, tmp_path: Path) -> None:
    name, deployment = fresh(), place.deployment
    await place.offer(name)
    await place.accept(name, quote="accept", order="leave")
    rule = f'@id("quotes")\nforbid (principal, action == Action::"{name}_quote", resource);\n'
    for kind in ("folder", "shadow_folder"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "rules.cedar").write_text(rule, encoding="utf-8")
        settings = PolicySettings.model_validate({kind: folder})
        gate = PolicyGate(settings, deployment.live, deployment.activity, admin=deployment.settings.admin)
        actor = Actor(replace(deployment, policy=gate), None, "command_line")
        with pytest.raises(ChangeRefused) as refused:
            await imported_apis.remove(actor, name)
        assert refused.value.reason == "named_by_rule"
        other = fresh()
        await place.offer(other)
        await place.accept(other, quote="accept", order="leave")
        await imported_apis.remove(actor, other)
        assert place.offered_tools(other) == {}
    await imported_apis.remove(place.operator, name)
    assert place.offered_tools(name) == {}


async def test_an_import_of_which_no_tool_is_left_is_discarded_or_removed(place: ImportRoom) -> None:
    name = fresh()
    await place.offer(name)
    with pytest.raises(ChangeRefused, match="Discard the import"):
        await place.accept(name, quote="leave", order="leave")
    await place.accept(name, quote="accept", order="leave")
    with pytest.raises(ChangeRefused, match="Remove the API"):
        await place.accept(name, quote="leave", order="leave")


@pytest.mark.parametrize(("name", "is_one"), [("Quotes", False), ("q" * 41, False), ("quotes", True)])
async def test_a_described_api_has_a_name_of_few_characters(name: str, is_one: bool) -> None:
    described = DescribedApi(name, "openapi", openapi_text({}), audience=AUDIENCE)
    if is_one:
        assert await content_of_description(described)
        return
    with pytest.raises(ChangeRefused, match="isn't a valid name") as refused:
        await content_of_description(described)
    assert refused.value.field == "name"


async def test_an_api_that_a_setting_names_stays(place: ImportRoom) -> None:
    name, deployment = fresh(), place.deployment
    settings = deployment.settings
    await place.offer(name)
    await place.accept(name, quote="accept", order="leave")
    hidden = settings.tools.model_copy(update={"disable": (f"{name}_quote",)})
    for changes, said in (
        ({"providers": {**settings.providers, name: ProviderSettings()}}, f"providers.{name} is about this API"),
        ({"tools": hidden}, f"tools.disable names {name}_quote"),
    ):
        changed = replace(deployment, settings=settings.model_copy(update=changes))
        with pytest.raises(ChangeRefused, match=said) as refused:
            await imported_apis.remove(Actor(changed, None, "command_line"), name)
        assert refused.value.reason == "named_by_setting"
    await imported_apis.remove(place.operator, name)
    assert place.offered_tools(name) == {}
