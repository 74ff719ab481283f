"""A balancer over several endpoints, over real HTTP and in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import FakeTransport, VirtualRuntime, chat_content
from servers import Pause, ScriptedServer, chat_body, http_reply

from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ConfigError,
    LLMError,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.manager import ModelManager
from tinytroupe.llm.request import Call, CallOptions, Request, RetryPolicy, chat_request
from tinytroupe.llm.rules.routes import STRATEGIES
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.adapted import ModelAdapterBase
from tinytroupe.llm.transports.endpoint import Endpoint

PATIENT = ClientDefaults(retry=RetryPolicy(max_attempts=6, waiting_seconds=0.0))


def ask(text: str = "Hi") -> Request:
    return chat_request("fake", [{"role": "user", "content": text}])


def failing(error: type[LLMError], **facts: Any) -> FakeTransport:
    def answer(attempt: Any) -> bytes:
        raise error("no", **facts)

    return FakeTransport(answer)


def route(*transports: Any, strategy: Any = "round_robin", **named: Any) -> Route:
    endpoints = [Endpoint(f"e{index}", each, **named) for index, each in enumerate(transports)]
    return Route(endpoints, strategy)


class Watched(ScriptedServer):
    """A server that remembers when each request came."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.times: list[float] = []
        super().__init__(*args, **options)

    def _take_reply(self, request: Any) -> Any:
        self.times.append(time.monotonic())
        return super()._take_reply(request)


def test_no_call_is_lost_where_one_endpoint_limits_and_one_hangs() -> None:
    """Of 1,000 calls none is lost, and none reaches an endpoint while it cools down."""
    pause_seconds = 2.0
    limits = http_reply(
        429, {"error": {"message": "slow down"}}, {"retry-after": str(int(pause_seconds))}
    )
    with (
        ScriptedServer(then=http_reply(body=chat_body("fine"))) as fine,
        Watched(then=limits) as limiting,
        ScriptedServer(then=[Pause(60)]) as hanging,
    ):
        models = {
            "fine": {"base_url": fine.base_url, "model": "m"},
            "limiting": {"base_url": limiting.base_url, "model": "m"},
            "hanging": {"base_url": hanging.base_url, "model": "m", "timeout": 0.5},
        }
        manager = ModelManager({"models": models}, store=MemoryStore())
        model = manager.configure_load_balancer(strategy="round_robin")
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda number: model(f"question {number}"), range(1000)))
            time.sleep(pause_seconds)
            answers += list(pool.map(lambda number: model(f"later {number}"), range(50)))
        manager.close()
    assert [answer.text for answer in answers] == ["fine"] * 1050
    assert {answer.model_info["config_name"] for answer in answers} == {"fine"}
    assert len(fine.requests) == 1050
    # The first volley was under way before anybody knew; after it there is a pause, then a probe.
    first = limiting.times[0]
    volley = [at for at in limiting.times if at - first < 0.5]
    during = [at for at in limiting.times if 0.5 <= at - first < pause_seconds]
    assert len(volley) <= 50
    assert during == []
    assert len(limiting.times) > len(volley)
    assert len(hanging.requests) < 100


def test_no_call_reaches_an_endpoint_that_cools_down() -> None:
    """From the moment its 429 is known until its Retry-After is over, nobody asks an endpoint."""
    runtime = VirtualRuntime()
    asked: list[float] = []

    def limit(attempt: Any) -> bytes:
        asked.append(runtime.time)
        raise RateLimited("slow down", retry_after_seconds=30.0)

    client = Client(route(FakeTransport(limit), FakeTransport()), None, PATIENT, runtime=runtime)
    for number in range(100):
        runtime.time += 1.0
        assert client.send(ask(str(number))).endpoint == "fake"
    assert all(later - earlier >= 30.0 for earlier, later in itertools.pairwise(asked))
    assert len(asked) == 4


