"""`token-vault apply` with `[policies]`: files of rules are shown, checked, written together, and removed if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.administration.actor import Actor
from server.administration.declaration import DeclarationRefused, DeclaredPolicy
from server.administration.declarations import declared_rules
from server.app import open_deployment
from server.commands.apply.apply import in_words
from server.policy.files import RulesRefused
from server.policy.replay import ReplayReport
from server.policy.rule_folder import hold
from server.policy_settings import PolicySettings
from server.settings import load_settings
from tests.support.commands import content, run
from tests.support.inspection import read_events
from tests.support.processes import Place
from tests.support.rooms.mcp_room import SLACK
from vault.audit import audit
from vault.records import Event

POSTS = '@id("no-posts") @reason("not now") forbid(principal, action == Action::"slack_post", resource);\n'
NIGHT = '@id("night") forbid(principal, action, resource) when { context.hour < 7 };'


@pytest.fixture
def folder(place: Place) -> Path:
    """The folder of the vault's rules, with one file that a person wrote."""
    made = place.data.parent / "rules"
    made.mkdir()
    (made / "by-hand.cedar").write_text(NIGHT.replace("night", "by-hand"))
    with (place.data / "config.toml").open("a", encoding="utf-8") as file:
        file.write(f'[policy]\nfolder = "{made}"\n')
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "declared").mkdir()
    (tmp_path / "declared" / "posts.cedar").write_text(POSTS)
    found = tmp_path / "declared" / "vault.toml"
    found.write_text(
        f"[people.grace]\n[policies.posts]\nrules_file = \"posts.cedar\"\n[policies.night]\nrules = '''{NIGHT}'''\n"
    )
    return found


def _files(folder: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in folder.glob("*.cedar")}


