"""Every error has a status, and a status tells a caller what to do."""

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from services.common import errors

EXAMPLES = [
    errors.InvalidRequest([errors.Violation(field="question", description="too long")]),
    errors.NotFound("survey", "abc"),
    errors.AlreadyExists("request_id", "r1", "spec.question"),
    errors.UpstreamFailed("arXiv", "answered 429", retry_after_s=2.5),
    errors.BudgetReached(1_000),
    errors.QueueFull(3, retry_after_s=1.0),
    errors.Overloaded(8, retry_after_s=0.5),
    errors.RateLimited(0.5, retry_after_s=1.5),
    errors.Unpriced("openai:x"),
    errors.NotReady("vector store", "set PAPERROUTE_EMBEDDING__STORE"),
    errors.NoSearchTerms("ask in English"),
    errors.Unauthenticated("no token"),
    errors.Forbidden("write"),
]


def classes_with_a_reason(kind: type[errors.PaperRouteError]) -> set[type[errors.PaperRouteError]]:
    """Return the classes below `kind` that callers can tell apart; one without a reason of its own has its parent's."""
    below = set().union(*map(classes_with_a_reason, kind.__subclasses__()))
    return below | ({kind} if "reason" in vars(kind) else set())


def test_every_class_has_an_example_and_a_reason_of_its_own():
    """A class without a status would reach callers as INTERNAL."""
    assert {type(each) for each in EXAMPLES} == classes_with_a_reason(errors.PaperRouteError)
    assert len({each.reason for each in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: error.reason)
def test_a_status_carries_code_and_reason(error: errors.PaperRouteError):
    status = errors.status_of(error)

    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "paperroute")
    assert status.code == code_pb2.Code.Value(error.code.name)
    assert error.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def test_a_request_with_very_many_broken_fields_still_fits_into_a_status():
    """GRPC drops a status above about 8 KiB, and the caller would learn nothing."""
    broken = [errors.Violation(field=f"papers[{n}].paper_id", description="画像" * 300) for n in range(500)]

    status = errors.status_of(errors.InvalidRequest(broken))

    detail = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(detail)
    named = len(detail.field_violations) - 1
    assert named > 5
    assert detail.field_violations[-1].description == f"and {500 - named} more"
    assert status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3 < 8_000