@pytest.mark.parametrize("strategy", ["weighted", "round_robin"])
def test_shares_are_those_of_the_weights(strategy: str) -> None:
    """When all endpoints are well, each gets its share of 1,000 real calls within 5 %."""
    weights = {"one": 1.0, "two": 2.0, "five": 5.0}
    servers = {name: ScriptedServer(then=http_reply(body=chat_body(name))) for name in weights}
    models = {
        name: {"base_url": server.base_url, "model": "m", "weight": weights[name]}
        for name, server in servers.items()
    }
    manager = ModelManager({"models": models}, store=MemoryStore())
    model = manager.configure_load_balancer(strategy=strategy)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: model(f"question {number}"), range(1000)))
    manager.close()
    for server in servers.values():
        server.close()
    counted = Counter(answer.model_info["config_name"] for answer in answers)
    assert all(answer.text == answer.model_info["config_name"] for answer in answers)
    shares = weights if strategy == "weighted" else dict.fromkeys(weights, 1.0)
    for name, share in shares.items():
        assert counted[name] == pytest.approx(1000 * share / sum(shares.values()), rel=0.05)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_leaves_out_what_is_down(colour: Any, strategy: str) -> None:
    """Whatever the strategy, calls are answered while one endpoint is left."""
    down, well = failing(ServerFault), FakeTransport()
    client = colour.make_client(route(down, well, strategy=strategy), None, PATIENT)
    for number in range(5):
        assert client.send(ask(str(number))).text == f"You said: {number}"
    assert len(down.attempts) <= 1


def test_an_endpoint_that_failed_is_not_asked_again_in_the_same_call(colour: Any) -> None:
    """A call asks every other endpoint before it asks one twice, and waits for none of them."""
    transports = [failing(ServerFault), failing(TimedOut), failing(ServerFault), FakeTransport()]
    client = colour.make_client(route(*transports), None, PATIENT)
    response = client.send(ask())
    assert response.attempts == 4
    assert [len(transport.attempts) for transport in transports] == [1, 1, 1, 1]


def test_a_wrong_key_at_one_endpoint_costs_no_call(colour: Any) -> None:
    """What only people can mend at one endpoint is answered by another."""
    client = colour.make_client(
        route(failing(AuthenticationFailed, status=401), FakeTransport()), None, PATIENT
    )
    assert client.send(ask()).text


def test_wrong_keys_everywhere_are_said_at_once(colour: Any) -> None:
    """Where every endpoint refuses, the error names one of them and nobody waits."""
    transports = [failing(AuthenticationFailed, status=401) for _ in range(3)]
    client = colour.make_client(route(*transports), None, PATIENT)
    for _ in range(2):
        with pytest.raises(AuthenticationFailed, match="endpoint e") as caught:
            client.send(ask())
        assert caught.value.attempts <= 3


def test_a_bad_request_is_nobody_s_fault(colour: Any) -> None:
    """A request that every endpoint would refuse is asked once, and no endpoint rests for it."""
    transports = [failing(BadRequest), failing(BadRequest)]
    client = colour.make_client(route(*transports), None, PATIENT)
    with pytest.raises(BadRequest):
        client.send(ask())
    assert sum(len(transport.attempts) for transport in transports) == 1
    assert all(standing.failures == 0 for standing in client.inner.route.standings.values())


def test_the_call_waits_for_the_first_endpoint_that_is_up() -> None:
    """Where all endpoints rest, a call waits exactly until the first may be asked."""
    runtime = VirtualRuntime()
    state = {"well": False}

    def answer(attempt: Any) -> bytes:
        if state["well"]:
            return chat_content("well")
        raise RateLimited("slow down", retry_after_seconds=7.0)

    def later(attempt: Any) -> bytes:
        state["well"] = True
        raise RateLimited("slow down", retry_after_seconds=50.0)

    both = route(FakeTransport(answer), FakeTransport(later))
    client = Client(both, None, PATIENT, runtime=runtime)
    assert client.send(ask()).text == "well"
    assert [seconds for seconds in runtime.sleeps if seconds] == [7.0]


def test_rests_longer_than_a_minute_are_an_error() -> None:
    """Where all endpoints rest for long, the error says how long instead of waiting."""
    transports = [failing(RateLimited, retry_after_seconds=3600.0) for _ in range(2)]
    client = Client(route(*transports), None, PATIENT, runtime=VirtualRuntime())
    with pytest.raises(RateLimited):
        client.send(ask())
    with pytest.raises(RateLimited, match="3600 s") as caught:
        client.send(ask("again"))
    assert caught.value.retry_after_seconds == pytest.approx(3600.0)