async def test_rules_are_shown_as_a_diff_written_once_and_then_have_nothing_to_change(
    place: Place, folder: Path, file: Path
) -> None:
    for option in ("--plan", "--dry-run"):
        planned = await run(place, "apply", str(file), option)
        assert planned.exit_code == 2
        assert planned.stdout.splitlines()[:6] == [
            "+ policy posts.cedar",
            "    @@ -0,0 +1 @@",
            f"    +{POSTS.strip()}",
            "+ policy night.cedar",
            "    @@ -0,0 +1 @@",
            f"    +{NIGHT}",
        ]
        assert _files(folder).keys() == {"by-hand.cedar"}, "a plan changes nothing"
    applied = await run(place, "apply", str(file), "--json")
    assert applied.exit_code == 0, applied.output
    told = json.loads(applied.stdout)
    assert [(one["change"], one["kind"], one["name"]) for one in told["changes"]] == [
        ("create", "policy", "posts.cedar"),
        ("create", "policy", "night.cedar"),
        ("create", "person", "grace"),
    ]
    assert told["changes"][0]["differences"] == {"rules": {"before": None, "after": POSTS}}
    assert _files(folder) == {
        "by-hand.cedar": NIGHT.replace("night", "by-hand"),
        "posts.cedar": POSTS,
        "night.cedar": NIGHT,
    }
    again = await run(place, "apply", str(file))
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "Nothing to change.\n")
    (file.parent / "posts.cedar").write_text(POSTS.replace("not now", "not yet"))
    changed = await run(place, "apply", str(file))
    assert changed.stdout.splitlines() == [
        "~ policy posts.cedar",
        "    @@ -1 +1 @@",
        f"    -{POSTS.strip()}",
        f"    +{POSTS.strip().replace('not now', 'not yet')}",
    ]
    assert (await content(place, "policy", "check"))["rules"] == 3
    async with open_deployment(load_settings(None, data=place.data), data=place.data) as deployment:
        events = [one for one in await read_events(deployment) if one.kind == "policy.applied"]
        assert [one.details["files"] for one in events] == [["night.cedar", "posts.cedar"], ["posts.cedar"]]
        assert deployment.policy is not None
        assert deployment.policy.digest == events[-1].details["policy"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (POSTS.replace("slack_post", "slack_pots"), "posts.cedar:2: unrecognized action"),
        (POSTS.replace("forbid", "permit"), "posts.cedar:2: a rule can only take away"),
        (POSTS.replace("no-posts", "night"), "is taken by"),
    ],
)
async def test_one_bad_rule_changes_nothing(place: Place, folder: Path, file: Path, bad: str, said: str) -> None:
    before = _files(folder)
    (file.parent / "posts.cedar").write_text("\n" + bad)
    refused = await run(place, "apply", str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert said in refused.stderr
    assert refused.stderr.endswith("Nothing was changed.\n")
    assert _files(folder) == before
    assert "grace" not in str(await content(place, "users", "list"))
    (file.parent / "posts.cedar").write_text("\n" + POSTS)
    assert (await run(place, "apply", str(file))).exit_code == 0
    assert "grace" in str(await content(place, "users", "list"))


async def test_a_bad_rule_elsewhere_in_the_folder_is_named_and_a_file_can_replace_it(
    place: Place, folder: Path, file: Path
) -> None:
    (folder / "by-hand.cedar").write_text("forbid(")
    refused = await run(place, "apply", str(file))
    assert (refused.exit_code, f"{folder}/by-hand.cedar:1: " in refused.stderr) == (1, True)
    assert _files(folder).keys() == {"by-hand.cedar"}
    with file.open("a", encoding="utf-8") as more:
        more.write(f"[policies.by-hand]\nrules = '''{NIGHT.replace('night', 'again')}'''\n")
    assert (await run(place, "apply", str(file))).exit_code == 0
    assert "again" in _files(folder)["by-hand.cedar"]


async def test_rules_without_a_folder_are_refused_with_the_setting(place: Place, file: Path) -> None:
    refused = await run(place, "apply", str(file))
    assert (refused.exit_code, refused.stderr) == (
        1,
        "token-vault: policies: there is no folder for rules: set policy.folder\n",
    )
    missing = place.data.parent / "missing"
    with (place.data / "config.toml").open("a", encoding="utf-8") as config:
        config.write(f'[policy]\nfolder = "{missing}"\n')
    refused = await run(place, "apply", str(file))
    assert (refused.exit_code, f"no folder {missing}: create it" in refused.stderr) == (1, True)
    missing.mkdir()
    assert (await run(place, "apply", str(file))).exit_code == 0


async def test_a_file_must_say_where_its_rules_are(place: Place, folder: Path, file: Path) -> None:
    for section, said in (
        ("[policies.one]", "policies.one: rules are missing: set rules or rules_file"),
        ('[policies.one]\nrules = ""\nrules_file = "posts.cedar"', "policies.one: rules and rules_file are both set"),
        ('[policies.one]\nrules_file = "none.cedar"', "policies.one.rules_file: can't read"),
        ('[policies.one]\nrule = ""', "policies.one.rule: there is no such key. Did you mean rules?"),
        ('[policies."one.cedar"]\nrules = ""', "policies.one.cedar: use at most 64 a-z"),
        ('[policies."../one"]\nrules = ""', "policies.../one: use at most 64 a-z"),
        ('[policis.one]\nrules = ""', "policis: there is no such key. Did you mean policies?"),
    ):
        file.write_text(section)
        refused = await run(place, "apply", str(file))
        assert (refused.exit_code, said in refused.stderr) == (1, True), refused.stderr
    assert _files(folder).keys() == {"by-hand.cedar"}
    for section in ('[policies.one]\nrules = ""', '[policies.two]\nrules_file = "posts.cedar"'):
        file.write_text(section)
        assert (await run(place, "apply", str(file))).exit_code == 0
    assert _files(folder).keys() == {"by-hand.cedar", "one.cedar", "two.cedar"}


async def test_only_files_that_were_applied_are_removed_and_only_when_asked(
    place: Place, folder: Path, file: Path
) -> None:
    assert (await run(place, "apply", str(file))).exit_code == 0
    file.write_text("[policies]\n")
    assert (await run(place, "apply", str(file))).stderr == "Nothing to change.\n"
    (folder / "night.cedar").write_text(NIGHT + " // mine")
    refused = await run(place, "apply", str(file), "--prune")
    assert (refused.exit_code, "night.cedar was edited after it was applied" in refused.stderr) == (1, True)
    assert _files(folder).keys() == {"by-hand.cedar", "night.cedar", "posts.cedar"}
    (folder / "night.cedar").write_text(NIGHT)
    removed = await run(place, "apply", str(file), "--prune")
    assert [one for one in removed.stdout.splitlines() if one[0] == "-"] == [
        "- policy night.cedar",
        "- policy posts.cedar",
    ]
    assert _files(folder).keys() == {"by-hand.cedar"}
    assert (await run(place, "apply", str(file), "--prune")).stderr == "Nothing to change.\n"


async def test_recorded_uses_are_tried_on_the_new_rules(place: Place, folder: Path, file: Path) -> None:
    settings = load_settings(None, data=place.data)
    async with open_deployment(settings, data=place.data) as deployment:
        details = {"purpose": "slack_post", "provider": "slack", "account": "a", "scopes": " ".join(SLACK)}
        noon = deployment.now() // 86400 * 86400 - 86400 + 43200
        async with deployment.transaction() as transaction:
            used = Event("token.exchanged", user_id="u", client_id="c", connection_id="x", details=details)
            await audit.append(transaction, used, used, now=noon)
    told = await run(place, "apply", str(file), "--plan", "--json")
    replay = json.loads(told.stdout)["replay"]
    assert (replay["uses"], replay["forbid"], replay["ask"]) == (2, 2, 0)
    assert "Of 2 uses of accounts in the last 7 days, these rules would have forbidden 2" in told.stderr
    (file.parent / "posts.cedar").write_text(POSTS.replace("slack_post", "slack_channels"))
    told = await run(place, "apply", str(file), "--plan", "--json")
    assert json.loads(told.stdout)["replay"]["forbid"] == 0
    file.write_text("[people.grace]\n")
    assert "replay" not in json.loads((await run(place, "apply", str(file), "--plan", "--json")).stdout)


async def test_an_interrupted_change_is_reported_and_finished(place: Place, folder: Path, file: Path) -> None:
    assert (await run(place, "apply", str(file))).exit_code == 0
    (folder / ".applying").mkdir()  # as after a kill once all files are in place
    assert (await run(place, "status")).exit_code == 1
    planned = await run(place, "apply", str(file), "--plan")
    assert (planned.exit_code, "is unfinished: apply to finish it" in planned.stderr) == (2, True)
    finished = await run(place, "apply", str(file))
    assert (finished.exit_code, "was finished" in finished.stderr) == (0, True)
    assert (await run(place, "status")).exit_code == 0


@pytest.mark.parametrize("was_interrupted", [True, False])
async def test_rules_refused_after_an_interrupted_change_was_finished_say_so(
    place: Place, folder: Path, *, was_interrupted: bool
) -> None:
    settings = PolicySettings(folder=folder)
    async with open_deployment(load_settings(None, data=place.data), data=place.data) as deployment:
        actor = Actor(deployment, None, "command_line")
        if was_interrupted:
            (folder / ".applying").mkdir()
        planned = declared_rules.plan(actor, {"posts": DeclaredPolicy(rules=POSTS)}, settings, prunes=False)
        (folder / "later.cedar").symlink_to("/proc/self/mem")  # can't be read
        with pytest.raises(DeclarationRefused if was_interrupted else RulesRefused) as refused:
            await declared_rules.apply(actor, planned)
        assert "later.cedar: can't be read" in str(refused.value)
        assert str(refused.value).endswith("was finished") is was_interrupted
        assert not (folder / ".applying").exists()
        (folder / "later.cedar").unlink()
        await declared_rules.apply(actor, planned)
    assert (folder / "posts.cedar").read_text() == POSTS


@pytest.mark.parametrize("as_json", [True, False])
async def test_rules_that_were_written_before_a_refused_change_are_shown(
    place: Place, folder: Path, file: Path, *, as_json: bool
) -> None:
    options = ["--json"] if as_json else []
    file.write_text(f'[people.{"x" * 300}]\n[policies.posts]\nrules_file = "posts.cedar"\n')
    (folder / ".applying").mkdir()
    stopped = await run(place, "apply", str(file), *options)
    assert (stopped.exit_code, "were made and stay" in stopped.stderr) == (1, True)
    assert "was finished" in stopped.stderr
    assert (folder / "posts.cedar").read_text() == POSTS
    if as_json:
        row = {"change": "create", "kind": "policy", "name": "posts.cedar", "secret": None}
        row["differences"] = {"rules": {"before": None, "after": POSTS}}
        assert json.loads(stopped.stdout) == {"applied": False, "changes": [row]}
    else:
        assert stopped.stdout.splitlines()[0] == "+ policy posts.cedar"
    again = await run(place, "apply", str(file), *options)  # the twin: the rules are there already
    assert (again.exit_code, again.stdout) == (1, "")
    assert "were made and stay" not in again.stderr
    assert "was finished" not in again.stderr


async def test_a_folder_that_another_changes_is_refused(place: Place, folder: Path, file: Path) -> None:
    with hold(folder):
        refused = await run(place, "apply", str(file))
    assert (refused.exit_code, "are being changed: run this again" in refused.stderr) == (1, True)
    assert _files(folder).keys() == {"by-hand.cedar"}
    assert "grace" not in str(await content(place, "users", "list"))
    assert (await run(place, "apply", str(file))).exit_code == 0


@pytest.mark.parametrize(
    ("name", "is_folder", "said"),
    [
        (".applying.new", False, "can't write"),
        ("posts.cedar", True, "posts.cedar: Is a directory"),
        (".applied.json", True, "can't read"),
    ],
)
async def test_a_folder_that_cannot_be_written_is_refused(
    place: Place, folder: Path, file: Path, name: str, *, is_folder: bool, said: str
) -> None:
    blocked = folder / name
    if is_folder:
        blocked.mkdir()
    else:
        blocked.write_text("")
    refused = await run(place, "apply", str(file))
    assert (refused.exit_code, said in refused.stderr) == (1, True), refused.stderr
    assert "night.cedar" not in _files_there(folder)
    assert "grace" not in str(await content(place, "users", "list"))
    if is_folder:
        blocked.rmdir()
    else:
        blocked.unlink()
    assert (await run(place, "apply", str(file))).exit_code == 0
    assert "night.cedar" in _files_there(folder)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_rule_file_that_is_a_link_is_left_to_those_who_manage_it(
    place: Place, folder: Path, file: Path, tmp_path: Path, *, is_there: bool
) -> None:
    elsewhere, link = tmp_path / "managed.cedar", folder / "posts.cedar"
    if is_there:
        elsewhere.write_text(POSTS.replace("not now", "never"))
    link.symlink_to(elsewhere)
    for options in (("--plan",), ()):
        refused = await run(place, "apply", str(file), *options)
        assert refused.exit_code == 1
        assert f"{link} is a symbolic link" in refused.stderr
        assert "night.cedar" not in _files_there(folder)
        assert link.is_symlink()
    elsewhere.write_text(POSTS)  # nothing to change there
    assert (await run(place, "apply", str(file))).exit_code == 0
    assert link.is_symlink()
    pruning = file.with_name("pruning.toml")
    pruning.write_text("[policies]\n")
    assert (await run(place, "apply", str(pruning), "--prune")).exit_code == 0
    assert (link.is_symlink(), "night.cedar" in _files_there(folder)) == (True, False)
    link.unlink()
    assert (await run(place, "apply", str(file))).exit_code == 0
    assert link.read_text() == POSTS


async def test_an_applied_file_that_became_a_link_is_not_removed(
    place: Place, folder: Path, file: Path, tmp_path: Path
) -> None:
    assert (await run(place, "apply", str(file))).exit_code == 0
    link = (folder / "posts.cedar").rename(tmp_path / "managed.cedar")
    (folder / "posts.cedar").symlink_to(link)
    file.write_text("[policies]\n")
    refused = await run(place, "apply", str(file), "--prune")
    assert (refused.exit_code, "posts.cedar is a symbolic link" in refused.stderr) == (1, True)
    assert {"posts.cedar", "night.cedar"} <= _files_there(folder)
    (folder / "posts.cedar").unlink()
    assert (await run(place, "apply", str(file), "--prune")).exit_code == 0
    assert not {"posts.cedar", "night.cedar"} & _files_there(folder)


def _files_there(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


@pytest.mark.parametrize(("events", "said"), [(9_999, "in the last 7 days"), (10_000, "in the last 10,000 events")])
def test_a_short_trial_of_a_long_activity_says_so(events: int, said: str) -> None:
    assert said in in_words(ReplayReport(events=events))
