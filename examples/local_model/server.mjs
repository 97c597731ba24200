// A small model on this machine behind OpenAI's chat completions: node server.mjs WEIGHTS [PORT]
//
// It listens on the loopback interface alone, prints the port, and a line for each request.
import { createServer } from "node:http";
import { getLlama, LlamaChatSession } from "node-llama-cpp";

const [weights, port = "0"] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 1 });
const model = await llama.loadModel({ modelPath: weights });
const context = await model.createContext({ contextSize: 1024, threads: 1 });
const sequence = context.getSequence();
const text = (content) =>
  typeof content === "string" ? content : content.map((part) => part.text ?? "").join("\n");

let requests = 0;
let turn = Promise.resolve();

async function complete(body) {
  const messages = body.messages.map(({ role, content }) => ({ role, text: text(content ?? "") }));
  const asked = messages.pop().text;
  await sequence.clearHistory();
  const session = new LlamaChatSession({ contextSequence: sequence, autoDisposeSequence: false });
  session.setChatHistory(
    messages.map(({ role, text }) =>
      role === "assistant" ? { type: "model", response: [text] }
      : role === "user" ? { type: "user", text }
      : { type: "system", text },
    ),
  );
  const answer = await session.prompt(asked, {
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? 64,
    temperature: body.temperature ?? 0,
  });
  session.dispose();
  const count = (words) => model.tokenize(words).length;
  const prompt_tokens = count([...messages.map((one) => one.text), asked].join("\n"));
  const completion_tokens = count(answer);
  return {
    id: `local-${requests}`,
    object: "chat.completion",
    created: Math.floor(Date.now() / 1000),
    model: body.model,
    choices: [
      { index: 0, finish_reason: "stop", message: { role: "assistant", content: answer } },
    ],
    usage: { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens },
  };
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    requests += 1;
    // One conversation at a time: there is one context.
    turn = turn.then(async () => {
      try {
        const body = JSON.parse(Buffer.concat(chunks).toString());
        console.log(`request ${requests}: ${text(body.messages.at(-1).content).slice(0, 60)}`);
        const answer = JSON.stringify(await complete(body));
        response.writeHead(200, { "content-type": "application/json" }).end(answer);
      } catch (error) {
        const said = JSON.stringify({ error: { message: String(error) } });
        response.writeHead(500, { "content-type": "application/json" }).end(said);
      }
    });
  });
});
server.listen(Number(port), "127.0.0.1", () => console.log(`port ${server.address().port}`));
