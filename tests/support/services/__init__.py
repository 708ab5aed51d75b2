"""Small APIs of further services for the simulator: the operations that declared tools call, in each service's format.
`providers/simulator/families/resources.py` first checks that the token allows the operation. Written data stays until
the simulator is reset. The formats come from the services' documentation, read on 2026-11-25, and weren't compared with
the live services.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.responses import Response

from providers.simulator.calls import SimulatedCall
from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.state.sandbox import Sandbox, ServiceAPI
from providers.simulator.state.tokens import AccessToken
from tests.support.services import facebook, graph, hubspot, jira, linear, notion, openapi_services, salesforce
from tests.support.services.desk import ServiceCall
from tests.support.services.github import api as github
from tests.support.services.modes import WITH_APIS
from tests.support.simulator_apps import add_api, add_mode


def _desk(answer: Callable[[ServiceCall], Response], refusal: Callable[[int], Response] | None = None) -> ServiceAPI:
    def visit(sandbox: Sandbox, call: SimulatedCall, token: AccessToken) -> Response:
        return answer(ServiceCall.of(sandbox, call, token=token))

    return ServiceAPI(visit, refusal)


APIS: Mapping[str, ServiceAPI] = {
    "github": ServiceAPI(github.answer),
    "notion": _desk(notion.answer),
    "linear": _desk(linear.answer),
    "jira": _desk(jira.answer),
    "hubspot": _desk(hubspot.answer),
    "graph": _desk(graph.answer),
    "salesforce": _desk(salesforce.answer, salesforce.no_authority),
    "facebook": _desk(facebook.answer, facebook.no_authority),
    **{name: _desk(openapi_services.answer_of(name)) for name in openapi_services.SERVICES},
}


@asynccontextmanager
async def running_services() -> AsyncGenerator[Simulator]:
    """Run the simulator with these APIs behind the modes that name them, and the modes `api-NAME`."""
    async with running_simulator() as simulator:
        for name, api in APIS.items():
            add_api(simulator, name, api)
        for name, mode in WITH_APIS.items():
            add_mode(simulator, name, mode)
        yield simulator
