"""What the doors add to a live call of the client below them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from benchmarks.calls import PERSONA, QUESTION
from benchmarks.measure import Ratio, compare
from benchmarks.server import running
from tinytroupe.llm.client import Client
from tinytroupe.llm.manager import ModelManager
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.wrapper import LLM, LLMConfig

BOUND = 1.15


def measure_doors() -> Iterator[Ratio]:
    """The CPU of a live call through `get_model()(…)` and `LLM`, against `Client.send`."""
    numbers = itertools.count()

    def write_messages() -> list[dict[str, str]]:
        return [
            {"role": "system", "content": PERSONA},
            {"role": "user", "content": f"{QUESTION} {next(numbers)}"},
        ]

    with running() as url:
        parameters = {"temperature": 1.0, "max_tokens": 100}
        models = {"m": {"base_url": url, "api_key": "k", "model": "gpt-4o-mini", **parameters}}
        balanced = {name: dict(models["m"]) for name in ("one", "two", "three")}
        single = ModelManager({"models": models}, store=MemoryStore()).get_model()
        manager = ModelManager({"models": balanced}, store=MemoryStore())
        balancer = manager.configure_load_balancer()
        llm = LLM(LLMConfig(base_url=url, api_key="k", model="gpt-4o-mini", **parameters))
        stored = Client(OpenAITransport("k", url), MemoryStore())
        plain = Client(OpenAITransport("k", url))

        def send(client: Client) -> Callable[[], object]:
            return lambda: (
                client.send(chat_request("gpt-4o-mini", write_messages(), **parameters)).text
            )

        def read_content() -> object:
            return llm.chat_completion(write_messages()).choices[0].message.content

        doors: list[tuple[str, Callable[[], object], Client]] = [
            ("`get_model()(…)`", lambda: single(write_messages()).text, stored),
            ("a balancer over three", lambda: balancer(write_messages()).text, stored),
            ("`LLM.chat_completion`", read_content, plain),
        ]
        for name, call, client in doors:
            ratio, one, two = compare(call, send(client), 200, clock=time.process_time)
            detail = f"{one * 1e3:.3f} ms against {two * 1e3:.3f} ms"
            yield Ratio(f"CPU of a live call, {name} / `Client.send`", ratio, BOUND, detail)
        for closing in (llm, stored, plain, manager):
            closing.close()
