// Publishes a fixed set of bodies with Node's fetch: publish URL TOPIC FOLDER.

import { readFile } from "node:fs/promises";
import { join } from "node:path";

const [url, topic, folder] = process.argv.slice(2);
const file = (name) => readFile(join(folder, name));

async function post(name, target, body, options = {}) {
  const answer = await fetch(url + target + topic, { method: "POST", body, ...options });
  console.log(name, answer.status, await answer.text());
}

await post("bytes", "/pub?topic=", await file("bytes"));
await post("large", "/pub?topic=", await file("large"));
await post("empty", "/pub?topic=", "");
await post("lines", "/mpub?topic=", await file("lines"));
await post("batch", "/mpub?binary=true&topic=", await file("batch"));
// A stream goes out in chunks.
await post("chunks", "/pub?topic=", new Blob([await file("bytes")]).stream(), { duplex: "half" });
