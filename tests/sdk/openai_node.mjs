// The real `openai` Node package against a running gateway; see README.md beside this file.
//
// One function per behaviour. Each prints `ok NAME` or `FAIL NAME: reason`; the exit code is 0 only when
// at least one check ran and none failed. Names given as arguments select checks.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { spawnSync } from "node:child_process";
import http2 from "node:http2";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

// An `import` would only look for packages above this file; they are in the folder that `tests/run` fills.
const PEERS = new URL("../.peers/node/package.json", import.meta.url);
const peers = createRequire(PEERS);
const OpenAI = peers("openai");
const { zodFunction, zodResponseFormat } = peers("openai/helpers/zod");
const { z } = peers("zod");

// A hang must end as a failure, never as a stuck test run.
const WHOLE_RUN_MS = 240_000;
const CALL_MS = 30_000;
const CANCEL_LIMIT_MS = 100;
const CANCEL_TRIES = 5;
const PARALLEL_STREAMS = 16;
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;
const QUESTION = [{ role: "user", content: "Name three lighthouses and the years in which they were lit." }];

const LookupRate = z.object({ pair: z.string(), days: z.number().int() });
const Lighthouse = z.object({ name: z.string(), lit_in_year: z.number().int(), automatic: z.boolean() });

const checks = {};

function env(name, fallback) {
  const value = process.env[name] || fallback;
  assert.ok(value, `the environment variable ${name} is not set`);
  return value;
}

const model = () => env("FORETOKEN_MODEL");

function client(options = {}) {
  return new OpenAI({
    baseURL: env("FORETOKEN_BASE_URL"),
    apiKey: env("FORETOKEN_KEY"),
    timeout: CALL_MS,
    ...options,
  });
}

/** A client with the SDK's own retries on, and the list of requests that it really sent. */
function countingClient(options = {}) {
  const sent = [];
  const counting = (url, init) => {
    sent.push(String(url));
    return fetch(url, init);
  };
  return [client({ fetch: counting, ...options }), sent];
}

const ask = (asking, name, options = {}) =>
  asking.chat.completions.create({ model: name, messages: QUESTION, ...options });

async function raises(kind, call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    assert.ok(error instanceof kind, `wanted ${kind.name}, got ${error?.constructor?.name}: ${error}`);
    return error;
  }
  assert.fail(`no ${kind.name} was thrown, but came ${JSON.stringify(answer)?.slice(0, 200)}`);
}

async function refused(kind, status, code, call) {
  const error = await raises(kind, call);
  assert.equal(error.status, status, "status");
  assert.equal(error.code, code, "code");
  assert.ok(error.type, "the error has no type");
  assert.ok(ULID.test(error.requestID ?? ""), `the error's request id is ${error.requestID}`);
  return error;
}

async function simStats() {
  const answer = await fetch(env("FORETOKEN_SIM_URL").replace(/\/+$/, "") + "/sim/stats");
  return answer.json();
}

/** The provider's stats once it has seen one more cancelled request. */
async function waitForCancel(cancelledBefore) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const stats = await simStats();
    if (stats.cancelled > cancelledBefore) return stats;
    await sleep(10);
  }
  assert.fail("the provider never saw the request cancelled");
}

async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** Drains a chat stream, having checked the order that every stream must keep. */
async function readChat(stream) {
  const chunks = await collect(await stream);
  assert.ok(chunks.length, "the stream had no chunk");
  const choices = chunks.filter((chunk) => chunk.choices.length).map((chunk) => chunk.choices[0]);
  assert.equal(choices[0].delta.role, "assistant", "role in the first chunk");
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1, "number of different ids in one stream");
  const finishes = choices.flatMap((choice, index) => (choice.finish_reason ? [index] : []));
  assert.deepEqual(finishes, [choices.length - 1], "places of the finish reason");
  return { text: choices.map((choice) => choice.delta.content ?? "").join(""), chunks };
}

// --- chat ------------------------------------------------------------------------------------------------------------

checks.plain = async () => {
  const answer = await ask(client(), model());
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(answer.choices[0].message.content, "the content is empty");
};

checks.streamed_equals_plain = async () => {
  const whole = await ask(client(), model());
  const { text, chunks } = await readChat(ask(client(), model(), { stream: true }));
  assert.ok(chunks.length > 3, `only ${chunks.length} chunks: that is no stream`);
  assert.equal(text, whole.choices[0].message.content);
};

