"""The real `openai` Python package against a running gateway; see README.md beside this file.

One function per behaviour. Each prints `ok NAME` or `FAIL NAME: reason`; the exit code is 0 only when
at least one check ran and none failed. Names given as arguments select checks.
"""

import asyncio
import base64
import faulthandler
import json
import math
import os
import re
import ssl
import struct
import sys
import threading
import time
import traceback
import urllib.request
import uuid

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

CHECKS = []
# A hang must end as a failure with a stack, never as a stuck test run.
WHOLE_RUN_SECONDS = 240
CALL_SECONDS = 30
CANCEL_LIMIT_MS = 100
CANCEL_TRIES = 5
PARALLEL_STREAMS = 16
ULID = re.compile(r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")
QUESTION = [{"role": "user", "content": "Name three lighthouses and the years in which they were lit."}]


# Whatever proxy the machine uses, everything here is on the machine itself.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"


class LookupRate(BaseModel):
    """Exchange rate of a currency pair."""

    pair: str
    days: int


class Lighthouse(BaseModel):
    name: str
    lit_in_year: int
    automatic: bool


def check(function):
    CHECKS.append(function)
    return function


def env(name, default=None):
    value = os.environ.get(name) or default
    if value is None:
        raise AssertionError(f"the environment variable {name} is not set")
    return value


def model():
    return env("FORETOKEN_MODEL")


def client(**options):
    options.setdefault("base_url", env("FORETOKEN_BASE_URL"))
    options.setdefault("api_key", env("FORETOKEN_KEY"))
    options.setdefault("timeout", CALL_SECONDS)
    return OpenAI(**options)


def counting_client(**options):
    """A client with the SDK's own retries on, and the list of requests that it really sent."""
    sent = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: sent.append(str(request.url))]})
    return client(http_client=http, **options), sent


def equal(got, wanted, what):
    assert got == wanted, f"{what}: got {got!r}, wanted {wanted!r}"


def raises(kind, call):
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised, but came {str(answer)[:200]}")


def refused(kind, status, code, call):
    error = raises(kind, call)
    equal(error.status_code, status, "status")
    equal(error.code, code, "code")
    assert error.type, "the error has no type"
    assert ULID.match(error.request_id or ""), f"the error's request id is {error.request_id!r}"
    return error


def sim_stats():
    with urllib.request.urlopen(env("FORETOKEN_SIM_URL").rstrip("/") + "/sim/stats", timeout=CALL_SECONDS) as answer:
        return json.load(answer)


