// What a script here is given: the hub and topics as arguments; the token and a time limit in the environment.
// It prints one line of JSON for each update, and ends with its standard input or after the time limit.

const [hub, ...topics] = process.argv.slice(2);

export const url = new URL(hub);
for (const topic of topics) url.searchParams.append("match", topic);

export const headers = { Authorization: `Bearer ${process.env.TOKEN}` };

export function tell(id, data) {
  process.stdout.write(`${JSON.stringify({ id, data })}\n`);
}

setTimeout(() => process.exit(3), process.env.LIMIT * 1000);
process.stdin.on("end", () => process.exit(0)).resume();