checks.usage_plain_and_streamed = async () => {
  const { usage } = await ask(client(), model());
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total");
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0, JSON.stringify(usage));
  const { chunks } = await readChat(ask(client(), model(), { stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, [], "choices of the usage chunk");
  assert.ok(chunks.every((chunk) => chunk.usage == null), "usage before the last chunk");
  for (const field of ["prompt_tokens", "completion_tokens", "total_tokens"]) {
    assert.equal(last.usage[field], usage[field], field);
  }
};

checks.no_usage_unless_asked = async () => {
  for (const options of [{}, { stream_options: { include_usage: false } }]) {
    const { chunks } = await readChat(ask(client(), model(), { stream: true, ...options }));
    assert.ok(chunks.every((chunk) => chunk.choices.length), `a chunk without choices, ${JSON.stringify(options)}`);
    assert.ok(chunks.every((chunk) => !chunk.usage), `usage came, ${JSON.stringify(options)}`);
  }
};

checks.stream_helper = async () => {
  const whole = await ask(client(), model());
  const stream = client().chat.completions.stream({ model: model(), messages: QUESTION });
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(text, whole.choices[0].message.content, "sum of the helper's deltas");
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content, "text of the helper");
};

// --- tools and schemas -----------------------------------------------------------------------------------------------

const forcedTool = () => ({
  model: model(),
  messages: [{ role: "user", content: "What was EUR/USD over seven days?" }],
  tools: [zodFunction({ name: "lookup_rate", parameters: LookupRate })],
  tool_choice: { type: "function", function: { name: "lookup_rate" } },
});

checks.forced_tool_call = async () => {
  const answer = await client().chat.completions.create(forcedTool());
  const calls = answer.choices[0].message.tool_calls ?? [];
  assert.equal(calls.length, 1, "number of calls");
  assert.equal(calls[0].function.name, "lookup_rate");
  assert.ok(calls[0].id, "the call has no id");
  LookupRate.parse(JSON.parse(calls[0].function.arguments));
};

checks.streamed_tool_call = async () => {
  const whole = (await client().chat.completions.create(forcedTool())).choices[0].message.tool_calls[0];
  const { chunks } = await readChat(client().chat.completions.create({ ...forcedTool(), stream: true }));
  const parts = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.ok(parts.length > 1, "the call came in one piece");
  assert.deepEqual([...new Set(parts.map((part) => part.index))], [0], "indices");
  assert.deepEqual(parts.map((part) => part.function?.name).filter(Boolean), ["lookup_rate"], "names");
  assert.equal(parts.filter((part) => part.id).length, 1, "number of ids");
  assert.equal(parts.map((part) => part.function?.arguments ?? "").join(""), whole.function.arguments, "arguments");
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
};

checks.streamed_tool_call_helper = async () => {
  const stream = client().chat.completions.stream(forcedTool());
  const final = await stream.finalChatCompletion();
  const call = final.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, "lookup_rate");
  LookupRate.parse(call.function.parsed_arguments);
};

checks.json_schema_parsed = async () => {
  const asked = {
    model: model(),
    messages: [{ role: "user", content: "One lighthouse, please." }],
    response_format: zodResponseFormat(Lighthouse, "lighthouse"),
  };
  const whole = (await client().chat.completions.parse(asked)).choices[0].message.parsed;
  Lighthouse.parse(whole);
  const final = await client().chat.completions.stream(asked).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, whole, "streamed object");
};

// --- the other endpoints ---------------------------------------------------------------------------------------------

checks.embeddings_in_both_encodings = async () => {
  const asked = { model: env("FORETOKEN_EMBEDDING_MODEL", model()), input: ["alpha", "beta"] };
  const decoded = await client().embeddings.create(asked);
  const floats = await client().embeddings.create({ ...asked, encoding_format: "float" });
  const base64 = await client().embeddings.create({ ...asked, encoding_format: "base64" });
  for (const [index, { embedding }] of decoded.data.entries()) {
    assert.ok(embedding.length && embedding.every(Number.isFinite), "the default is no list of numbers");
    const bytes = Buffer.from(base64.data[index].embedding, "base64");
    const sent = Array.from({ length: bytes.length / 4 }, (_, at) => bytes.readFloatLE(at * 4));
    assert.deepEqual(Array.from(embedding), sent, "decoded vector");
    const wanted = floats.data[index].embedding;
    assert.equal(embedding.length, wanted.length, "dimensions");
    assert.ok(wanted.every((value, at) => Math.abs(value - embedding[at]) < 1e-5), "the two encodings differ");
  }
  assert.ok(decoded.usage.total_tokens > 0, "no usage");
};

