"""The API describes itself, and is as it says: every route stands in the description, and every answer fits its schema."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from coalition.server.openapi import OPERATIONS
from coalition.store import Store
from tests.builders import Caller, Hand, a_group, a_job, a_range

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12
NOT_A_FORM = {"Content-Type": "application/json"}  # without log-in, what a form of another page cannot send


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


def test_every_route_is_described_and_nothing_else_is(app: Flask) -> None:
    routes = {rule.endpoint for rule in app.url_map.iter_rules() if not rule.endpoint.startswith(("page.", "legacy."))}
    assert routes == OPERATIONS.keys()


def test_the_description_names_bounds_required_fields_and_who_may(call: Caller) -> None:
    status, answer = call("GET", "/api/openapi.json")
    assert (status, answer["openapi"]) == (200, "3.1.0")
    job = answer["components"]["schemas"]["JobSpec"]
    assert job["properties"]["priority"] == {"type": "integer", "minimum": 0, "maximum": 255, "default": 127}
    assert job["additionalProperties"] is False
    assert answer["components"]["schemas"]["LimitChanges"]["required"] == ["maximum"]
    assert answer["paths"]["/api/v1/limits/{name}"]["put"]["x-who"] == ["admin", "wrangler"]
    assert answer["paths"]["/api/v1/jobs/{job_id}"]["get"]["parameters"][0]["name"] == "job_id"


def test_the_page_shows_every_operation_without_script_or_foreign_source(call: Caller) -> None:
    text = call.raw("GET", "/api/docs").get_data(as_text=True)
    assert all(f'id="{endpoint}"' in text for endpoint in OPERATIONS)
    assert "<script" not in text
    assert "//" not in text.replace("</", "")
    assert "vertical-align" in call.raw("GET", "/api/docs.css").get_data(as_text=True)


@pytest.mark.parametrize("endpoint", sorted(OPERATIONS))
def test_whatever_comes_in_no_route_fails_and_every_answer_fits(app: Flask, store: Store, endpoint: str) -> None:
    store.submit([a_group("g"), a_range("1-3"), a_job("j", affinity=("linux",), depends_on=(1,))])
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app)
    operation = schema.find_operation_by_id(endpoint)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def is_answered(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, headers=NOT_A_FORM if case.method == "DELETE" else None)

    is_answered()


IDS = {"job_id": 1, "attempt_id": 1, "worker_id": 1, "instance_id": 1, "name": "spare", "token_id": "x"}
OLD = 7  # the job that is archived
AGENTS = {"jobs.append_log", "workers.enrol", "workers.sync"}
OF_THE_CLOUD = {
    "cloud.instance",
    "cloud.drain_instances",
    "cloud.terminate_instances",
    "cloud.resume_pools",
    "cloud.drain_pools",
    "cloud.launch",
    "cloud.budget",
    "cloud.edit_budget",
    "cloud.delete_budget",
}  # here is neither pool nor instance
WITH_PASSWORDS = {"logins.log_in", "logins.password"}  # here nobody logs in
NOT_THERE = {"system.delete_token", "package.studio_package"}  # nobody's token, no package
THERE = sorted(set(OPERATIONS) - AGENTS - OF_THE_CLOUD - WITH_PASSWORDS - NOT_THERE)


@pytest.mark.parametrize("endpoint", THERE)
def test_what_is_there_is_answered_as_described(app: Flask, store: Store, endpoint: str) -> None:
    store.submit([a_group("g"), a_range("1-3"), a_job("j", affinity=("linux",), limits={"nuke": 1})])
    store.submit([a_job("old", affinity=("linux",), priority=255)])
    store.set_limit("nuke", 2)
    store.set_limit("spare", 1)
    store.create_account("spare", "a long secret", "user")
    hand = Hand(store, "w1", ("linux",))
    hand.finish(hand.take_one())
    assert store.archive_some(OLD, 1) == 1
    hand.fail(hand.take_one(), hand.take_one())
    store.drain_workers([hand.id])
    operation = schemathesis.openapi.from_wsgi("/api/openapi.json", app).find_operation_by_id(endpoint)
    ids = {**IDS, "job_id": OLD} if endpoint == "system.archived_job" else IDS
    places = {one.name: ids[one.name] for one in operation.path_parameters}
    body = {"body": BODIES.get(endpoint, {"ids": [1]}), "media_type": "application/json"} if operation.body else {}
    answer = operation.Case(path_parameters=places, **body).call_and_validate(checks=CHECKS, headers=NOT_A_FORM)
    assert answer.status_code in (200, 201)


A_PRICE = {"provider": "aws", "region": "r", "zone": "", "type": "t", "market": "spot", "source": "studio", "price_micro": 1}
BODIES: dict[str, dict[str, Any]] = {
    "cloud.create_budget": {"name": "new", "amount_micro": 1},
    "cloud.put_prices": {"prices": [{**A_PRICE, "currency": "USD"}]},
    "jobs.submit": {"jobs": [{"title": "new", "command": "true"}]},
    "jobs.append_frames": {"frames": "7-9", "command": "render {frame}"},
    "jobs.edit": {"ids": [1], "changes": {"priority": 3}},
    "jobs.edits": {"edits": [{"ids": [1], "changes": {"title": "t"}}]},
    "workers.discover": {"nonce": "0" * 32},
    "workers.edit": {"ids": [1], "changes": {"note": "new"}},
    "limits.put": {"maximum": 3},
    "system.create_token": {"kind": "enrol"},
    "logins.create_user": {"name": "new", "password": "a long secret"},
    "logins.edit_user": {"role": "wrangler"},
}
