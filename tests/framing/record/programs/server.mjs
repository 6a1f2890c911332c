// Answers of Node: node server.mjs http|express|fastify PORT
import { createRequire } from "node:module";
const require = createRequire(process.env.NODE_MODULES + "/");
const [kind, port] = process.argv.slice(2);
const stream = (write, end) => { for (let i = 0; i < 3; i++) write(`part ${i}\r\n\r\n`); end(); };
if (kind === "http") {
  const http = require("node:http");
  http.createServer((q, a) => {
    if (q.url === "/text") a.end("hello\n");
    else if (q.url === "/none") { a.statusCode = 204; a.end(); }
    else if (q.url === "/stream") stream((x) => a.write(x), () => a.end());
    else if (q.url === "/hints") { a.writeEarlyHints({ link: "</a>; rel=preload" }); a.end("hello\n"); }
    else if (q.url === "/echo") q.pipe(a);
    else { a.statusCode = 404; a.end("no\n"); }
  }).listen(port, "127.0.0.1");
} else if (kind === "express") {
  const app = require("express")();
  app.get("/text", (q, a) => a.send("hello\n"));
  app.get("/none", (q, a) => a.status(204).end());
  app.get("/stream", (q, a) => stream((x) => a.write(x), () => a.end()));
  app.post("/echo", (q, a) => q.pipe(a));
  app.listen(port, "127.0.0.1");
} else {
  const app = require("fastify")();
  app.get("/text", async () => "hello\n");
  app.get("/none", (q, a) => { a.code(204).send(); });
  app.post("/echo", async (q) => q.body);
  app.addContentTypeParser("*", { parseAs: "string" }, (q, body, done) => done(null, body));
  app.listen({ port: Number(port), host: "127.0.0.1" });
}
