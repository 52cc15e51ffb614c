// The same agent in JavaScript, for Node 18 or later: A2A_JWT=... node agent.mjs upper-1 http://127.0.0.1:9001
import { readFileSync } from "node:fs";

const [agentId, gateway = "http://127.0.0.1:9001"] = process.argv.slice(2);
const agent = `${gateway}/agents/${agentId}`;

function token() {
  const file = process.env.A2A_JWT_FILE;
  return file ? readFileSync(file, "utf8").trim() : process.env.A2A_JWT;
}

async function asked(method, url, body) {
  const headers = { "Content-Type": "application/json" };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status}: ${text}`);
  return text ? JSON.parse(text) : null;
}

for (;;) {
  try {
    await asked("POST", `${gateway}/agents/register`, { agent_id: agentId, services: ["upper"] });
    for (;;) {
      const { tasks } = await asked("GET", `${agent}/tasks?wait_s=20`);
      for (const { task_id, attempt, payload } of tasks) {
        const answer = { attempt, status: "completed", result: String(payload).toUpperCase() };
        await asked("POST", `${agent}/tasks/${task_id}/result`, answer);
      }
    }
  } catch (error) {
    console.error(error.message); // it registers again: the gateway may be another one, or the token a new one
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