def test_rests_beyond_the_deadline_are_an_error() -> None:
    """A call does not wait for an endpoint that is up only after its deadline."""
    transports = [failing(RateLimited, retry_after_seconds=30.0) for _ in range(2)]
    client = Client(route(*transports), None, PATIENT, runtime=VirtualRuntime())
    with pytest.raises(LLMError, match="no"):
        client.send(Call(ask(), CallOptions(deadline_seconds=5.0)))
    with pytest.raises(TimedOut, match="deadline"):
        client.send(Call(ask("again"), CallOptions(deadline_seconds=5.0)))


def test_fallbacks_are_asked_in_order(colour: Any) -> None:
    """Fallbacks are asked only when the main endpoints are down, the first one first."""
    main, first, second = failing(ServerFault), failing(ServerFault), FakeTransport()
    endpoints = [
        Endpoint("main", main),
        Endpoint("second", second, tier=2),
        Endpoint("first", first, tier=1),
    ]
    client = colour.make_client(Route(endpoints), None, PATIENT)
    assert client.send(ask()).text
    assert [len(each.attempts) for each in (main, first, second)] == [1, 1, 1]


def test_fallbacks_rest_while_all_is_well(colour: Any) -> None:
    """A fallback gets no call while a main endpoint is up."""
    spare = FakeTransport()
    endpoints = [Endpoint("main", FakeTransport()), Endpoint("spare", spare, tier=1)]
    client = colour.make_client(Route(endpoints), None, PATIENT)
    for number in range(10):
        client.send(ask(str(number)))
    assert spare.attempts == []


def test_a_slow_endpoint_is_left_for_the_fallback() -> None:
    """An endpoint that does not answer within its own time-out is left for the next."""
    with (
        ScriptedServer(then=[Pause(30)]) as slow,
        ScriptedServer(then=http_reply(body=chat_body("quick"))) as quick,
    ):
        models = {
            "slow": {"base_url": slow.base_url, "timeout": 0.3, "fallback": ["quick"]},
            "quick": {"base_url": quick.base_url, "model": "other", "temperature": 0.1},
        }
        manager = ModelManager({"models": models}, store=MemoryStore())
        started = time.monotonic()
        answer = manager.get_model("slow")("Hello")
        assert time.monotonic() - started < 5
        assert answer.text == "quick"
        assert answer.model_info["config_name"] == "quick"
        assert answer.model_info["model_name"] == "other"
        body = quick.requests[0].json()
        assert (body["model"], body["temperature"]) == ("other", 0.1)
        assert slow.requests[0].json()["model"] == "slow"
        manager.close()


def test_answers_of_a_fallback_are_not_those_of_the_model() -> None:
    """What a fallback of another name said is never served as the model's own answer."""
    with ScriptedServer(then=http_reply(body=chat_body("from b"))) as server:
        store = MemoryStore()
        dead = "http://127.0.0.1:9/v1"
        manager = ModelManager(
            {
                "models": {
                    "a": {"base_url": dead, "fallback": "b"},
                    "b": {"base_url": server.base_url},
                }
            },
            store=store,
        )
        assert manager.get_model("a")("Hello").text == "from b"
        alone = ModelManager({"models": {"a": {"base_url": server.base_url}}}, store=store)
        assert alone.get_model("a")("Hello").model_info["origin"] == "live"
        manager.close()
        alone.close()


def test_a_route_serves_both_colours() -> None:
    """Clients of both colours over one route know of each other's failures."""
    down = failing(ServerFault)
    both = route(down, FakeTransport())
    client, other = Client(both, None, PATIENT), AsyncClient(both, None, PATIENT)
    client.send(ask("a"))
    asyncio.run(other.send(ask("b")))
    assert len(down.attempts) == 1


def test_least_busy_and_latency_prefer_the_quick_one() -> None:
    """With a slow and a quick endpoint, the quick one gets most of the calls."""
    for strategy in ("least_busy", "latency"):
        slow_reply = [Pause(0.1), http_reply(body=chat_body("slow"))]
        with (
            ScriptedServer(then=slow_reply) as slow,
            ScriptedServer(then=http_reply(body=chat_body("quick"))) as quick,
        ):
            models = {
                "slow": {"base_url": slow.base_url, "model": "m"},
                "quick": {"base_url": quick.base_url, "model": "m"},
            }
            manager = ModelManager({"models": models}, store=MemoryStore())
            model = manager.configure_load_balancer(strategy=strategy)
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda number, ask=model: ask(f"q{number}"), range(200)))
            manager.close()
        counted = Counter(answer.text for answer in answers)
        assert counted["quick"] > 2 * counted["slow"], (strategy, counted)


