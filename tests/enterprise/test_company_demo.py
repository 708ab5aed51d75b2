"""The demo of a company, as `make demo-enterprise` plays it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.demo.enterprise import play


@pytest.mark.long
async def test_a_company_person_and_their_agent_read_at_seven_services_without_a_consent_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_done = await play(data=tmp_path)
    said = capsys.readouterr().out
    assert is_done, said
    assert "reads from 7 services as alice" in said
    assert "Consent pages so far: 0" in said
    assert "(access_denied): ask its admin." in said
