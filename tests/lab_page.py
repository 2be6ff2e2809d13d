"""A page for tests of the lab: sends commands to a session without a browser and keeps what comes back."""

from __future__ import annotations

from typing import Any

import torch

from eclab.widgets.messages import Message
from eclab.widgets.opening import first_setup
from eclab.widgets.session import LabSession


class Page:
    """Sends commands to a session and keeps what comes back."""

    def __init__(self, model: Any = None, x: Any = None, y: Any = None, data: Any = None, **settings: Any) -> None:
        self.got: list[Message] = []
        settings = {"device": "cpu", **settings}
        self.session = LabSession(first_setup(model, x, y, data, settings), self.got.append)
        # charts are another test's business, and slow
        self.session.defer = lambda make, then: None

    def send(self, cmd: str, **arguments: Any) -> list[Message]:
        before = len(self.got)
        self.session.handle({"cmd": cmd, "id": "1:1", **arguments})
        return self.got[before:]

    def ask(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """The one answer to a command."""
        answers = [message.content for message in self.send(cmd, **arguments) if "id" in message.content]
        assert len(answers) == 1, answers
        return answers[0]

    def error(self, cmd: str, **arguments: Any) -> str:
        answer = self.ask(cmd, **arguments)
        assert answer["type"] == "message"
        assert answer["level"] == "error"
        assert answer["id"] == "1:1"
        return str(answer["text"])

    def state(self) -> dict[str, Any]:
        return self.session.state().content

    def frame(self) -> Message:
        return self.session.frame(1)

    def weights(self) -> list[torch.Tensor]:
        return [value.clone() for lane in self.session.bench.lanes for value in lane.net.model.state_dict().values()]

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.send("step")


def same_weights(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
