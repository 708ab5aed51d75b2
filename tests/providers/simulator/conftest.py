"""A running simulator, one for each module, without data of earlier tests; and a small app at each face."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest

from providers.simulator.local_server import Simulator, running_simulator
from tests.support.simulator_apps import GoogleApp, SlackApp


@pytest.fixture(scope="module")
async def simulator_client() -> AsyncGenerator[tuple[Simulator, httpx2.AsyncClient]]:
    async with running_simulator() as simulator, httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        yield simulator, http


@pytest.fixture
def simulator(simulator_client: tuple[Simulator, httpx2.AsyncClient]) -> Simulator:
    simulator_client[0].reset()
    return simulator_client[0]


@pytest.fixture
def slack(simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]) -> SlackApp:
    return SlackApp(simulator, simulator_client[1])


@pytest.fixture
def google(simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]) -> GoogleApp:
    return GoogleApp(simulator, simulator_client[1])
