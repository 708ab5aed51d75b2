"""Services that people can name by an Apprise URL, such as `tgram://...`, and the process that sends there.

Apprise does its own HTTP, without `providers.outbound`. Therefore it runs in a separate process for each message,
confined to the addresses that our own client would reach (`confinement`). The URL contains a secret, so it is passed
through the process's input, never as an argument or environment variable.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Final

from server.deployment import Deployment
from server.notices.http_post import NotAccepted, Uncertain
from server.runtime.isolated_process import run_isolated

TIMEOUT: Final = 20.0  # seconds
_ANSWER_LIMIT: Final = 100  # bytes
_BODY_LIMIT: Final = 8 * 1024  # bytes; as JSON at most six times as many, which is what the process reads
PROGRAM: Final = (
    "from token_vault import claim_names; claim_names(); from server.notices.service_process import main; main()"
)
# Web services that Apprise 2.3 reaches over TLS with `requests`, and nothing else: no local desktop, file, program,
# mail, or protocol of its own, and no request that the URL shapes freely (`json`, `xml`, `form`).
_NAMES: Final = """
46elks acs atalk awswhatsapp azure bale barks betterstack bluesky brevo bsky bulksms bulkvs burstsms chanify
clickatell clicksend cliq cm d7sms dingtalk discord dot eight00com elks embys enigma2s evolutions exotel
feishu firehydrant flock flowtriqs fluxers freemobile gchat github goalerts gorushs gotifys groundmail
groupme gupshup hassios httpsms humhubs ifttt ilert incidentio infobip instagram jira join kakao kakaotalk
kaleyra klr kook kudosity kumulos lametrics lark lauther lfg line mailersend mailgun mastodons misskeys
mmosts mobilemessage mobilemsg msg91 msgbird nctalks nexmo noticas notifiarr notificos notifyapp notifyre
ntfys o365 octopush onebots onesignal opsgenie opsimates pagerduty pagertree parseps pbul pinglets pingram
pjets plivo postmark pover prowl psafers push pushdeers pushed pushplus pushward pushy qq reddit resend
revolt ringc rockets ryver schan sendgrid sendpulse serwersms sessions seven signalgrid signals signl4
simplepush sinch slack smsc smseagles smsmanager smsmgr smstunnel smtp2go sogs sparkpost spike splunk
spugpush spush squadcast stackfield strmlabs synologys telesign telnyx tgram threema toots trigvs tweet
twilio twist twitter viber victorops voipms vonage webex wechat wecom wecombot whapi whatsapp wpush wxpusher
wxteams x xmatters youlmk zalo zcliq zohocliq zoom zulip
"""
SCHEMES: Final = frozenset(_NAMES.split())
_INSECURE: Final = frozenset({"gotify"})  # at loopback, for the sandbox: it has no certificate


def is_installed() -> bool:
    """Whether the extra `apprise` is installed."""
    return importlib.util.find_spec("apprise") is not None


def is_offered(deployment: Deployment) -> bool:
    """Whether people can add services here."""
    return deployment.settings.notices.apprise


def scheme_of(url: str) -> str:
    """The service of a URL, which pages may show; the rest is secret. Empty if people can't add it."""
    scheme, separator, rest = url.partition("://")
    return scheme.lower() if separator and rest and scheme.lower() in SCHEMES | _INSECURE else ""


async def is_readable(deployment: Deployment, url: str) -> bool:
    """Whether Apprise can make one request of this URL, to one recipient; nothing is sent."""
    return await _run(deployment, url, title="", body="", is_trial=True) == "sent"


async def send(deployment: Deployment, url: str, *, title: str, body: str) -> None:
    """Send a message once. Raises NotAccepted or Uncertain."""
    if not is_offered(deployment):
        raise NotAccepted("no_services", is_final=True)
    code = await _run(deployment, url, title=title, body=body)
    if code in {"uncertain", ""}:
        raise Uncertain
    if code != "sent":
        raise NotAccepted("refused" if code == "invalid" else code, is_final=code not in {"busy", "unreachable"})


async def _run(deployment: Deployment, url: str, *, title: str, body: str, is_trial: bool = False) -> str:
    """The output of the process; empty if there is none in time."""
    policy = deployment.http.policy
    scheme = scheme_of(url)
    if not scheme or (scheme in _INSECURE and not policy.allow_loopback):
        return "invalid"
    job: Mapping[str, object] = {
        "url": url,
        "title": title,
        "body": body.encode()[:_BODY_LIMIT].decode(errors="ignore"),
        "is_trial": is_trial,
        "allow_loopback": policy.allow_loopback,
        "private_networks": [str(one) for one in deployment.settings.notices.networks],
    }
    said = await run_isolated(PROGRAM, job, seconds=TIMEOUT)
    return "" if said is None else said[:_ANSWER_LIMIT].decode("ascii", "replace")
