"""Family modes with their own API, for the tools that call it: the services in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from providers.simulator.modes.known_services import KNOWN
from providers.simulator.modes.model import Mode, Operation


def _with_api(name: str, api: str, *operations: tuple[str, str, str]) -> Mode:
    """A known service whose operations (method, path, scopes of which any one is enough) that API answers."""
    made = tuple(Operation(method, path, frozenset(scopes.split())) for method, path, scopes in operations)
    return replace(KNOWN[name], api=api, operations=made)


_JIRA = "/ex/jira/{}/rest/api/2"
WITH_APIS: Mapping[str, Mode] = {
    # Notion has no scopes: an integration may do what it was created for.
    "api-notion": _with_api(
        "notion",
        "notion",
        ("POST", "/search", ""),
        ("GET", "/blocks/{}/children", ""),
        ("GET", "/pages/{}", ""),
        ("POST", "/pages", ""),
        ("POST", "/comments", ""),
    ),
    "api-linear": _with_api("linear", "linear", ("POST", "/graphql", "")),
    "api-atlassian": _with_api(
        "atlassian",
        "jira",
        ("GET", "/oauth/token/accessible-resources", ""),
        ("GET", f"{_JIRA}/search/jql", "read:jira-work"),
        ("GET", f"{_JIRA}/project/{{}}", "read:jira-work"),
        ("GET", f"{_JIRA}/issue/{{}}", "read:jira-work"),
        ("POST", f"{_JIRA}/issue", "write:jira-work"),
        ("POST", f"{_JIRA}/issue/{{}}/comment", "write:jira-work"),
    ),
    "api-hubspot": _with_api(
        "hubspot",
        "hubspot",
        ("POST", "/crm/v3/objects/contacts/search", "crm.objects.contacts.read"),
        ("POST", "/crm/v3/objects/companies/search", "crm.objects.companies.read"),
        ("POST", "/crm/v3/objects/deals/search", "crm.objects.deals.read"),
        ("GET", "/crm/v3/objects/contacts/{}", "crm.objects.contacts.read"),
        ("POST", "/crm/v3/objects/notes", "crm.objects.contacts.write"),
    ),
    "api-salesforce": _with_api(
        "salesforce",
        "salesforce",
        ("GET", "/v63.0/sobjects/Contact/{}", "api full"),
        ("POST", "/v63.0/parameterizedSearch", "api full"),
        ("POST", "/v63.0/sobjects/Task", "api full"),
    ),
    "api-facebook": _with_api(
        "facebook",
        "facebook",
        ("GET", "/me/accounts", "pages_show_list"),
        ("GET", "/{}", "pages_show_list pages_read_engagement"),
        ("POST", "/{}/feed", "pages_manage_posts"),
    ),
    "api-asana": _with_api(
        "asana",
        "asana",
        ("GET", "/workspaces", "default workspaces:read"),
        ("GET", "/tasks", "default tasks:read"),
        ("GET", "/tasks/{}", "default tasks:read"),
        ("POST", "/tasks", "default tasks:write"),
    ),
    "api-digitalocean": _with_api(
        "digitalocean",
        "digitalocean",
        ("GET", "/droplets", "read write droplet:read"),
        ("GET", "/domains/{}/records", "read write domain:read"),
        ("POST", "/droplets/{}/actions", "write droplet:update"),
    ),
    "api-figma": _with_api(
        "figma",
        "figma",
        ("GET", "/v1/files/{}/meta", "file_metadata:read"),
        ("GET", "/v1/files/{}/comments", "file_comments:read"),
        ("POST", "/v1/files/{}/comments", "file_comments:write"),
    ),
    "api-pagerduty": _with_api(
        "pagerduty",
        "pagerduty",
        ("GET", "/incidents", "read write incidents.read"),
        ("GET", "/incidents/{}", "read write incidents.read"),
        ("GET", "/oncalls", "read write oncalls.read"),
        ("POST", "/incidents/{}/notes", "write incidents.write"),
    ),
    "api-microsoft": _with_api(
        "microsoft",
        "graph",
        ("GET", "/me/messages", "Mail.Read Mail.ReadWrite"),
        ("GET", "/me/messages/{}", "Mail.Read Mail.ReadWrite"),
        ("POST", "/me/messages", "Mail.ReadWrite"),
        ("POST", "/me/sendMail", "Mail.Send"),
        ("GET", "/me/calendarView", "Calendars.Read Calendars.ReadWrite"),
        ("POST", "/me/events", "Calendars.ReadWrite"),
        ("GET", "/me/drive/root/children", "Files.Read Files.ReadWrite"),
        ("GET", "/me/drive/items/{}/children", "Files.Read Files.ReadWrite"),
    ),
}
