"""What schemathesis cannot know of this API. Loaded by it, in its own process."""

import itertools
from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis.core.parameters import ParameterLocation

# A token of no list is refused, as it should be; the empty one is the first page's.
schemathesis.openapi.format("page-token", strategies.just(""))

_DATES = strategies.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=strategies.just(UTC))
schemathesis.openapi.format("date-time", _DATES.map(lambda date: date.isoformat().replace("+00:00", "Z")))

_numbers = itertools.count(1)

_OPEN, _ENDED = {"waiting", "delayed", "blocked"}, {"completed", "failed", "cancelled", "expired"}
_STATES = {"active"} | _OPEN | _ENDED
#: The states that each verb of a bulk call takes.
_FITS = {
    "cancel": {"active"} | _OPEN,
    "retry": {"failed", "cancelled", "expired"},
    "promote": {"delayed"},
    "delete": _OPEN | _ENDED,
    "resolve": {"failed"},
}
_DIFFERENT = (["store", "disk"], ["disk", "store"])


@schemathesis.hook
def before_call(context: Any, case: Any, **kwargs: Any) -> None:
    """Enqueue under an id that was never there: a repeat within two minutes of a job that was deleted is answered as the first try was, and makes nothing."""
    call = case.operation.definition.raw.get("operationId")
    if call in ("enqueue", "updateJob", "updateQueue", "updateGroup", "bulkJobs") and isinstance(case.body, dict):
        _fit(case.body)
    if call == "updateQueue" and isinstance(case.body, dict) and isinstance(policy := case.body.get("policy"), dict):
        # Else the queue would rightly refuse the jobs of later calls. What is bad on purpose is to stay so.
        for name, least in (("maxPayloadBytes", 1 << 20), ("maxDepth", 1 << 20)):
            if isinstance(value := policy.get(name), int | float) and not isinstance(value, bool) and 1 <= value < least:
                policy[name] = least
    if call == "bulkJobs" and isinstance(case.body, dict) and isinstance(case.body.get("filter"), dict):
        _fit_states(case.body["filter"], case.body.get("verb"))
    if call in ("updateQueue", "updateGroup", "updateJob") and case.query and case.meta is not None and case.meta.is_negative_at(ParameterLocation.BODY):
        # What a mask does not name is passed over, and so is what is wrong with it.
        case.query.pop("updateMask", None)
    if call != "enqueue":
        return
    if isinstance(case.body, dict) and case.query and [case.query.get("durability"), case.body.get("durability")] in _DIFFERENT:
        # Each is good for itself, and two that differ are refused.
        del case.query["durability"]
    if isinstance(case.body, dict) and _is_good(case.body.get("id"), 100):
        case.body["id"] += f"-{next(_numbers)}"
    if _is_good((case.headers or {}).get("Idempotency-Key"), 200):
        case.headers["Idempotency-Key"] += f"-{next(_numbers)}"


def _fit(value: Any) -> None:
    """What a schema cannot say: a burst is at most its count, a longest wait at least its delay, and a label has 128 bytes at most."""
    if isinstance(value, list):
        for entry in value:
            _fit(entry)
    if not isinstance(value, dict):
        return
    for entry in value.values():
        _fit(entry)
    # A whole number with a point, 806.0, is an integer of JSON.
    burst, count = value.get("burst"), value.get("count")
    if "period" in value and isinstance(burst, int | float) and isinstance(count, int | float) and burst > count > 0:
        value["burst"] = count
    for name in ("labels", "requiredLabels"):
        if isinstance(labels := value.get(name), dict):
            value[name] = {key: text[:32] if isinstance(text, str) and len(text) <= 128 else text for key, text in labels.items()}
    if "maxWait" in value and "delay" in value and "key" in value:
        value["maxWait"] = value["delay"]


def _fit_states(wanted: dict[str, Any], verb: object) -> None:
    """Leave out the states that the verb does not fit, which are refused. What is no state is to stay."""
    states = wanted.get("states")
    if isinstance(states, list) and states and all(isinstance(state, str) and state in _STATES for state in states):
        wanted["states"] = [state for state in states if state in _FITS.get(str(verb), _STATES)]
        if not wanted["states"]:
            del wanted["states"]


def _is_good(text: object, most: int) -> bool:
    """Whether a number behind it leaves it as good as it was; what is bad on purpose is to stay so."""
    return isinstance(text, str) and 0 < len(text) <= most and text.isascii() and text.isprintable() and " " not in text
