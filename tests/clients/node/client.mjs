// What OpenAI's client for Node makes of a server: node client.mjs URL BASE ADAPTER prints one JSON object.
import OpenAI from "openai";

const [url, base, adapter] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const asked = { temperature: 0, ignore_eos: true };
const found = {};

found.models = [];
for await (const model of await client.models.list()) found.models.push(model.id);
found.retrieved = (await client.models.retrieve(adapter)).id;

const completion = await client.completions.create({ ...asked, model: adapter, prompt: "abc", max_tokens: 6 });
found.completion = completion.choices[0].text;
found.usage = completion.usage;

const chat = await client.chat.completions.create({ ...asked, model: adapter, messages, max_completion_tokens: 6 });
found.chat = chat.choices[0].message.content;

found.streamed = "";
const stream = await client.chat.completions.create({
  ...asked,
  model: adapter,
  messages,
  max_completion_tokens: 6,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
  found.streamedUsage = chunk.usage ?? found.streamedUsage;
}

// The helper that gathers a stream's events into one answer.
const gathered = client.chat.completions.stream({ ...asked, model: base, messages, max_completion_tokens: 6 });
found.gathered = (await gathered.finalChatCompletion()).choices[0].message.content;

// A client that leaves in the middle.
const left = await client.completions.create({ ...asked, model: base, prompt: "abc", max_tokens: 200, stream: true });
for await (const chunk of left) {
  found.first = chunk.choices[0].text;
  break;
}

found.errors = [];
for (const body of [{ model: "nobody", prompt: "a" }, { model: base, prompt: "a", temperature: -1 }]) {
  try {
    await client.completions.create(body);
  } catch (error) {
    found.errors.push({ kind: error.constructor.name, status: error.status, code: error.code, param: error.param });
  }
}
console.log(JSON.stringify(found));
