"""Parse what the brokers of nodes answer: a malformed answer is a problem of its node alone."""

from typing import Any

from provisioner.adapters.ansible.play import HostEvent
from provisioner.adapters.ansible.results import UNREADABLE, check_bounds, host_problem, unreadable
from provisioner.domain.rollout.leases import BrokerAnswer
from provisioner.domain.values.problem import Problem


def parse_answers(event: HostEvent) -> tuple[BrokerAnswer, ...] | Problem:
    """Parse the final event of a node: the answers in the order of the requests, or why there are none."""
    if event.status != "ok":
        return host_problem(event)
    try:
        answers = event.result["record"]["answers"]
        check_bounds(answers)
        if not isinstance(answers, list):
            raise TypeError("no list of answers")
        return tuple(map(_parse_answer, answers))
    except UNREADABLE as error:
        return unreadable("the answer of the broker", error)


def _parse_answer(answer: Any) -> BrokerAnswer:
    parsed = BrokerAnswer.model_validate(answer)
    if (answer["ok"] is True) != (parsed.problem is None):
        raise ValueError("an answer has to be well or to have a problem")
    return parsed
