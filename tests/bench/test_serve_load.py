"""The load test of `vlrt serve`, a short one: every request is answered, in equal shares."""

from __future__ import annotations

import json

import pytest
import serve_load


def test_a_short_load(capsys: pytest.CaptureFixture[str]):
    clients = ["--clients", "6", "--queue", "8", "--requests", "120"]
    figures = serve_load.main(["demo", *clients])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert figures["requests"] == 120
    assert figures["answers_per_question"] == 1
    assert figures["given_up"] == 12
    assert figures["refused"] == 0
    assert figures["share_least"] >= 15  # of 20: first come, first served
    assert figures["private_mb"][-1] - figures["private_mb"][6] < 25