def wait_for_cancel(cancelled_before):
    """The provider's stats once it has seen one more cancelled request."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        stats = sim_stats()
        if stats["cancelled"] > cancelled_before:
            return stats
        time.sleep(0.01)
    raise AssertionError("the provider never saw the request cancelled")


def read_chat(stream):
    """Drains a chat stream: (text, chunks), having checked the order every stream must keep."""
    chunks = list(stream)
    assert chunks, "the stream had no chunk"
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    equal(choices[0].delta.role, "assistant", "role in the first chunk")
    equal(len({chunk.id for chunk in chunks}), 1, "number of different ids in one stream")
    finishes = [index for index, choice in enumerate(choices) if choice.finish_reason]
    equal(finishes, [len(choices) - 1], "places of the finish reason")
    return "".join(choice.delta.content or "" for choice in choices), chunks


# --- chat -------------------------------------------------------------------------------------------------------------


@check
def plain():
    answer = client().chat.completions.create(model=model(), messages=QUESTION)
    equal(answer.object, "chat.completion", "object")
    equal(answer.choices[0].message.role, "assistant", "role")
    equal(answer.choices[0].finish_reason, "stop", "finish reason")
    assert answer.choices[0].message.content, "the content is empty"


@check
def streamed_equals_plain():
    whole = client().chat.completions.create(model=model(), messages=QUESTION)
    text, chunks = read_chat(client().chat.completions.create(model=model(), messages=QUESTION, stream=True))
    assert len(chunks) > 3, f"only {len(chunks)} chunks: that is no stream"
    equal(text, whole.choices[0].message.content, "streamed text")


@check
def usage_plain_and_streamed():
    whole = client().chat.completions.create(model=model(), messages=QUESTION)
    equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens, "total")
    assert whole.usage.prompt_tokens > 0 and whole.usage.completion_tokens > 0, f"usage {whole.usage}"
    stream = client().chat.completions.create(
        model=model(), messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    _, chunks = read_chat(stream)
    equal(chunks[-1].choices, [], "choices of the usage chunk")
    equal([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1), "usage before the last chunk")
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        equal(getattr(chunks[-1].usage, field), getattr(whole.usage, field), field)


@check
def no_usage_unless_asked():
    for options in ({}, {"stream_options": {"include_usage": False}}):
        stream = client().chat.completions.create(model=model(), messages=QUESTION, stream=True, **options)
        _, chunks = read_chat(stream)
        assert all(chunk.choices for chunk in chunks), f"a chunk without choices came, asked with {options}"
        assert not any(chunk.usage for chunk in chunks), f"usage came, asked with {options}"


@check
def stream_helper():
    whole = client().chat.completions.create(model=model(), messages=QUESTION)
    with client().chat.completions.stream(model=model(), messages=QUESTION) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    equal("".join(deltas), whole.choices[0].message.content, "sum of the helper's deltas")
    equal(final.choices[0].message.content, whole.choices[0].message.content, "text of the helper")
    equal(final.choices[0].message.role, "assistant", "role of the helper")


@check
def max_tokens_cut():
    answer = client().chat.completions.create(model=model(), messages=QUESTION, max_completion_tokens=3)
    equal(answer.choices[0].finish_reason, "length", "finish reason")
    assert answer.usage.completion_tokens <= 3, f"{answer.usage.completion_tokens} tokens"


# --- tools and schemas ------------------------------------------------------------------------------------------------


def forced_tool():
    tool = openai.pydantic_function_tool(LookupRate, name="lookup_rate")
    return {
        "model": model(),
        "messages": [{"role": "user", "content": "What was EUR/USD over seven days?"}],
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "lookup_rate"}},
    }


@check
def forced_tool_call():
    answer = client().chat.completions.create(**forced_tool())
    calls = answer.choices[0].message.tool_calls
    equal(len(calls or []), 1, "number of calls")
    equal(calls[0].function.name, "lookup_rate", "function")
    assert calls[0].id, "the call has no id"
    LookupRate.model_validate_json(calls[0].function.arguments)


@check
def streamed_tool_call():
    whole = client().chat.completions.create(**forced_tool()).choices[0].message.tool_calls[0]
    _, chunks = read_chat(client().chat.completions.create(stream=True, **forced_tool()))
    parts = [part for chunk in chunks for part in (chunk.choices[0].delta.tool_calls or [])]
    assert len(parts) > 1, "the call came in one piece"
    equal({part.index for part in parts}, {0}, "indices")
    equal([part.function.name for part in parts if part.function.name], ["lookup_rate"], "names")
    equal(len([part.id for part in parts if part.id]), 1, "number of ids")
    equal("".join(part.function.arguments or "" for part in parts), whole.function.arguments, "arguments")
    equal([c.choices[0].finish_reason for c in chunks][-1], "tool_calls", "finish reason")


@check
def streamed_tool_call_helper():
    with client().chat.completions.stream(**forced_tool()) as stream:
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    equal(call.function.name, "lookup_rate", "function")
    assert isinstance(call.function.parsed_arguments, LookupRate), f"parsed to {call.function.parsed_arguments!r}"


@check
def json_schema_parsed():
    messages = [{"role": "user", "content": "One lighthouse, please."}]
    answer = client().chat.completions.parse(model=model(), messages=messages, response_format=Lighthouse)
    whole = answer.choices[0].message.parsed
    assert isinstance(whole, Lighthouse), f"parsed to {whole!r}"
    with client().chat.completions.stream(model=model(), messages=messages, response_format=Lighthouse) as stream:
        equal(stream.get_final_completion().choices[0].message.parsed, whole, "streamed object")


# --- the other endpoints ----------------------------------------------------------------------------------------------


def embedding_model():
    return env("FORETOKEN_EMBEDDING_MODEL", model())


@check
def embeddings_base64_by_default():
    words = ["alpha", "beta"]
    raw = client().embeddings.with_raw_response.create(model=embedding_model(), input=words)
    wire = json.loads(raw.http_response.text)["data"]
    parsed = raw.parse()
    equal([item.index for item in parsed.data], [0, 1], "indices")
    for sent, item in zip(wire, parsed.data):
        assert isinstance(sent["embedding"], str), "the SDK asked for base64 but got something else"
        data = base64.b64decode(sent["embedding"])
        equal(list(item.embedding), list(struct.unpack(f"<{len(data) // 4}f", data)), "decoded vector")
    assert parsed.usage.total_tokens > 0, "no usage"


@check
def embeddings_as_floats():
    words = ["alpha", "beta"]
    floats = client().embeddings.create(model=embedding_model(), input=words, encoding_format="float").data
    decoded = client().embeddings.create(model=embedding_model(), input=words).data
    for left, right in zip(floats, decoded):
        equal(len(left.embedding), len(right.embedding), "dimensions")
        assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(left.embedding, right.embedding)), (
            "the two encodings differ"
        )
    assert floats[0].embedding != floats[1].embedding, "two words have one vector"


@check
def responses_created():
    answer = client().responses.create(model=model(), input="Name one lighthouse.")
    equal(answer.status, "completed", "status")
    assert answer.output_text, "the text is empty"
    equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens, "total")


@check
def responses_streamed():
    whole = client().responses.create(model=model(), input="Name one lighthouse.")
    events = list(client().responses.create(model=model(), input="Name one lighthouse.", stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))), "sequence numbers")
    equal(events[0].type, "response.created", "first event")
    equal(events[-1].type, "response.completed", "last event")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    equal("".join(deltas), whole.output_text, "sum of the deltas")
    equal(events[-1].response.usage.total_tokens, whole.usage.total_tokens, "usage")


@check
def responses_stream_helper():
    whole = client().responses.create(model=model(), input="Name one lighthouse.")
    with client().responses.stream(model=model(), input="Name one lighthouse.") as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    equal(final.status, "completed", "status")
    equal(final.output_text, whole.output_text, "text of the helper")


@check
def moderations():
    answer = client().moderations.create(model=env("FORETOKEN_MODERATION_MODEL", model()), input=["hello", "world"])
    equal(len(answer.results), 2, "number of results")
    assert answer.results[0].flagged in (True, False), "no verdict"
    assert answer.results[0].categories.self_harm_intent in (True, False), "a category is missing"
    assert isinstance(answer.results[0].category_scores.violence, float), "a score is missing"


@check
def images():
    name = env("FORETOKEN_IMAGE_MODEL", model())
    answer = client().images.generate(model=name, prompt="a lighthouse", n=1, size="1024x1024")
    equal(len(answer.data), 1, "number of images")
    image = base64.b64decode(answer.data[0].b64_json)
    equal(image[:8], b"\x89PNG\r\n\x1a\n", "first bytes of the image")


@check
def speech():
    ask = {"model": env("FORETOKEN_SPEECH_MODEL", model()), "voice": "alloy", "input": "The light is lit."}
    whole = client().audio.speech.create(**ask)
    assert whole.response.headers["content-type"].startswith("audio/"), whole.response.headers["content-type"]
    sound = whole.read()
    assert sound, "no sound"
    with client().audio.speech.with_streaming_response.create(**ask) as stream:
        equal(b"".join(stream.iter_bytes()), sound, "streamed sound")


@check
def models_listed():
    listed = [entry.id for entry in client().models.list()]
    assert model() in listed, f"{model()} is not among {listed}"
    denied = env("FORETOKEN_DENIED_MODEL")
    assert denied not in listed, f"{denied} is listed for a key that may not use it"


@check
def models_retrieved():
    found = client().models.retrieve(model())
    equal((found.id, found.object), (model(), "model"), "model")
    assert isinstance(found.created, int) and found.owned_by, f"incomplete: {found}"
    slashed = os.environ.get("FORETOKEN_SLASH_MODEL") or next(
        (entry.id for entry in client().models.list() if "/" in entry.id), None
    )
    assert slashed, "no model with a slash in its name is listed, so that case cannot be checked"
    equal(client().models.retrieve(slashed).id, slashed, "model with a slash")
    refused(openai.NotFoundError, 404, "model_not_found", lambda: client().models.retrieve("no-such/model"))


# --- refusals ---------------------------------------------------------------------------------------------------------


def ask(with_client, name, **options):
    return with_client.chat.completions.create(model=name, messages=QUESTION, **options)


@check
def wrong_key():
    for stream in (False, True):
        asking, sent = counting_client(api_key="sk-ft-not-a-key-of-this-gateway")
        refused(openai.AuthenticationError, 401, "invalid_api_key", lambda: ask(asking, model(), stream=stream))
        equal(len(sent), 1, "requests sent")


@check
def unknown_model():
    asking, sent = counting_client()
    error = refused(openai.NotFoundError, 404, "model_not_found", lambda: ask(asking, "no-such-model"))
    equal(error.param, "model", "param")
    equal(len(sent), 1, "requests sent")


@check
def model_not_allowed():
    asking, sent = counting_client()
    denied = env("FORETOKEN_DENIED_MODEL")
    refused(openai.PermissionDeniedError, 403, "model_not_allowed", lambda: ask(asking, denied))
    equal(len(sent), 1, "requests sent")


@check
def invalid_request():
    asking, sent = counting_client()
    error = raises(openai.BadRequestError, lambda: ask(asking, model(), temperature="warm"))
    equal(error.param, "temperature", "param")
    equal(len(sent), 1, "requests sent")


@check
def rate_limited_upstream():
    name = env("FORETOKEN_429_MODEL")
    for stream in (False, True):
        error = refused(
            openai.RateLimitError,
            429,
            "upstream_rate_limited",
            lambda: ask(client(max_retries=0), name, stream=stream),
        )
        headers = error.response.headers
        equal(error.type, "rate_limit_error", "type")
        seconds, milliseconds = int(headers["retry-after"]), float(headers["retry-after-ms"])
        equal(seconds, max(1, math.ceil(milliseconds / 1000)), "retry-after against retry-after-ms")
        assert seconds <= 60, f"retry-after {seconds}: clients would give up"


# --- connections ------------------------------------------------------------------------------------------------------


@check
def request_ids():
    first, second = (ask(client(), model()) for _ in range(2))
    for answer in (first, second):
        assert ULID.match(answer._request_id or ""), f"request id {answer._request_id!r}"
    assert first._request_id != second._request_id, "two requests share one id"
    stream = ask(client(), model(), stream=True)
    assert ULID.match(stream.response.headers.get("x-request-id", "")), "a stream has no request id"
    stream.close()


@check
def base_urls():
    bare = env("FORETOKEN_BARE_URL").rstrip("/")
    for base in (bare, bare + "/", bare + "/v1", bare + "/v1/", bare + "/v1/v1"):
        try:
            answer = ask(client(base_url=base), model())
            assert answer.choices[0].message.content, "empty"
            read_chat(ask(client(base_url=base), model(), stream=True))
        except Exception as error:
            raise AssertionError(f"base URL {base}: {error!r}") from error


@check
def h2c():
    http = openai.DefaultHttpxClient(http1=False, http2=True)
    asking = client(base_url=env("FORETOKEN_H2C_URL"), http_client=http)
    raw = asking.chat.completions.with_raw_response.create(model=model(), messages=QUESTION)
    equal(raw.http_response.http_version, "HTTP/2", "protocol")
    text, _ = read_chat(ask(asking, model(), stream=True))
    equal(text, raw.parse().choices[0].message.content, "streamed text")


@check
def tls():
    trust = ssl.create_default_context(cafile=env("FORETOKEN_TLS_CA"))
    for http2, protocol in ((False, "HTTP/1.1"), (True, "HTTP/2")):
        http = openai.DefaultHttpxClient(verify=trust, http2=http2)
        asking = client(base_url=env("FORETOKEN_TLS_URL"), http_client=http)
        raw = asking.chat.completions.with_raw_response.create(model=model(), messages=QUESTION)
        equal(raw.http_response.http_version, protocol, "protocol")
        text, _ = read_chat(ask(asking, model(), stream=True))
        equal(text, raw.parse().choices[0].message.content, "streamed text")
    # Without the CA the same call must fail, or the above has proved nothing about the certificate.
    distrusting = client(base_url=env("FORETOKEN_TLS_URL"), max_retries=0)
    raises(openai.APIConnectionError, lambda: ask(distrusting, model()))


async def canary_stream(asking, token):
    messages = [{"role": "user", "content": f"Say it back: canary:{token}"}]
    stream = await asking.chat.completions.create(model=model(), messages=messages, stream=True)
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    return text


async def all_canaries(base, http):
    tokens = [uuid.uuid4().hex for _ in range(PARALLEL_STREAMS)]
    async with AsyncOpenAI(
        base_url=base, api_key=env("FORETOKEN_KEY"), timeout=CALL_SECONDS, http_client=http
    ) as asking:
        texts = await asyncio.gather(*(canary_stream(asking, token) for token in tokens))
    for token, text in zip(tokens, texts):
        found = set(re.findall(r"canary:([0-9a-f]{32})", text))
        equal(found, {token}, "canaries in one stream")


@check
def parallel_streams():
    asyncio.run(all_canaries(env("FORETOKEN_BASE_URL"), openai.DefaultAsyncHttpxClient()))


@check
def parallel_streams_h2c():
    http = openai.DefaultAsyncHttpxClient(http1=False, http2=True)
    asyncio.run(all_canaries(env("FORETOKEN_H2C_URL"), http))


def cancel_once():
    """Milliseconds from the close of a stream to the moment at which the provider saw it."""
    before = sim_stats()["cancelled"]
    stream = ask(client(), model(), stream=True, max_completion_tokens=4000)
    pieces = []
    for chunk in stream:
        assert not (chunk.choices and chunk.choices[0].finish_reason), "the answer is too short to cancel"
        pieces.append(chunk)
        if len(pieces) == 3:
            break
    closed_us = time.time_ns() // 1000
    stream.close()
    cancels = wait_for_cancel(before)["cancels"]
    late = [late for late in ((cancel["time_unix_us"] - closed_us) / 1000 for cancel in cancels) if late > -5]
    assert late, "the provider cancelled the request before the caller closed it"
    return min(late)


@check
def cancel_in_mid_stream():
    # The limit is the gateway's; a busy machine may add its own delay, so the best of a few tries counts.
    late = []
    while len(late) < CANCEL_TRIES and not (late and min(late) <= CANCEL_LIMIT_MS):
        late.append(cancel_once())
    assert min(late) <= CANCEL_LIMIT_MS, f"the provider saw it after {late} ms"


@check
def client_timeout():
    """A caller who stops waiting gets the SDK's own error, and the provider is set free too."""
    before = sim_stats()["cancelled"]
    stalling = env("FORETOKEN_STALL_MODEL", "sim-stall-head")
    raises(openai.APITimeoutError, lambda: ask(client(timeout=0.5, max_retries=0), stalling))
    wait_for_cancel(before)


# --- runner -----------------------------------------------------------------------------------------------------------


def main(wanted):
    faulthandler.dump_traceback_later(WHOLE_RUN_SECONDS, exit=True)
    chosen = [function for function in CHECKS if not wanted or function.__name__ in wanted]
    failed = 0
    for function in chosen:
        try:
            function()
            print(f"ok {function.__name__}", flush=True)
        except Exception as error:
            failed += 1
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"FAIL {function.__name__}: {reason[:600]}", flush=True)
            traceback.print_exc()
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}: {len(chosen) - failed} ok, {failed} failed")
    unknown = set(wanted) - {function.__name__ for function in chosen}
    if unknown:
        print(f"FAIL no such check: {', '.join(sorted(unknown))}")
    return 0 if chosen and not failed and not unknown else 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Connections left open by a failed check must not keep the process alive.
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)
