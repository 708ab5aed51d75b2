// Loaded before a program's own code (NODE_OPTIONS), because Node doesn't support HTTPS_PROXY before 24.5 (in version 22,
// before 22.21). With this, requests with `https` and `fetch` connect through the proxy, using CONNECT.
"use strict";
const http = require("node:http");
const https = require("node:https");
const tls = require("node:tls");

const [major, minor] = process.versions.node.split(".").map(Number);
const knows = major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21);
const address = process.env.HTTPS_PROXY;

if (address && !knows) {
  const proxy = new URL(address);
  const headers = {
    "proxy-authorization": "Basic " + Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64"),
  };

  const connect = (host, port, servername, done) => {
    const path = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    const request = http.request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path, headers, agent: false });
    request.once("error", done);
    request.once("connect", (answer, socket) => {
      if (answer.statusCode !== 200) {
        socket.destroy();
        done(new Error(`Token Vault refused the connection to ${path}; its message is on standard error`));
        return;
      }
      const secured = tls.connect({ socket, servername, ALPNProtocols: ["http/1.1"] });
      secured.once("secureConnect", () => done(null, secured));
      secured.once("error", done);
    });
    request.end();
  };

  class TunnelAgent extends https.Agent {
    createConnection(options, done) {
      connect(options.host, options.port || 443, options.servername || options.host, done);
    }
  }
  https.globalAgent = new TunnelAgent({ keepAlive: false });

  const key = Symbol.for("undici.globalDispatcher.1");
  const original = globalThis.fetch;
  globalThis.fetch = function fetch(...given) {
    if (!globalThis[key]?.isTokenVault) {
      original("data:,").catch(() => {}); // creates Node's own dispatcher, whose class isn't public
      const made = new globalThis[key].constructor({
        connect: ({ hostname, port, servername, protocol }, done) => {
          if (protocol === "https:") connect(hostname, port || 443, servername || hostname, done);
          else done(new Error("Token Vault: use https"));
        },
      });
      made.isTokenVault = true;
      globalThis[key] = made;
    }
    return original.apply(this, given);
  };
}
