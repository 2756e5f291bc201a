// Rows as lines of JSON: integers of 64 bits are strings (integers = "text"), because a number of JavaScript has 53 bits.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";

export async function* rows(file) {
  const input = file ? createReadStream(file) : process.stdin;
  for await (const line of createInterface({ input })) yield JSON.parse(line);
}

export function write(row) {
  process.stdout.write(JSON.stringify(row, (_, value) => (typeof value === "bigint" ? String(value) : value)) + "\n");
}