checks.responses_created = async () => {
  const answer = await client().responses.create({ model: model(), input: "Name one lighthouse." });
  assert.equal(answer.status, "completed");
  assert.ok(answer.output_text, "the text is empty");
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens, "total");
};

checks.responses_streamed = async () => {
  const asked = { model: model(), input: "Name one lighthouse." };
  const whole = await client().responses.create(asked);
  const events = await collect(await client().responses.create({ ...asked, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()], "sequence numbers");
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text, "sum of the deltas");
  assert.equal(events.at(-1).response.usage.total_tokens, whole.usage.total_tokens, "usage");
};

checks.responses_stream_helper = async () => {
  const asked = { model: model(), input: "Name one lighthouse." };
  const whole = await client().responses.create(asked);
  const final = await client().responses.stream(asked).finalResponse();
  assert.equal(final.status, "completed");
  assert.equal(final.output_text, whole.output_text);
};

checks.moderations = async () => {
  const answer = await client().moderations.create({
    model: env("FORETOKEN_MODERATION_MODEL", model()),
    input: ["hello", "world"],
  });
  assert.equal(answer.results.length, 2, "number of results");
  assert.equal(typeof answer.results[0].flagged, "boolean");
  assert.equal(typeof answer.results[0].categories["self-harm/intent"], "boolean");
  assert.equal(typeof answer.results[0].category_scores.violence, "number");
};

checks.images = async () => {
  const name = env("FORETOKEN_IMAGE_MODEL", model());
  const answer = await client().images.generate({ model: name, prompt: "a lighthouse", n: 1, size: "1024x1024" });
  assert.equal(answer.data.length, 1, "number of images");
  const image = Buffer.from(answer.data[0].b64_json, "base64");
  assert.equal(image.subarray(0, 8).toString("hex"), "89504e470d0a1a0a", "first bytes of the image");
};