def test_one_endpoint_costs_no_route() -> None:
    """With a single endpoint, errors name none and the waits are those of the policy."""
    runtime = VirtualRuntime()
    policy = RetryPolicy(max_attempts=4, waiting_seconds=2.0, jitter=False)
    client = Client(failing(ServerFault), None, ClientDefaults(retry=policy), runtime=runtime)
    with pytest.raises(ServerFault) as caught:
        client.send(ask())
    assert caught.value.endpoint == ""
    assert runtime.sleeps == [2.0, 4.0, 8.0]


def test_a_balancer_of_users_models() -> None:
    """A registered model gets cache, retries and balancing like the built-in ones."""

    asked: Counter[str] = Counter()

    class Parrot(ModelAdapterBase):
        def __call__(self, messages: list[dict[str, Any]], **parameters: Any) -> str:
            asked[self.config_name] += 1
            if self.settings.get("lame"):
                raise ConnectionError("no beak")
            return f"{messages[-1]['content']}!"

    manager = ModelManager({}, store=MemoryStore())
    manager.register("parrot", Parrot)
    manager.load_model_configs(
        [
            {"config_name": "lame", "model_type": "parrot", "model_name": "p", "lame": True},
            {"config_name": "fit", "model_type": "parrot", "model_name": "p"},
        ]
    )
    model = manager.configure_load_balancer()
    assert model("Hello").text == "Hello!"
    assert model("Hello").model_info == {
        "config_name": "fit",
        "model_name": "p",
        "model": "p",
        "endpoint": "fit",
        "origin": "cache",
    }
    assert asyncio.run(model.acall("Async")).text == "Async!"
    assert asked == {"lame": 1, "fit": 2}


def test_an_adapter_s_own_acall_runs_on_the_loop() -> None:
    """Where a model has `acall`, event loops use it; else its `__call__` runs on a thread."""
    threads: list[threading.Thread] = []

    class Plain(ModelAdapterBase):
        def __call__(self, messages: list[dict[str, Any]], **parameters: Any) -> str:
            threads.append(threading.current_thread())
            return "plain"

    class Both(Plain):
        async def acall(self, messages: list[dict[str, Any]], **parameters: Any) -> dict[str, Any]:
            threads.append(threading.current_thread())
            return {"role": "assistant", "content": "awaited"}

    manager = ModelManager({}, store=MemoryStore())
    manager.register("plain", Plain)
    manager.register("both", Both)
    manager.load_model_configs(
        [{"config_name": name, "model_type": name} for name in ("plain", "both")]
    )
    texts = [asyncio.run(manager.get_model(name).acall("Hi")).text for name in ("plain", "both")]
    assert texts == ["plain", "awaited"]
    main = threading.current_thread()
    assert [thread is main for thread in threads] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"model_configs": []}, "no llm model to balance"),
        ({"strategy": "wieghted"}, "did you mean weighted"),
        ({"model_configs": ["a", "v"]}, "kind embedding"),
        ({"model_configs": ["a"], "fallback": ["v"]}, "kind embedding"),
        ({"model_configs": ["nobody"]}, "available are: a, v"),
        ({"model_type": "chatt"}, "did you mean chat"),
        ({"config_name": "a"}, "has this name already"),
    ],
)
def test_a_wrong_balancer_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    """Empty, mixed and misspelt balancers are errors that say what and where."""
    manager = ModelManager(
        {
            "models": {
                "a": {"provider": "rehearsal"},
                "v": {"model_type": "rehearsal_embedding"},
            }
        }
    )
    with pytest.raises(ConfigError, match=complaint):
        manager.configure_load_balancer(**arguments)


def test_embedding_balancer() -> None:
    """`get_embedding_model` returns the balancer of its kind."""
    models = {
        name: {"model_type": "rehearsal_embedding", "model": "vec"} for name in ("one", "two")
    }
    manager = ModelManager({"models": models}, store=MemoryStore())
    balancer = manager.configure_load_balancer(model_type="embedding", config_name="vectors")
    assert manager.get_embedding_model() is balancer
    answer = manager.get_embedding_model()(texts=["a", "b", "a"])
    assert len(answer.embeddings) == 3
    assert answer.embeddings[0] == answer.embeddings[2] != answer.embeddings[1]
    assert balancer("a").embedding == answer.embedding