checks.speech = async () => {
  const name = env("FORETOKEN_SPEECH_MODEL", model());
  const answer = await client().audio.speech.create({ model: name, voice: "alloy", input: "The light is lit." });
  assert.match(answer.headers.get("content-type"), /^audio\//);
  assert.ok((await answer.arrayBuffer()).byteLength, "no sound");
};

checks.models_listed = async () => {
  const listed = (await collect(await client().models.list())).map((entry) => entry.id);
  assert.ok(listed.includes(model()), `${model()} is not among ${listed}`);
  const denied = env("FORETOKEN_DENIED_MODEL");
  assert.ok(!listed.includes(denied), `${denied} is listed for a key that may not use it`);
};

checks.models_retrieved = async () => {
  const found = await client().models.retrieve(model());
  assert.deepEqual([found.id, found.object], [model(), "model"]);
  assert.ok(Number.isInteger(found.created) && found.owned_by, `incomplete: ${JSON.stringify(found)}`);
  const listed = await collect(await client().models.list());
  const slashed = process.env.FORETOKEN_SLASH_MODEL || listed.find((entry) => entry.id.includes("/"))?.id;
  assert.ok(slashed, "no model with a slash in its name is listed, so that case cannot be checked");
  assert.equal((await client().models.retrieve(slashed)).id, slashed);
  await refused(OpenAI.NotFoundError, 404, "model_not_found", () => client().models.retrieve("no-such/model"));
};

// --- refusals --------------------------------------------------------------------------------------------------------

checks.wrong_key = async () => {
  for (const stream of [false, true]) {
    const [asking, sent] = countingClient({ apiKey: "sk-ft-not-a-key-of-this-gateway" });
    await refused(OpenAI.AuthenticationError, 401, "invalid_api_key", () => ask(asking, model(), { stream }));
    assert.equal(sent.length, 1, "requests sent");
  }
};

checks.unknown_model = async () => {
  const [asking, sent] = countingClient();
  const error = await refused(OpenAI.NotFoundError, 404, "model_not_found", () => ask(asking, "no-such-model"));
  assert.equal(error.param, "model");
  assert.equal(sent.length, 1, "requests sent");
};

checks.model_not_allowed = async () => {
  const [asking, sent] = countingClient();
  const denied = env("FORETOKEN_DENIED_MODEL");
  await refused(OpenAI.PermissionDeniedError, 403, "model_not_allowed", () => ask(asking, denied));
  assert.equal(sent.length, 1, "requests sent");
};

checks.invalid_request = async () => {
  const [asking, sent] = countingClient();
  const error = await raises(OpenAI.BadRequestError, () => ask(asking, model(), { temperature: "warm" }));
  assert.equal(error.param, "temperature");
  assert.equal(sent.length, 1, "requests sent");
};

checks.rate_limited_upstream = async () => {
  const name = env("FORETOKEN_429_MODEL");
  for (const stream of [false, true]) {
    const asking = client({ maxRetries: 0 });
    const call = () => ask(asking, name, { stream });
    const error = await refused(OpenAI.RateLimitError, 429, "upstream_rate_limited", call);
    assert.equal(error.type, "rate_limit_error");
    const seconds = Number(error.headers.get("retry-after"));
    const milliseconds = Number(error.headers.get("retry-after-ms"));
    assert.ok(milliseconds > 0, `retry-after-ms is ${error.headers.get("retry-after-ms")}`);
    assert.equal(seconds, Math.max(1, Math.ceil(milliseconds / 1000)), "retry-after against retry-after-ms");
    assert.ok(seconds <= 60, `retry-after ${seconds}: clients would give up`);
  }
};

// --- connections -----------------------------------------------------------------------------------------------------

checks.request_ids = async () => {
  const ids = [(await ask(client(), model()))._request_id, (await ask(client(), model()))._request_id];
  for (const id of ids) assert.match(id ?? "", ULID);
  assert.notEqual(ids[0], ids[1], "two requests share one id");
  const { data, request_id } = await ask(client(), model(), { stream: true }).withResponse();
  assert.ok(ULID.test(request_id ?? ""), `the stream's request id is ${request_id}`);
  data.controller.abort();
};

checks.base_urls = async () => {
  const bare = env("FORETOKEN_BARE_URL").replace(/\/+$/, "");
  for (const tail of ["", "/", "/v1", "/v1/", "/v1/v1"]) {
    try {
      const asking = client({ baseURL: bare + tail });
      const answer = await ask(asking, model());
      const { text } = await readChat(ask(asking, model(), { stream: true }));
      assert.equal(text, answer.choices[0].message.content);
    } catch (error) {
      throw new Error(`base URL ${bare + tail}: ${error}`, { cause: error });
    }
  }
};

/** A `fetch` over one HTTP/2 connection: by prior knowledge for http://, by ALPN for https://. */
function http2Fetch(session) {
  return (url, init = {}) =>
    new Promise((resolve, reject) => {
      const { pathname, search } = new URL(url);
      const headers = Object.fromEntries(new Headers(init.headers));
      const stream = session.request({ ":method": init.method ?? "GET", ":path": pathname + search, ...headers });
      const abort = () => stream.close(http2.constants.NGHTTP2_CANCEL);
      init.signal?.addEventListener("abort", abort, { once: true });
      stream.on("error", reject);
      stream.on("response", (fields) => {
        const pairs = Object.entries(fields).filter(([name]) => !name.startsWith(":"));
        const body = Readable.toWeb(stream);
        resolve(new Response(body, { status: fields[":status"], headers: pairs.map(([k, v]) => [k, String(v)]) }));
      });
      stream.end(init.body);
    });
}

async function overHttp2(base, options, use) {
  const session = http2.connect(new URL(base).origin, options);
  // Reported by the request that suffers from it; without a listener it would end the process.
  session.on("error", () => {});
  try {
    return await use(client({ baseURL: base, fetch: http2Fetch(session), maxRetries: 0 }), session);
  } finally {
    session.destroy();
  }
}

async function bothWays(asking) {
  const answer = await ask(asking, model());
  const { text } = await readChat(ask(asking, model(), { stream: true }));
  assert.equal(text, answer.choices[0].message.content);
}

checks.h2c = () => overHttp2(env("FORETOKEN_H2C_URL"), {}, bothWays);

checks.tls = async () => {
  // The CA comes by NODE_EXTRA_CA_CERTS, which the start of this script sets.
  const base = env("FORETOKEN_TLS_URL");
  await bothWays(client({ baseURL: base }));
  const ca = readFileSync(env("FORETOKEN_TLS_CA"));
  await overHttp2(base, { ca }, async (asking, session) => {
    await bothWays(asking);
    assert.equal(session.alpnProtocol, "h2");
  });
};

async function allCanaries(asking) {
  const tokens = Array.from({ length: PARALLEL_STREAMS }, () => randomUUID().replaceAll("-", ""));
  const texts = await Promise.all(
    tokens.map(async (token) => {
      const messages = [{ role: "user", content: `Say it back: canary:${token}` }];
      return (await readChat(asking.chat.completions.create({ model: model(), messages, stream: true }))).text;
    }),
  );
  for (const [index, token] of tokens.entries()) {
    const found = new Set(Array.from(texts[index].matchAll(/canary:([0-9a-f]{32})/g), (match) => match[1]));
    assert.deepEqual([...found], [token], "canaries in one stream");
  }
}

checks.parallel_streams = () => allCanaries(client());

checks.parallel_streams_h2c = () => overHttp2(env("FORETOKEN_H2C_URL"), {}, allCanaries);

/** Milliseconds from leaving a stream to the moment at which the provider saw it. */
async function cancelOnce(asking) {
  const before = (await simStats()).cancelled;
  const stream = await ask(asking, model(), { stream: true, max_completion_tokens: 4000 });
  let closedMs;
  let pieces = 0;
  for await (const chunk of stream) {
    assert.ok(!chunk.choices[0]?.finish_reason, "the answer is too short to cancel");
    if (++pieces === 3) {
      closedMs = Date.now();
      break; // leaving the loop is how callers of this SDK cancel: it aborts the request
    }
  }
  const { cancels } = await waitForCancel(before);
  const late = cancels.map((cancel) => cancel.time_unix_us / 1000 - closedMs).filter((value) => value > -5);
  assert.ok(late.length, "the provider cancelled the request before the caller closed it");
  return Math.min(...late);
}

async function cancelsInTime(asking) {
  // The limit is the gateway's; a busy machine may add its own delay, so the best of a few tries counts.
  const late = [];
  while (late.length < CANCEL_TRIES && !(Math.min(...late) <= CANCEL_LIMIT_MS)) late.push(await cancelOnce(asking));
  assert.ok(Math.min(...late) <= CANCEL_LIMIT_MS, `the provider saw it after ${late} ms`);
}

checks.cancel_in_mid_stream = () => cancelsInTime(client());

checks.cancel_in_mid_stream_h2c = () => overHttp2(env("FORETOKEN_H2C_URL"), {}, cancelsInTime);

/** A caller who stops waiting gets the SDK's own error, and the provider is set free too. */
checks.client_timeout = async () => {
  const before = (await simStats()).cancelled;
  const stalling = env("FORETOKEN_STALL_MODEL", "sim-stall-head");
  await raises(OpenAI.APIConnectionTimeoutError, () => ask(client({ timeout: 500, maxRetries: 0 }), stalling));
  await waitForCancel(before);
};

// --- runner ----------------------------------------------------------------------------------------------------------

async function main(wanted) {
  const chosen = Object.keys(checks).filter((name) => !wanted.length || wanted.includes(name));
  let failed = 0;
  for (const name of chosen) {
    try {
      await checks[name]();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 600)}`);
      console.error(error);
    }
  }
  const { version } = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", PEERS)));
  console.log(`openai ${version}, Node ${process.versions.node}: ${chosen.length - failed} ok, ${failed} failed`);
  const unknown = wanted.filter((name) => !(name in checks));
  if (unknown.length) console.log(`FAIL no such check: ${unknown.join(", ")}`);
  return chosen.length && !failed && !unknown.length ? 0 : 1;
}

const authority = process.env.FORETOKEN_TLS_CA;
if (authority && process.env.NODE_EXTRA_CA_CERTS !== authority) {
  // Node reads extra authorities only when it starts, and its `fetch` takes none in any other way.
  const again = [fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  const surroundings = { ...process.env, NODE_EXTRA_CA_CERTS: authority };
  const { status } = spawnSync(process.execPath, again, { env: surroundings, stdio: "inherit" });
  process.exit(status ?? 1);
}
setTimeout(() => {
  console.log(`FAIL whole run: not done after ${WHOLE_RUN_MS} ms`);
  process.exit(1);
}, WHOLE_RUN_MS).unref();
process.exit(await main(process.argv.slice(2)));
